"""The ways to bring hosts to their state: the role set, and stock modules in two settings."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import hosts as on_hosts
from benchmarks import meter
from benchmarks.figures import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.hosts import Look
    from benchmarks.wire import Wire
    from lab.host import Host
    from lab.state import Lab

ROOT = Path(__file__).resolve().parents[1]
CALLBACKS = ROOT / "benchmarks/callbacks"
OURS, DEFAULT, TUNED = "tenantfleet", "stock", "stock tuned"
# Ansible as it comes: five forks, facts, no pipelining, the interpreter looked for.
DEFAULT_SETTINGS = "[defaults]\n"
# as the role set's own: fast where it can be had by settings
TUNED_SETTINGS = """[defaults]
forks = 20
gathering = explicit
strategy = free
interpreter_python = /usr/bin/python3
[connection]
pipelining = True
[ssh_connection]
ssh_args = -o Compression=yes -o ControlMaster=auto -o ControlPersist=60s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A playbook under some settings; `config`: its ansible.cfg."""

    name: str
    playbook: Path
    config: Path


def role_set() -> Way:
    return Way(name=OURS, playbook=ROOT / "playbooks/tenant_provision.yml", config=ROOT / "ansible.cfg")


def stock(folder: Path) -> tuple[Way, Way]:
    """Both settings of the stock playbook in `folder`."""
    made = []
    for name, settings in ((DEFAULT, DEFAULT_SETTINGS), (TUNED, TUNED_SETTINGS)):
        config = folder / f"{name.replace(' ', '_')}.cfg"
        config.write_text(settings)
        made.append(Way(name=name, playbook=folder / "site.yml", config=config))
    return made[0], made[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a run said of itself, and what it used."""

    used: meter.Used
    summary: Mapping[str, Mapping[str, int]]
    log: str

    def counted(self, key: str) -> dict[str, int]:
        return {host: int(values[key]) for host, values in self.summary.items()}

    @property
    def bad(self) -> int:
        return sum(values["failures"] + values["unreachable"] for values in self.summary.values())


def play(lab: Lab, way: Way, inventory: Mapping[str, Any], *, declared: Path | None = None) -> Account:
    """Run one way once, with connections, caches and folders of its own."""
    with tempfile.TemporaryDirectory(prefix="tfb-") as scratch:
        place = Path(scratch)
        (place / "hosts.json").write_text(json.dumps(yaml_document(inventory)))
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.environ.get("HOME", "/root"),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_CONFIG": str(way.config),
            "ANSIBLE_HOME": str(place / "home"),
            "ANSIBLE_LOCAL_TEMP": str(place / "tmp"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place / "cp"),
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "bench_account",
            "BENCH_ACCOUNT": str(place / "account.json"),
        }
        if declared:
            environment["BENCH_DECLARED"] = str(declared)
        program = str(Path(sys.executable).parent / "ansible-playbook")
        argv = [program, "-i", str(place / "hosts.json"), str(way.playbook)]
        used = meter.run(lab, argv, environment=environment, log=place / "log", cwd=ROOT)
        told = place / "account.json"
        summary = json.loads(told.read_text()) if told.exists() else {}
        return Account(used=used, summary=summary, log=(place / "log").read_text(errors="replace"))


def yaml_document(inventory: Mapping[str, Any]) -> dict[str, Any]:
    """The lab's inventory as the document of Ansible's yaml plugin, which every setting can read."""
    hosts = {name: inventory["_meta"]["hostvars"][name] for name in inventory["tenants"]["hosts"]}
    return {"all": {"children": {"tenants": {"hosts": hosts}}}}


def through(wire: Wire, inventory: Mapping[str, Any]) -> dict[str, Any]:
    """The same inventory with every host behind the counting proxy."""
    variables = {
        name: {**values, "ansible_host": "127.0.0.1", "ansible_port": wire.ports[name]}
        for name, values in inventory["_meta"]["hostvars"].items()
    }
    return {"tenants": inventory["tenants"], "_meta": {"hostvars": variables}}


@dataclass(kw_only=True)
class Bench:
    """What rows are measured with; `looks`: how each host was when last looked at."""

    lab: Lab
    hosts: Mapping[str, Host]
    inventory: Mapping[str, Any]
    wire: Wire
    looks: dict[str, Look]

    def row(self, way: Way, number: int) -> tuple[Row, str]:
        """Run a way once and measure it; the row, and what Ansible printed."""
        before = self.looks
        cpu = {name: meter.host_cpu_s(host) for name, host in self.hosts.items()}
        self.wire.taken()
        account = play(self.lab, way, through(self.wire, self.inventory))
        passed = self.wire.taken()
        hosts_cpu_s = sum(meter.host_cpu_s(host) - cpu[name] for name, host in self.hosts.items())
        self.looks = on_hosts.look(self.hosts)
        row = Row(
            way=way.name,
            round=number,
            exit_code=account.used.exit_code,
            ok=account.counted("ok"),
            changed=account.counted("changed"),
            bad=account.bad,
            states={name: (before[name].digest, self.looks[name].digest) for name in self.hosts},
            wall_s=round(account.used.wall_s, 2),
            controller_cpu_s=round(account.used.cpu_s, 3),
            hosts_cpu_s=round(hosts_cpu_s, 3),
            connections=passed.connections,
            sent=passed.sent,
            received=passed.received,
            turns=passed.turns,
            detail=[line for name in self.hosts for line in before[name].differs_from(self.looks[name])],
        )
        return row, account.log
