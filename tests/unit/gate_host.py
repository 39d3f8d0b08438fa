"""A host's run gate on this machine: the role's own scripts in a test's folder, and an ssh to them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FILES = Path(__file__).parents[2] / "roles/baseline/files"

# The server's half: sets what AcceptEnv lets in, and runs the forced command of the host at that address.
SSH = """#!/bin/sh
for word; do
  case $word in SetEnv=*) export "${{word#SetEnv=}}" ;; esac
  address=$command command=$word
done
SSH_ORIGINAL_COMMAND=$command exec {hosts}/"$address"/run-gate
"""
# Debian's programs, without an account and a service manager: they run what they are given.
SUDO = """#!/bin/sh
[ "$1" = -n ] && shift
exec "$@"
"""
SYSTEMD_RUN = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
program=$2 number=$4 seconds=$5
exec "$program" "$number" "$seconds"
"""


class GateHost:
    """The files of one host, below `root`."""

    def __init__(self, root: Path, *, record: str | None = "1 acquired\n") -> None:
        self.root = root
        self.state = root / "state"
        self.state.mkdir(parents=True)
        (self.state / "lock").touch()
        if record is not None:
            (self.state / "number").write_text(record)
        moved = {
            "/var/lib/tenantfleet/run": str(self.state),
            "/usr/local/lib/tenantfleet/run-acquire": str(root / "run-acquire"),
            "/var/lib/tenantfleet/lockout": str(root / "lockout"),
            "/usr/local/lib/tenantfleet/lockout-guard": str(root / "lockout-guard"),
            "/etc/sudoers.d/tenantfleet": str(root / "sudoers"),
            "/usr/bin/sudo": str(root / "sudo"),
            "/usr/bin/systemd-run": str(root / "systemd-run"),
            "/sys/fs/cgroup": str(root / "cgroup"),
        }
        programs = {
            "run-gate": (FILES / "run-gate").read_text(),
            "run-acquire": (FILES / "run_acquire.py").read_text(),
            "sudo": SUDO,
            "systemd-run": SYSTEMD_RUN,
        }
        for name, text in programs.items():
            for place, ours in moved.items():
                text = text.replace(place, ours)  # noqa: PLW2901 - one replacement after the other
            (root / name).write_text(text)
            (root / name).chmod(0o755)

    def arm(self, *, enrolled: bool, guard: str) -> None:
        """Leave a change that nobody proved, under a lock-out guard that does as the shell script says."""
        (self.root / "lockout").mkdir()
        (self.root / "lockout/armed.json").touch()
        (self.root / "lockout-guard").write_text(f"#!/bin/sh\n{guard}\n")
        (self.root / "lockout-guard").chmod(0o755)
        if enrolled:
            (self.root / "sudoers").touch()

    def record(self) -> str:
        return (self.state / "number").read_text()

    def send(self, command: str, *, run: int | str | None) -> subprocess.CompletedProcess[str]:
        """Send a command as sshd hands it to the gate."""
        environment = {**os.environ, "SSH_ORIGINAL_COMMAND": command}
        if run is not None:
            environment["TENANTFLEET_RUN_NUMBER"] = str(run)
        return subprocess.run(
            [self.root / "run-gate"], env=environment, capture_output=True, text=True, check=False, timeout=60
        )


def install_ssh(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an `ssh` on PATH that leads to the folder of `hosts` that is named as the address."""
    folder = hosts / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(SSH.format(hosts=hosts))
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
