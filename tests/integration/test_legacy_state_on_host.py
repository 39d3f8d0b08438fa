"""`legacy_state` against a real dockerd: what it refuses, and how the next run finishes one that died."""

import json
from typing import Any

import pytest
import yaml

from tests.integration.module_host import ModuleHost
from tests.lab_hosts import ROOT, fresh_host

pytestmark = pytest.mark.lab

INVENTORY: dict[str, Any] = yaml.safe_load((ROOT / "lab/older_product.yml").read_text())
MODULE = (ROOT / "library/legacy_state.py").read_text()
CRON_FILE = "/etc/cron.d/orchestrator"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ModuleHost:
    fresh_host("legacy")
    booted = ModuleHost("legacy", tmp_path_factory.mktemp("legacy"))
    booted.ssh(
        "cat > /root/older_product && sh /root/older_product", stdin=(ROOT / "lab/older_product").read_bytes()
    )
    return booted


def task(**changes: object) -> dict[str, Any]:
    return {"legacy_state": {"version": 1, "inventory": {**INVENTORY, **changes}}}


def containers(host: ModuleHost) -> list[str]:
    return sorted(host.ssh("docker ps --all --format '{{.Names}} {{.State}}'").splitlines())


def refusal(host: ModuleHost, **changes: object) -> str:
    """What a run is refused with; nothing was changed by it."""
    before = containers(host)
    result = host.call(task(**changes))
    assert result.failed, result.stdout
    assert result.task["removed"] == []
    assert containers(host) == before
    return result.message


def test_a_volume_that_a_container_which_stays_uses_is_not_removed(host: ModuleHost) -> None:
    said = refusal(host, volumes={**INVENTORY["volumes"], "shop_data": "remove"})
    assert said == "volume shop_data is to go, but container shop-web-1, which stays, uses it"


def test_a_path_over_a_symbolic_link_is_not_removed(host: ModuleHost) -> None:
    host.ssh("mkdir -p /srv/theirs/data && ln -sfn /srv/theirs /opt/shortcut")
    said = refusal(host, paths={"/opt/shortcut/data": "remove"})
    assert "a symbolic link, or no directory, is on the way" in said
    host.ssh("rm /opt/shortcut; test -d /srv/theirs/data")


def test_a_path_that_a_container_which_stays_has_mounted_is_not_removed(host: ModuleHost) -> None:
    said = refusal(host, projects={**INVENTORY["projects"], "orchestrator": "keep"}, images={})
    assert (
        said
        == "paths: /opt/orchestrator is to go, but container orchestrator-api-1, which stays, has it mounted"
    )


def test_a_path_with_a_mount_in_it_is_not_removed(host: ModuleHost) -> None:
    host.ssh("mkdir -p /opt/n8n/mnt /srv/theirs && mount --bind /srv/theirs /opt/n8n/mnt")
    said = refusal(host)
    host.ssh("umount /opt/n8n/mnt")
    assert said == "paths: /opt/n8n/mnt is mounted there: unmount it first"


def test_a_service_whose_socket_is_not_listed_is_not_removed(host: ModuleHost) -> None:
    units = {name: fate for name, fate in INVENTORY["units"].items() if name != "mcp-browser.socket"}
    assert "is started by mcp-browser.socket" in refusal(host, units=units)


def test_a_unit_of_a_package_is_not_removed(host: ModuleHost) -> None:
    assert "a package's or this platform's" in refusal(host, units={"cron.service": "remove"})


def test_a_site_without_which_nginx_does_not_start_is_put_back(host: ModuleHost) -> None:
    host.ssh("echo 'limit_req_zone $binary_remote_addr zone=shared:1m rate=9r/s;' > /etc/nginx/conf.d/shared")
    host.ssh("mv /etc/nginx/conf.d/shared /etc/nginx/conf.d/shared.conf")
    host.ssh(
        "printf 'server { listen 127.0.0.1:8083; limit_req zone=shared; return 204; }\\n' "
        "> /etc/nginx/sites-available/shop && nginx -t -q"
    )
    only = {"nginx_sites": {"shared.conf": "remove"}}
    result = host.call({"legacy_state": {"version": 1, "inventory": only}})
    assert result.failed
    assert "nginx refuses to be without these sites" in result.message
    host.ssh("nginx -t -q && test -f /etc/nginx/conf.d/shared.conf")


def test_a_run_that_was_killed_half_way_is_finished_by_the_next(host: ModuleHost) -> None:
    """Killed while a container that hears no signal is being stopped: units and cron are gone by then."""
    arguments = {**task()["legacy_state"], "_ansible_check_mode": False, "_ansible_diff": False}
    text = MODULE.replace("<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>", json.dumps(arguments))
    host.write("/root/killed.py", text)
    host.ssh("systemd-run --quiet --collect --unit=killed python3 /root/killed.py")
    host.wait_for(lambda: not host.ssh(f"ls {CRON_FILE} 2>/dev/null", check=False), "the cron file is gone")
    host.wait_for(lambda: "n8n-web-1 exited" in containers(host), "the first containers have ended")
    host.ssh("systemctl kill --signal=KILL killed.service")
    left = containers(host)
    assert "watchtower running" in left, "it was too late to kill it"
    result = host.call(task())
    assert result.changed
    assert containers(host) == ["shop-web-1 running"]
    host.ssh("! systemctl cat orchestrator-agent.timer mcp-browser.socket 2>/dev/null && ! test -e /opt/n8n")
    assert not host.call(task()).changed


def test_dockerd_is_not_started_to_remove_what_it_holds(host: ModuleHost) -> None:
    host.ssh("systemctl stop docker.service")  # its socket would start it again
    for options in (["--check"], []):
        result = host.call(task(projects={"shop": "remove"}), *options)
        assert result.failed
        assert "dockerd is not running" in result.message
        assert "systemctl start docker.service" in result.message
    assert host.ssh("systemctl is-active docker.service", check=False) == "inactive"
    host.ssh("systemctl start docker.service")
