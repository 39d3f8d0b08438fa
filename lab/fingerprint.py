"""How a host is set up, comparable with another host: files, units, containers, accounts, rules."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lab.fleet import ROOT
from lab.host import Host
from lab.state import Lab, LabError

_PROGRAM = Path(__file__).with_name("fingerprint_on_host.py")

type Fingerprint = dict[str, str]


def fingerprint(lab: Lab, name: str, *, own: Mapping[str, str] | None = None) -> Fingerprint:
    """One text for each thing of a host; what is not compared stands with its reason in the program.

    Args:
        lab: the host's lab.
        name: the host's.
        own: further words that are this host's own, such as its tenant's id, and what stands in for each.

    Raises:
        LabError: the host did not answer with one.
    """
    host = Host.load(lab, name)
    words = {
        f"lab-{name}": "<machine>",
        f"{name}.lab.test": "<host>",
        host.address: "<address>",
        host.address6: "<address6>",
        host.machine_uuid.replace("-", ""): "<machine-id>",
        **(own or {}),
    }
    command = [str(ROOT / ".venv/bin/lab"), "exec", name, "--", "/usr/bin/python3", "-", json.dumps(words)]
    done = subprocess.run(command, input=_PROGRAM.read_text(), check=False, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{name} gives no fingerprint: {done.stderr[-1500:]}")
    found: Fingerprint = json.loads(done.stdout)
    return found


def differences(one: Fingerprint, other: Fingerprint) -> list[str]:
    """A line for each thing that the two do not share."""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return [f"{name}: {one.get(name, 'not there')} | {other.get(name, 'not there')}" for name in names]
