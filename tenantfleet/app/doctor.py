"""What this machine has and lacks for the driver, and for each tier of tests."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tenantfleet.execution.workspace import open_workspace
from tenantfleet.model.errors import TenantfleetError
from tenantfleet.workflow.sqlite import knows_subseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantfleet.app.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `hint` is the next step when it is not ok."""

    name: str
    ok: bool
    said: str
    hint: str = ""


_PROGRAMS = {"ssh": "openssh-client", "flock": "util-linux", "setpriv": "util-linux", "unshare": "util-linux"}
_LAB_PROGRAMS = {"ip": "iproute2", "nft": "nftables", "mount": "mount", "unshare": "util-linux"}


def examine_machine(project: Path) -> Iterator[Finding]:
    """What the driver needs of this machine."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="python", ok=sys.version_info >= (3, 12), said=version, hint="Run script/bootstrap.")
    shim = "" if knows_subseconds() else ", with our own unixepoch()"
    yield Finding(
        name="sqlite", ok=sqlite3.sqlite_version_info >= (3, 35), said=sqlite3.sqlite_version + shim
    )
    yield from _programs(_PROGRAMS)
    yield Finding(
        name="project",
        ok=(project / "ansible.cfg").is_file(),
        said=str(project),
        hint="Run tenantfleet from a clone of the repository, or set TENANTFLEET_PROJECT.",
    )
    try:
        with open_workspace() as workspace:
            yield Finding(name="memory", ok=True, said=str(workspace.root.parent))
    except TenantfleetError as error:
        yield Finding(name="memory", ok=False, said=error.cause, hint=error.hint)


def examine_environment(environment: Environment) -> Iterator[Finding]:
    """What one environment has."""
    yield Finding(name="environment", ok=True, said=str(environment.root))
    yield Finding(name="recipient", ok=True, said=environment.recipients[0])
    yield Finding(name="recovery recipient", ok=True, said=environment.recipients[1])
    yield Finding(name="ssh user CA", ok=True, said=environment.ssh_user_ca)
    try:
        machines = environment.machines()
        yield Finding(
            name="machines",
            ok=bool(machines),
            said=f"{len(machines)} listed",
            hint="Add machines to machines.yml.",
        )
    except TenantfleetError as error:
        yield Finding(name="machines", ok=False, said=error.cause, hint=error.hint)
    key = environment.settings.first_contact_key
    readable = key is not None and os.access(environment.path(key), os.R_OK)
    yield Finding(
        name="first contact key",
        ok=readable,
        said=key or "not set",
        hint="`tenantfleet init --first-contact-key FILE`",
    )


def examine_runner(project: Path) -> Iterator[Finding]:
    """Which tiers of tests this machine can run, and why not."""
    yield Finding(
        name="script/check",
        ok=(project / ".venv").is_dir(),
        said="lint, types, unit tests",
        hint="Run script/bootstrap.",
    )
    lacks = [finding.name for finding in _programs(_LAB_PROGRAMS) if not finding.ok]
    if os.geteuid() != 0:
        lacks.append("root")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and not Path("/sys/fs/cgroup/unified").exists():
        lacks.append("cgroup v2")
    said = "boots lab hosts" if not lacks else f"lacks {', '.join(lacks)}"
    yield Finding(name="script/test", ok=not lacks, said=said, hint="Run as root on Debian 12 or 13.")


def _programs(packages: dict[str, str]) -> Iterator[Finding]:
    for program, package in packages.items():
        found = shutil.which(program)
        yield Finding(
            name=program, ok=found is not None, said=found or "missing", hint=f"apt-get install {package}"
        )
