"""What the ledger knows, as rows for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantfleet.app.environment import Environment


def order_rows(environment: Environment, name: str | None) -> list[dict[str, Any]]:
    """Orders, oldest first; of one tenant or one id when named."""
    return [
        {
            "order_id": record.order_id,
            "tenant": record.tenant_id,
            "kind": record.kind,
            "state": record.state.value,
            "attempt": record.attempt,
            "machine": (record.result or {}).get("machine"),
            "submitted": record.submitted_at[:19],
            "failure": ((record.result or {}).get("failure") or {}).get("code"),
        }
        for record in environment.order_ledger.all()
        if name in {None, record.order_id, record.tenant_id}
    ]


def step_rows(environment: Environment, order_id: str) -> list[dict[str, Any]]:
    """The steps of one order, in the order in which they began."""
    return [
        {
            "attempt": step.attempt,
            "step": step.name,
            "state": step.state,
            "seconds": step.duration_s,
            "summary": step.summary,
        }
        for step in environment.order_ledger.steps(order_id)
    ]


def machine_rows(environment: Environment) -> list[dict[str, Any]]:
    """Machines that the provider lists, and those that the ledger remembers besides."""
    machines = environment.machines()
    environment.machine_ledger.learn(machines)
    listed = {machine.id: machine.address for machine in machines}
    return [
        {
            "machine": record.machine_id,
            "region": record.region,
            "address": listed.get(record.machine_id),
            "state": record.state.value,
            "tenant": record.tenant_id,
            "enrolled": record.enrolled,
        }
        for record in environment.machine_ledger.records()
    ]
