"""Lab hosts of a benchmark: up, made tenants by plain Ansible, and looked at from outside of every way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import fleet
from lab.host import Host
from lab.state import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.state import Lab

LAB = str(Path(sys.executable).parent / "lab")
LOOK = Path(__file__).parent / "on_host/look.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a host is: its things by name, and what on_host/look.py found besides."""

    state: Mapping[str, str]
    found: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.state), sort_keys=True).encode()).hexdigest()

    def differs_from(self, later: Look) -> list[str]:
        names = sorted(self.state.keys() | later.state.keys())
        pairs = [(name, self.state.get(name, "nothing"), later.state.get(name, "nothing")) for name in names]
        return [f"{name}: {old} => {new}" for name, old, new in pairs if old != new]


def up(lab: Lab, names: Sequence[str]) -> dict[str, Host]:
    """Boot the hosts that are not up; inventory name → host.

    Raises:
        LabError: one does not come up.
    """
    subprocess.run([LAB, "up", *names], check=True, cwd=fleet.ROOT, stdout=sys.stderr)
    return {f"lab-{name}": Host.load(lab, name) for name in names}


def inventory(lab: Lab, hosts: Mapping[str, Host]) -> dict[str, Any]:
    """What the lab says to playbooks of just these hosts."""
    whole = fleet.inventory(lab, only=None)["_meta"]["hostvars"]
    if missing := hosts.keys() - whole.keys():
        raise LabError(f"not in the lab's inventory: {', '.join(sorted(missing))}")
    return {"tenants": {"hosts": list(hosts)}, "_meta": {"hostvars": {name: whole[name] for name in hosts}}}


def look(hosts: Mapping[str, Host]) -> dict[str, Look]:
    """Look at all hosts at once, not over SSH."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(hosts, pool.map(_look, hosts.values()), strict=True))


def _look(host: Host) -> Look:
    argv = [LAB, "exec", host.name, "--", "/usr/bin/python3", "-I", "-B", "-"]
    done = subprocess.run(argv, input=LOOK.read_text(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{host.name} cannot be looked at: {done.stderr[-800:]}")
    return Look(**json.loads(done.stdout))
