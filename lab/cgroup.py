"""Control groups: how the lab finds and ends exactly the processes that it started.

Everything that runs for a lab sits in `tenantfleet-lab-<id>/`, so no pid is ever written down, and none can
be mistaken for another after a crash: a group knows its members.
"""

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from lab.state import Lab, LabError


def _mount_point() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        root, where = left.split()[3:5]
        if right.split()[0] == "cgroup2" and root == "/":
            return Path(where)
    raise LabError(
        "no cgroup2 is mounted: mkdir -p /sys/fs/cgroup/unified && "
        "mount -t cgroup2 none /sys/fs/cgroup/unified"
    )


@dataclass(frozen=True)
class Group:
    """A control group of ours, existing or not."""

    path: Path

    @classmethod
    def of(cls, lab: Lab, *parts: str) -> "Group":
        return cls(_mount_point().joinpath(f"tenantfleet-lab-{lab.id}", *parts))

    def create(self) -> None:
        """Make the group, handing down whatever controllers this machine has."""
        top = _mount_point()
        self.path.mkdir(parents=True, exist_ok=True)
        for parent in reversed(self.path.relative_to(top).parents):
            folder = top / parent
            for controller in (folder / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")

    def enter(self) -> None:
        """Move this process in. Raises FileNotFoundError when the group was taken away."""
        (self.path / "cgroup.procs").write_text("0")

    def pids(self) -> list[int]:
        """Members of this group itself, without its children, as this machine numbers them."""
        try:
            return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def populated(self) -> bool:
        """Whether anything runs in it or below."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except OSError:
            return False

    def kill(self) -> None:
        """Kill all in it and below at once, like a power cut. Returns before they are gone."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self, *, timeout_s: float = 20) -> None:
        """Kill and remove the whole tree. Raises LabError when something will not die."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.kill()
            try:
                for folder, _, _ in os.walk(self.path, topdown=False):
                    Path(folder).rmdir()
            except OSError as problem:
                if problem.errno not in {errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY}:
                    raise
            if not self.path.exists():
                return
            time.sleep(0.01)
        raise LabError(f"processes in {self.path} do not end")
