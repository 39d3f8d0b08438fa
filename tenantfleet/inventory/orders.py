"""Orders and their steps, as the ledger remembers them."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tenantfleet.model.errors import ConflictError, InputRefusedError, OrderSpentError
from tenantfleet.model.order import HubOrder, utc_text

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from tenantfleet.inventory.database import LedgerDatabase
    from tenantfleet.model.plan import ProvisionPlan


class OrderState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    """One order; `attempt` counts from 1, `sealed` is None once the order was done."""

    order_id: str
    tenant_id: str
    kind: str
    state: OrderState
    attempt: int
    body: dict[str, Any]
    sealed: str | None
    plan: dict[str, Any] | None
    plan_sha256: str | None
    result: dict[str, Any] | None
    submitted_at: str
    finished_at: str | None

    def order(self) -> HubOrder:
        """The order as it was handed in."""
        fields = self.body if self.sealed is None else {**self.body, "sealed": self.sealed}
        return HubOrder.model_validate_json(json.dumps(fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    order_id: str
    attempt: int
    name: str
    state: str
    started_at: str
    duration_s: float | None
    summary: str


# A refused or failed order must not hide the one that made the tenant what it is.
_LATEST_PROVISION = """
SELECT * FROM tenant_order WHERE tenant_id = :tenant_id AND kind = 'provision'
AND (finished_at IS NULL OR finished_at >= coalesce((
    SELECT max(finished_at) FROM tenant_order
    WHERE tenant_id = :tenant_id AND kind = 'decommission' AND state = 'done'), ''))
ORDER BY sealed IS NULL DESC, plan IS NOT NULL DESC, submitted_at DESC, rowid DESC LIMIT 1
"""


class OrderLedger:
    """The tables `tenant_order`, `step` and `run_number`."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def find(self, order: HubOrder) -> OrderRecord | None:
        """The same order, if it was handed in before.

        Raises:
            OrderSpentError: `order.replayed`, the id was used for an order with another content.
        """
        with self._database.transaction() as ledger:
            row = ledger.execute(
                "SELECT * FROM tenant_order WHERE order_id = ?", (str(order.order_id),)
            ).fetchone()
        if row is None:
            return None
        _refuse_other_content(row, order)
        return _order(row)

    def submit(self, *orders: HubOrder, again: bool, now: datetime) -> tuple[OrderRecord, ...]:
        """Accept orders, or find them again: all of them or, when one is refused, none.

        A new order starts its first attempt. One that failed starts its next. One that runs or is done is
        returned as it is, unless `again` asks for another attempt of a done one: its payload stays consumed.

        Raises:
            OrderSpentError: `order.replayed`, the id was used for an order with another content.
            ConflictError: `tenant.busy`, another order of this tenant is not finished.
        """
        with self._database.transaction() as ledger:
            return tuple(self._submit(ledger, order, again=again, now=now) for order in orders)

    def _submit(
        self, ledger: sqlite3.Connection, order: HubOrder, *, again: bool, now: datetime
    ) -> OrderRecord:
        select = "SELECT * FROM tenant_order WHERE order_id = ?"
        row = ledger.execute(select, (str(order.order_id),)).fetchone()
        if row is None:
            order.refuse_expired(now)
            _refuse_busy_tenant(ledger, order)
            self._insert(ledger, order, now)
        else:
            _refuse_other_content(row, order)
            self._next_attempt(ledger, row, order, again=again, now=now)
        return _order(ledger.execute(select, (str(order.order_id),)).fetchone())

    @staticmethod
    def _insert(ledger: sqlite3.Connection, order: HubOrder, now: datetime) -> None:
        body = order.fields()
        sealed = body.pop("sealed", None)
        ledger.execute(
            "INSERT INTO tenant_order (order_id, digest, tenant_id, kind, body, sealed, state, submitted_at)"
            " VALUES (?, ?, ?, ?, ?, ?, 'running', ?)",
            (
                str(order.order_id),
                order.digest(),
                order.tenant_id,
                order.kind.value,
                json.dumps(body),
                sealed,
                utc_text(now),
            ),
        )

    @staticmethod
    def _next_attempt(
        ledger: sqlite3.Connection, row: sqlite3.Row, order: HubOrder, *, again: bool, now: datetime
    ) -> None:
        if row["state"] == OrderState.FAILED and row["sealed"] is not None:
            order.refuse_expired(now)
        if row["state"] == OrderState.FAILED or (again and row["state"] == OrderState.DONE):
            _refuse_busy_tenant(ledger, order)
            ledger.execute(
                "UPDATE tenant_order SET state = 'running', attempt = attempt + 1, result = NULL,"
                " finished_at = NULL WHERE order_id = ?",
                (row["order_id"],),
            )

    def get(self, order_id: str) -> OrderRecord:
        """Look one order up.

        Raises:
            InputRefusedError: `order.unknown`.
        """
        with self._database.transaction() as ledger:
            row = ledger.execute("SELECT * FROM tenant_order WHERE order_id = ?", (order_id,)).fetchone()
        if row is None:
            raise InputRefusedError(
                f"there is no order {order_id}",
                code="order.unknown",
                hint="`tenantfleet status` lists the orders.",
            )
        return _order(row)

    def all(self) -> tuple[OrderRecord, ...]:
        with self._database.transaction() as ledger:
            return tuple(
                _order(row) for row in ledger.execute("SELECT * FROM tenant_order ORDER BY submitted_at")
            )

    def latest_provision(self, tenant_id: str) -> OrderRecord | None:
        """The order that says what the tenant is since it was last decommissioned.

        The newest that was ever done (no payload is left in it), else that has a plan, else of all.
        """
        with self._database.transaction() as ledger:
            row = ledger.execute(_LATEST_PROVISION, {"tenant_id": tenant_id}).fetchone()
        return None if row is None else _order(row)

    def running(self, tenant_id: str) -> OrderRecord | None:
        """The order of any kind that is at work on the tenant."""
        with self._database.transaction() as ledger:
            row = ledger.execute(
                "SELECT * FROM tenant_order WHERE tenant_id = ? AND state = 'running'", (tenant_id,)
            ).fetchone()
        return None if row is None else _order(row)

    def record_plan(self, plan: ProvisionPlan) -> None:
        """Write the plan down, before its first effect on a host."""
        with self._database.transaction() as ledger:
            ledger.execute(
                "UPDATE tenant_order SET plan = ?, plan_sha256 = ? WHERE order_id = ?",
                (json.dumps(plan.as_data()), plan.sha256, plan.order_id),
            )

    def finish(
        self, order_id: str, attempt: int, *, state: OrderState, result: dict[str, Any], now: datetime
    ) -> None:
        """Close the attempt, unless a later one has begun. A done order's payload is erased: consumed."""
        with self._database.transaction() as ledger:
            ledger.execute(
                "UPDATE tenant_order SET state = ?, result = ?, finished_at = ?,"
                " sealed = CASE ? WHEN 'done' THEN NULL ELSE sealed END WHERE order_id = ? AND attempt = ?",
                (state.value, json.dumps(result), utc_text(now), state.value, order_id, attempt),
            )

    def step_started(self, order_id: str, attempt: int, name: str, *, now: datetime) -> None:
        with self._database.transaction() as ledger:
            ledger.execute(
                "INSERT INTO step (order_id, attempt, name, state, started_at) VALUES (?, ?, ?, 'running', ?)"
                " ON CONFLICT DO UPDATE"
                " SET state = 'running', started_at = excluded.started_at, summary = ''",
                (order_id, attempt, name, utc_text(now)),
            )

    def step_ended(
        self, order_id: str, attempt: int, name: str, *, ok: bool, duration_s: float, summary: str
    ) -> None:
        with self._database.transaction() as ledger:
            ledger.execute(
                "UPDATE step SET state = ?, duration_s = ?, summary = ?"
                " WHERE order_id = ? AND attempt = ? AND name = ?",
                ("done" if ok else "failed", duration_s, summary, order_id, attempt, name),
            )

    def steps(self, order_id: str) -> tuple[StepRecord, ...]:
        with self._database.transaction() as ledger:
            rows = ledger.execute(
                "SELECT * FROM step WHERE order_id = ? ORDER BY attempt, rowid", (order_id,)
            )
            return tuple(StepRecord(**dict(row)) for row in rows)

    def take_run_number(self, *, purpose: str, now: datetime) -> int:
        """The next run number of this fleet: greater than every one before it, never given twice."""
        with self._database.transaction() as ledger:
            row = ledger.execute(
                "INSERT INTO run_number (purpose, taken_at) VALUES (?, ?) RETURNING number",
                (purpose, utc_text(now)),
            ).fetchone()
            return int(row["number"])

    def count_on(self, number: int, *, now: datetime) -> None:
        """Give only numbers greater than this one from now on: hosts have seen it, this ledger has not.

        Raises:
            InputRefusedError: `run_number.counted`, such a number was given already.
        """
        with self._database.transaction() as ledger:
            last = ledger.execute("SELECT coalesce(max(number), 0) FROM run_number").fetchone()[0]
            if number <= last:
                raise InputRefusedError(
                    f"the next run is number {last + 1} already",
                    code="run_number.counted",
                    hint="Hand the order in again; a host that still refuses it names a greater number.",
                )
            ledger.execute(
                "INSERT INTO run_number (number, purpose, taken_at) VALUES (?, 'counted on', ?)",
                (number, utc_text(now)),
            )


def _refuse_busy_tenant(ledger: sqlite3.Connection, order: HubOrder) -> None:
    busy = ledger.execute(
        "SELECT order_id FROM tenant_order WHERE tenant_id = ? AND state = 'running' AND order_id != ?",
        (order.tenant_id, str(order.order_id)),
    ).fetchone()
    if busy is not None:
        raise ConflictError(
            f"order {busy['order_id']} of tenant {order.tenant_id} is not finished",
            code="tenant.busy",
            hint="Let it finish (`tenantfleet resume`), then hand this order in again.",
        )


def _refuse_other_content(row: sqlite3.Row, order: HubOrder) -> None:
    if not hmac.compare_digest(row["digest"], order.digest()):
        raise OrderSpentError(
            f"order id {order.order_id} was used for an order with another content",
            code="order.replayed",
            hint="Give the changed order an id of its own.",
        )


def _order(row: sqlite3.Row) -> OrderRecord:
    return OrderRecord(
        order_id=row["order_id"],
        tenant_id=row["tenant_id"],
        kind=row["kind"],
        state=OrderState(row["state"]),
        attempt=row["attempt"],
        body=json.loads(row["body"]),
        sealed=row["sealed"],
        plan=json.loads(row["plan"]) if row["plan"] else None,
        plan_sha256=row["plan_sha256"],
        result=json.loads(row["result"]) if row["result"] else None,
        submitted_at=row["submitted_at"],
        finished_at=row["finished_at"],
    )
