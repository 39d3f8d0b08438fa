"""The static provider: machines listed in a file, schema v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantfleet.model.errors import EnvironmentMissingError
from tenantfleet.model.machine import Machine, MachineList

if TYPE_CHECKING:
    from pathlib import Path


def read_machines(path: Path) -> tuple[Machine, ...]:
    """Read machines.yml, in the file's order.

    Raises:
        EnvironmentMissingError: `machines.missing`, when there is no such file.
        InputRefusedError: when it is not schema v1.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise EnvironmentMissingError(
            f"the list of machines {path} cannot be read: {error.strerror}",
            code="machines.missing",
            hint="Boot the lab (`lab up NAME`), or correct provider.machines in settings.yml.",
        ) from None
    return MachineList.parse(text, kind="machines").machines
