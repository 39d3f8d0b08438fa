"""What the inventory plugin `tenantfleet` knows: machines of a provider, joined with the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tenantfleet.app.fleet import fleet_hosts
from tenantfleet.model.document import Document
from tenantfleet.model.settings import EnvironmentName  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.inventory.render import FleetHost


class SourceFile(Document):
    """`*.tenantfleet.yml`: where the machines of an environment come from."""

    plugin: Literal["tenantfleet"]
    environment: EnvironmentName
    provider: Literal["static"]
    machines: str = "machines.yml"


def hosts_of_source(path: Path, *, home: Path) -> tuple[FleetHost, ...]:
    """The hosts that a source file names.

    Args:
        path: of the source file; `machines` in it is relative to it.
        home: state directory with the environments' ledgers; tenants are known only where their ledger is.

    Raises:
        TenantfleetError: the source, or the list of machines, is not what its schema says.
    """
    source = SourceFile.parse(path.read_text(encoding="utf-8"), kind="source")
    return fleet_hosts(path.parent / source.machines, ledger=home / source.environment / "ledger.sqlite")
