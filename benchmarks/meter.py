"""CPU time by control group: has the SSH masters and orphans that rusage misses; ends what was started."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.cgroup import Group

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lab.host import Host
    from lab.state import Lab

# The tenant's own programs work for nobody's run; what they use is taken off.
OWN_SERVICES = ("openclaw.service", "tf-egress.service", "tf-wrapper.service", "tf-link.service")


def cpu_s(group: Path) -> float:
    """CPU seconds of a group and all below since it was made; 0 when there is none."""
    try:
        lines = (group / "cpu.stat").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6


def host_cpu_s(host: Host) -> float:
    """CPU seconds of a lab host without the tenant's own services."""
    slices = host.inside.path / "system.slice"
    return cpu_s(host.group.path) - sum(cpu_s(slices / name) for name in OWN_SERVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    exit_code: int
    wall_s: float
    cpu_s: float


@contextmanager
def _group(lab: Lab) -> Iterator[Group]:
    group = Group.of(lab, f"bench-{os.getpid()}")
    group.create()
    try:
        yield group
    finally:
        group.remove()


def run(lab: Lab, argv: Sequence[str], *, environment: Mapping[str, str], log: Path, cwd: Path) -> Used:
    """Run a command in a control group of its own; what outlives it is counted to its end, then ended."""
    with _group(lab) as group, log.open("wb") as output:
        began = time.monotonic()
        done = subprocess.run(
            ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group.path), *argv],
            check=False,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
        )
        wall_s = time.monotonic() - began
        return Used(exit_code=done.returncode, wall_s=wall_s, cpu_s=cpu_s(group.path))
