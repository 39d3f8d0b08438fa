"""Claims: one machine belongs to one tenant at most, one tenant has one machine at most."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tenantfleet.model.errors import ConflictError, InputRefusedError, NoMachineError
from tenantfleet.model.order import utc_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from datetime import datetime

    from tenantfleet.inventory.database import LedgerDatabase
    from tenantfleet.model.machine import Machine


class MachineState(StrEnum):
    FREE = "free"
    CLAIMED = "claimed"
    DIRTY = "dirty"  # a tenant was on it: must be reinstalled before the next one


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    machine_id: str
    region: str
    state: MachineState
    tenant_id: str | None
    enrolled: bool


_RECORD = """
SELECT machine.machine_id, region, dirty, enrolled_at, tenant_id, order_id
FROM machine LEFT JOIN claim USING (machine_id)
"""


class MachineLedger:
    """The tables `machine` and `claim`."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def learn(self, machines: Iterable[Machine]) -> None:
        """Take note of the machines that a provider lists; what the ledger knows of them stays."""
        with self._database.transaction() as ledger:
            ledger.executemany(
                "INSERT INTO machine (machine_id, region) VALUES (?, ?)"
                " ON CONFLICT (machine_id) DO UPDATE SET region = excluded.region",
                [(machine.id, machine.region) for machine in machines],
            )

    def records(self) -> tuple[MachineRecord, ...]:
        with self._database.transaction() as ledger:
            return tuple(_record(row) for row in ledger.execute(_RECORD + "ORDER BY machine.machine_id"))

    def of_tenant(self, tenant_id: str) -> MachineRecord | None:
        with self._database.transaction() as ledger:
            row = ledger.execute(_RECORD + "WHERE tenant_id = ?", (tenant_id,)).fetchone()
        return None if row is None else _record(row)

    def claim(
        self, *, tenant_id: str, order_id: str, region: str, candidates: Iterable[str], now: datetime
    ) -> MachineRecord:
        """Give the tenant its machine: the one that it has, else the first free candidate of the region.

        Args:
            tenant_id: who gets it.
            order_id: the order on whose behalf.
            region: the region that the order names.
            candidates: machine ids that the provider lists now, in order of preference.
            now: time of the claim.

        Raises:
            NoMachineError: `machine.none_free`.
            ConflictError: `tenant.other_region`, when the tenant's machine stands elsewhere.
        """
        with self._database.transaction() as ledger:
            held = ledger.execute(_RECORD + "WHERE tenant_id = ?", (tenant_id,)).fetchone()
            if held is not None:
                return _same_region(_record(held), region)
            for machine_id in candidates:
                if self._take(ledger, machine_id, region, (tenant_id, order_id, utc_text(now))):
                    row = ledger.execute(_RECORD + "WHERE machine.machine_id = ?", (machine_id,)).fetchone()
                    return _record(row)
        raise NoMachineError(
            f"no machine is free in {region}",
            code="machine.none_free",
            hint=f"Add a machine of region {region}, or mark a reinstalled one:"
            " `tenantfleet inventory reinstalled MACHINE`.",
        )

    @staticmethod
    def _take(ledger: sqlite3.Connection, machine_id: str, region: str, claim: tuple[str, str, str]) -> bool:
        taken = ledger.execute(
            "INSERT INTO claim (machine_id, tenant_id, order_id, claimed_at)"
            " SELECT machine_id, ?, ?, ? FROM machine WHERE machine_id = ? AND region = ? AND dirty = 0"
            " ON CONFLICT (machine_id) DO NOTHING",
            (*claim, machine_id, region),
        )
        return taken.rowcount == 1

    def release(self, tenant_id: str) -> None:
        """Take the machine from the tenant; nobody gets it before it is reinstalled."""
        with self._database.transaction() as ledger:
            ledger.execute(
                "UPDATE machine SET dirty = 1"
                " WHERE machine_id IN (SELECT machine_id FROM claim WHERE tenant_id = ?)",
                (tenant_id,),
            )
            ledger.execute("DELETE FROM claim WHERE tenant_id = ?", (tenant_id,))

    def mark_enrolled(self, machine_id: str, *, now: datetime) -> None:
        """The fleet's own account works on the machine: first contact is over for good."""
        with self._database.transaction() as ledger:
            ledger.execute(
                "UPDATE machine SET enrolled_at = coalesce(enrolled_at, ?) WHERE machine_id = ?",
                (utc_text(now), machine_id),
            )

    def mark_reinstalled(self, machine_id: str) -> None:
        """A person says that the machine is pristine again: it must be enrolled anew, and may be claimed.

        Raises:
            InputRefusedError: `machine.unknown`.
        """
        with self._database.transaction() as ledger:
            changed = ledger.execute(
                "UPDATE machine SET dirty = 0, enrolled_at = NULL WHERE machine_id = ?", (machine_id,)
            )
            if changed.rowcount == 0:
                raise InputRefusedError(
                    f"there is no machine {machine_id}",
                    code="machine.unknown",
                    hint="`tenantfleet inventory list` names them.",
                )


def _same_region(record: MachineRecord, region: str) -> MachineRecord:
    if record.region != region:
        raise ConflictError(
            f"tenant {record.tenant_id} already has {record.machine_id} in {record.region}",
            code="tenant.other_region",
            hint="Order the tenant's own region, or decommission the tenant first.",
        )
    return record


def _record(row: sqlite3.Row) -> MachineRecord:
    if row["tenant_id"] is not None:
        state = MachineState.CLAIMED
    else:
        state = MachineState.DIRTY if row["dirty"] else MachineState.FREE
    return MachineRecord(
        machine_id=row["machine_id"],
        region=row["region"],
        state=state,
        tenant_id=row["tenant_id"],
        enrolled=row["enrolled_at"] is not None,
    )
