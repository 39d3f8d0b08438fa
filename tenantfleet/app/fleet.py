"""Every machine of an environment with its tenant's facts, for plain Ansible. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenantfleet.inventory.database import LedgerDatabase
from tenantfleet.inventory.machines import MachineLedger
from tenantfleet.inventory.orders import OrderLedger
from tenantfleet.inventory.render import FleetHost, host_groups
from tenantfleet.providers.static import read_machines

if TYPE_CHECKING:
    from pathlib import Path


def fleet_hosts(machines: Path, *, ledger: Path) -> tuple[FleetHost, ...]:
    """One host a machine, in the list's order.

    Args:
        machines: machines.yml.
        ledger: of the environment; without it every machine is unclaimed.

    Raises:
        TenantfleetError: the list of machines cannot be read.
    """
    facts = _tenant_facts(ledger) if ledger.exists() else {}
    return tuple(
        FleetHost(
            machine=machine,
            groups=host_groups(machine, facts.get(machine.id, {}).get("tenant")),
            variables={"machine_user": machine.user, **facts.get(machine.id, {})},
        )
        for machine in read_machines(machines)
    )


def _tenant_facts(ledger: Path) -> dict[str, dict[str, Any]]:
    """The recorded plan's variables of each claimed machine, by machine id."""
    database = LedgerDatabase(ledger)
    orders = OrderLedger(database)
    facts: dict[str, dict[str, Any]] = {}
    for record in MachineLedger(database).records():
        order = orders.latest_provision(record.tenant_id) if record.tenant_id else None
        if order is not None and order.plan is not None:
            facts[record.machine_id] = {**order.plan["host_vars"], "machine_enrolled": record.enrolled}
    return facts
