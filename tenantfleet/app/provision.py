"""Hands orders to the durable engine and waits for their ends."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tenantfleet.app.orders import check_order, new_order
from tenantfleet.app.steps import FleetSteps, refuse_consumed, unknown_tenant
from tenantfleet.inventory.orders import OrderState
from tenantfleet.model.order import HubOrder, OrderKind
from tenantfleet.workflow.engine import Data, open_engine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.app.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Carries orders out in one environment."""

    environment: Environment
    project: Path
    progress: Progress

    def submit(self, orders: Sequence[HubOrder], *, again: bool = False) -> list[Data]:
        """Carry orders out side by side; what an earlier driver left unfinished is finished as well.

        Every order is checked before the first is started. An order that was done gives its result again and
        touches nothing, unless `again`.

        Returns:
            one result an order, in their order, then those of resumed ones; `failure` is None in a good one.

        Raises:
            TenantfleetError: an order was refused; none was started.
        """
        ledger = self.environment.order_ledger
        for order in orders:
            self._check(order, again=again)
        with open_engine(self.environment.root, self._steps) as engine:
            # whose driver died, whether or not their workflow was already written down
            unfinished = [record for record in ledger.all() if record.state is OrderState.RUNNING]
            # all are accepted before any workflow starts, so that a refusal leaves none at work
            records = ledger.submit(*orders, again=again, now=datetime.now(UTC))
            started = [engine.submit(record.order_id, record.attempt) for record in (*records, *unfinished)]
            return [engine.result(workflow) for workflow in dict.fromkeys(started)]

    def done_before(self, orders: Sequence[HubOrder]) -> tuple[str, ...]:
        """Ids of those orders that were done already: to submit them again touches nothing."""
        known = (self.environment.order_ledger.find(order) for order in orders)
        return tuple(record.order_id for record in known if record and record.state is OrderState.DONE)

    def decommission_order(self, tenant_id: str) -> HubOrder:
        """An order that takes the tenant off its machine.

        Raises:
            InputRefusedError: `tenant.unknown`.
        """
        last = self.environment.order_ledger.latest_provision(tenant_id)
        if last is None or self.environment.machine_ledger.of_tenant(tenant_id) is None:
            raise unknown_tenant(tenant_id)
        kept = {
            key: value for key, value in last.body.items() if key not in {"version", "order_id", "expires"}
        }
        return new_order(
            {**kept, "order_id": str(uuid.uuid4()), "kind": OrderKind.DECOMMISSION.value},
            life=timedelta(hours=1),
        )

    @property
    def _steps(self) -> FleetSteps:
        return FleetSteps(environment=self.environment, project=self.project, progress=self.progress)

    def _check(self, order: HubOrder, *, again: bool) -> None:
        known = self.environment.order_ledger.find(order)
        if known is None or (known.state is OrderState.FAILED and known.sealed is not None):
            check_order(self.environment, order)
        elif again or known.state is OrderState.FAILED:
            self.environment.machines()
            if order.kind is OrderKind.PROVISION:
                refuse_consumed(self.environment, known)
