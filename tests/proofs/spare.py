"""A host that no tenant has yet, for what must be tried on a bare machine."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.control import Control
from lab.fingerprint import Fingerprint, fingerprint
from lab.fleet import ROOT
from lab.host import Host
from lab.state import Lab

# what a module of the read-only account runs in, which becomes nobody else
PYTHON = b"/usr/bin/python3\0"


@dataclass(frozen=True, kw_only=True)
class Spare:
    """The host, and control planes that know it only."""

    lab: Lab
    name: str

    @property
    def machine_id(self) -> str:
        return f"lab-{self.name}"

    def reinstall(self) -> None:
        self._lab("reset", self.name)

    def power_off(self) -> None:
        self._lab("stop", self.name)

    def power_on(self) -> None:
        self._lab("up", self.name)

    def _lab(self, *argv: str) -> None:
        subprocess.run([str(ROOT / ".venv/bin/lab"), *argv], check=True)

    def run(self, script: str, *argv: str) -> str:
        """Run a shell script as the host's root and return what it prints."""
        command = [str(ROOT / ".venv/bin/lab"), "exec", self.name, "--", "sh", "-euc", script, "sh", *argv]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    def control(self, home: Path, **changes: str) -> Control:
        """A control plane whose list of machines holds this host alone; `changes` are fields of its entry."""
        control = Control(lab=self.lab, home=home, hosts=(self.name,), changes=changes)
        control.init()
        return control

    def fingerprint(self, tenant: str) -> Fingerprint:
        return fingerprint(self.lab, self.name, own={tenant: "<tenant>"})

    def run_numbers(self) -> set[int]:
        """The one run that the host belongs to; none before first contact."""
        said = self.run("cut -d' ' -f1 /var/lib/tenantfleet/run/number 2>/dev/null || true")
        return set(map(int, said.split()))

    def serves_somebody(self) -> bool:
        """Whether a process of a login is alive: a session's, or one that outlived it."""
        logins = Host.load(self.lab, self.name).inside.path / "user.slice/cgroup.events"
        return logins.exists() and "populated 1" in logins.read_text()

    def runs_a_task(self) -> bool:
        """Whether a task of Ansible is at work on it at this moment."""
        inside = Host.load(self.lab, self.name).inside.path
        for members in inside.glob("user.slice/**/cgroup.procs"):
            for pid in members.read_text().split():
                try:
                    said = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if b"BECOME-SUCCESS" in said or said.startswith(PYTHON):
                    return True
        return False
