"""An older product leaves a tenant's machine, by exact names; what is kept and what nobody listed stays.

dockerd, compose, cron, nginx and systemd are real; the images are a static busybox under the product's names.
The tests follow one another on one machine: listed, removed, unchanged, after a power cut, docker gone.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.lab_hosts import ROOT, cut_the_power
from tests.proofs.tenants import Fleet, Tenant

pytestmark = pytest.mark.lab

DECLARED: dict[str, Any] = yaml.safe_load((ROOT / "lab/older_product.yml").read_text())
NOT_CLEAN, DONE = 20, 0
# an empty folder that some versions of it make at their start, others do not
CONTAINERDS_OWN = {"containerd"}
DATA = {
    "n8n_data/_data/flows.json": '{"flow": "of a customer"}\n',
    "orchestrator_db/_data/rows": "rows of a customer\n",
    "orchestrator_db/_data/state": "closed\n",
    "shop_data/_data/orders": "orders of somebody else\n",
}
# Everything that the product, or a clean-up that goes too far, could change; times of files included.
EVERYTHING = r"""
docker ps --all --no-trunc --format '{{.ID}} {{.Names}} {{.State}}' | sort
docker network ls --no-trunc --format '{{.ID}} {{.Name}}' | sort
docker volume ls --format '{{.Name}}' | sort
docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort
docker inspect --format '{{.Name}} {{.State.StartedAt}} {{.HostConfig.RestartPolicy.Name}}' $(docker ps -aq)
podman ps --all --no-trunc --format '{{.ID}} {{.StartedAt}}'
find /opt /etc/cron.d /etc/nginx /etc/systemd /var/spool/cron /var/lib/docker/volumes -xdev \
  -printf '%p %i %T@ %s\n' | sort
systemctl list-unit-files --no-legend | sort
systemctl list-units --all --no-legend --plain 'orch*' 'mcp*' 'docker*' 'cron*' 'nginx*'
"""
PODMAN = "podman ps --all --no-trunc --format '{{.ID}} {{.StartedAt}} {{.Status}}' | cut -d' ' -f1,2"


@dataclass(frozen=True)
class Machine:
    """A tenant's machine on which an older product runs."""

    fleet: Fleet
    tenant: Tenant

    @property
    def name(self) -> str:
        return self.tenant.agent.host

    def sh(self, script: str) -> str:
        return self.tenant.agent.on_host("sh", "-c", script).stdout

    def clean(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Run the operator's command; its exit code, and what became of the machine."""
        done = self.fleet.control.run("legacy-cleanup", f"lab-{self.name}", "--json", *options, check=False)
        assert done.stdout, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, outcome["hosts"][0]

    def declare(self, declared: dict[str, Any]) -> None:
        path = self.fleet.control.home / "settings-dev.yml"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({**settings, "legacy": declared}))
        self.fleet.control.run("init", "--settings", str(path))

    def power_cut(self) -> None:
        cut_the_power(self.name)
        self.wait_for(
            lambda: "active" in self.sh("systemctl is-active openclaw").split(), "the gateway is back"
        )

    def wait_for(self, condition: Callable[[], object], what: str, deadline_s: float = 180) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"never so: {what}\n{self.sh('journalctl -b -n 80 --no-pager')}"
            time.sleep(0.5)

    def containers(self) -> list[str]:
        return self.sh("docker ps --all --format '{{.Names}} {{.State}}' | sort").splitlines()

    def data(self) -> dict[str, str]:
        return {name: self.sh(f"cat /var/lib/docker/volumes/{name}") for name in DATA}


@pytest.fixture(scope="module")
def machine(provisioned: Fleet) -> Iterator[Machine]:
    chosen = Machine(provisioned, provisioned.tenants[1])
    product = (ROOT / "lab/older_product").read_text()
    made = chosen.tenant.agent.on_host("sh", "-c", product)
    assert made.returncode == 0, made.stdout + made.stderr
    chosen.declare(DECLARED)
    yield chosen
    chosen.declare({})


def named(host: dict[str, Any], fate: str) -> set[str]:
    return {f"{thing['kind']} {thing['name']}" for thing in host["report"]["things"] if thing["fate"] == fate}


def everything(kinds: dict[str, str]) -> set[str]:
    """What the declaration wants removed, kind by kind, as the report names it."""
    return {
        f"{kind} {name}"
        for key, kind in kinds.items()
        for name, fate in DECLARED[key].items()
        if fate == "remove"
    }


def test_a_dry_run_lists_what_would_go_and_changes_nothing(machine: Machine) -> None:
    before = machine.sh(EVERYTHING)
    code, host = machine.clean("--dry-run")
    assert machine.sh(EVERYTHING) == before
    assert (code, host["state"]) == (NOT_CLEAN, "ok")
    own = {"units": "unit", "cron_files": "cron file", "nginx_sites": "nginx site", "paths": "path"}
    expected = everything({**own, "images": "image", "volumes": "volume", "containers": "container"})
    expected |= {f"network {name}_default" for name in DECLARED["projects"]}
    expected |= {"crontab root: */5 * * * * /opt/n8n/backup --all"}
    expected |= {
        f"container {name}-1"
        for name in ("n8n-web", "portainer-portainer", "orchestrator-api", "orchestrator-db")
    }
    assert named(host, "remove") == expected
    assert {"volume n8n_data", "volume orchestrator_db"} <= named(host, "keep")
    assert "project shop" in named(host, "unknown")


def test_a_run_removes_what_is_listed_and_nothing_else(machine: Machine) -> None:
    tenants_own = machine.sh(PODMAN)
    code, host = machine.clean()
    assert (code, host["state"]) == (NOT_CLEAN, "ok"), host
    assert host["changed"] == 1
    assert machine.containers() == ["shop-web-1 running"]
    assert machine.sh("docker volume ls --format '{{.Name}}' | sort").split() == [
        "n8n_data",
        "orchestrator_db",
        "shop_data",
    ]
    assert machine.sh("docker images --format '{{.Repository}}'").split() == ["older/shop"]
    assert machine.data() == DATA
    assert set(machine.sh("ls /opt").split()) - CONTAINERDS_OWN == {"shop", "tenantfleet"}
    assert machine.sh("crontab -l").splitlines() == [
        "# the older product",
        "@daily /usr/local/bin/report --password hunter2",
    ]
    assert machine.sh(PODMAN) == tenants_own


def test_what_nobody_listed_survives_and_is_reported_without_its_secrets(machine: Machine) -> None:
    code, host = machine.clean("--dry-run")
    assert code == NOT_CLEAN
    assert named(host, "remove") == set()
    (line, _, _) = machine.sh("grep -n @daily /var/spool/cron/crontabs/root").partition(":")
    assert named(host, "unknown") == {
        "project shop",
        "container shop-web-1",
        "network shop_default",
        "volume shop_data",
        "image older/shop:1",
        "nginx site shop",
        "path /opt/shop",
        f"crontab root: line {line}: @daily /usr/local/bin/report …",
    }
    assert "hunter2" not in json.dumps(host)
    assert machine.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8083/") == "204"


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    before = machine.sh(EVERYTHING)
    code, host = machine.clean()
    assert (code, host["state"], host["changed"]) == (NOT_CLEAN, "ok", 0)
    assert machine.sh(EVERYTHING) == before


def test_after_a_power_cut_nothing_of_it_is_back(machine: Machine) -> None:
    machine.power_cut()
    machine.wait_for(lambda: machine.containers() == ["shop-web-1 running"], "only what nobody listed runs")
    assert machine.data()["n8n_data/_data/flows.json"] == DATA["n8n_data/_data/flows.json"]
    gone = machine.sh(
        "systemctl show --value --property=LoadState orchestrator-agent.service mcp-browser.socket"
    )
    assert gone.split() == ["not-found", "not-found"]
    code, host = machine.clean()
    assert (code, host["changed"]) == (NOT_CLEAN, 0)


def test_docker_goes_when_nobody_needs_it_and_kept_data_stays_on_disk(machine: Machine) -> None:
    everyones = {
        **DECLARED,
        "projects": {**DECLARED["projects"], "shop": "remove"},
        "images": {**DECLARED["images"], "older/shop:1": "remove"},
        "volumes": {**DECLARED["volumes"], "shop_data": "keep"},
        "nginx_sites": {**DECLARED["nginx_sites"], "shop": "remove"},
        "paths": {**DECLARED["paths"], "/opt/shop": "remove"},
        "crontabs": {"root": {"@daily /usr/local/bin/report --password hunter2": "remove"}},
    }
    machine.declare(everyones)
    code, host = machine.clean()
    assert (code, host["report"]["clean"], host["changed"]) == (DONE, True, 1), host
    machine.power_cut()
    assert (
        machine.sh("systemctl is-active docker.service docker.socket containerd.service").split()
        == ["inactive"] * 3
    )
    assert machine.sh("ls /sys/class/net").split() == ["eth0", "lo"]
    assert {name: text for name, text in machine.data().items() if "state" not in name} == {
        name: text for name, text in DATA.items() if "state" not in name
    }
    code, host = machine.clean()
    assert (code, host["changed"], named(host, "unknown")) == (DONE, 0, set())
    assert named(host, "keep") - {"path /opt/containerd"} == {
        "volume n8n_data",
        "volume orchestrator_db",
        "volume shop_data",
    }


def test_the_tenant_is_as_guarded_as_before(machine: Machine) -> None:
    machine.fleet.control.run("verify", machine.tenant.id)
    drift = machine.fleet.control.run("drift", machine.tenant.id, check=False)
    assert drift.returncode == DONE, drift.stdout + drift.stderr
