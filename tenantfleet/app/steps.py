"""The steps of an order with their effects: what the durable engine calls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from tenantfleet.app.host_run import HostRun, Target, refuse_unless_ok
from tenantfleet.app.manifests import fetch_manifest, fetch_tree
from tenantfleet.app.payload import open_payload
from tenantfleet.app.stacks import tools_of_release
from tenantfleet.inventory.orders import OrderRecord, OrderState
from tenantfleet.model.errors import ConflictError, InputRefusedError, OrderSpentError
from tenantfleet.model.order import HubOrder, OrderKind
from tenantfleet.model.plan import ProvisionPlan, StepName
from tenantfleet.model.secret import Secret
from tenantfleet.planning.provision import plan_order

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.app.progress import Progress
    from tenantfleet.model.machine import Machine

Data = dict[str, Any]
LAST_PLAY = "Provision"


def make_plan(environment: Environment, order: HubOrder) -> ProvisionPlan:
    """The plan of an order, with the release's manifest fetched and compared.

    Raises:
        NoMachineError, ReleaseMismatchError, EnvironmentMissingError: see `plan_order` and `fetch_manifest`.
        InputRefusedError: a tool of the order is refused, see `tools_of_release`.
    """
    settings = environment.settings
    if order.kind is not OrderKind.PROVISION:
        return plan_order(order, settings=settings, manifest={}, ssh_user_ca=environment.ssh_user_ca)
    manifest = fetch_manifest(environment, order.release_sha256)
    tools = tools_of_release(
        manifest,
        order.tools,
        fetch=partial(fetch_tree, environment),
        destinations=settings.network.get("tool_destinations", {}),
    )
    return plan_order(
        order, settings=settings, manifest=manifest, ssh_user_ca=environment.ssh_user_ca, tools=tools
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSteps:
    """`OrderSteps` of the engine, for one environment."""

    environment: Environment
    project: Path
    progress: Progress

    def step_names(self, order_id: str) -> list[str]:
        order = self.environment.order_ledger.get(order_id).order()
        decommission = order.kind is OrderKind.DECOMMISSION
        return [name.value for name in StepName if not (decommission and name is StepName.VERIFY)]

    def run_step(self, order_id: str, attempt: int, name: str) -> Data:
        """Do one step, timed and written down."""
        step = StepName(name)
        record = self.environment.order_ledger.get(order_id)
        title = _TITLES[step]
        self.environment.order_ledger.step_started(order_id, attempt, name, now=datetime.now(UTC))
        self.progress.step_started(record.tenant_id, title)
        started = time.monotonic()
        ok, summary = False, ""
        try:
            value = self._do(step, record)
            ok, summary = True, str(value.get("summary", ""))
        finally:
            duration_s = round(time.monotonic() - started, 2)
            self.environment.order_ledger.step_ended(
                order_id, attempt, name, ok=ok, duration_s=duration_s, summary=summary
            )
            self.progress.step_ended(record.tenant_id, title, ok=ok, duration_s=duration_s, summary=summary)
        return {**value, "duration_s": duration_s}

    def _do(self, step: StepName, record: OrderRecord) -> Data:
        match step:
            case StepName.CLAIM:
                return self._claim(record)
            case StepName.PLAN:
                return self._plan(record)
            case StepName.RUN:
                return self._run(record)
            case StepName.VERIFY:
                return self._verify(record)
            case StepName.DONE:
                return self._done(record)

    def _claim(self, record: OrderRecord) -> Data:
        machines = self.environment.machines()
        ledger = self.environment.machine_ledger
        ledger.learn(machines)
        if record.kind == OrderKind.DECOMMISSION:
            held = ledger.of_tenant(record.tenant_id)
            if held is None:
                raise unknown_tenant(record.tenant_id)
        else:
            refuse_consumed(self.environment, record)
            region = record.body["region"]
            held = ledger.claim(
                tenant_id=record.tenant_id,
                order_id=record.order_id,
                region=region,
                candidates=[machine.id for machine in machines if machine.region == region],
                now=datetime.now(UTC),
            )
        return {"machine": held.machine_id, "summary": held.machine_id}

    def _plan(self, record: OrderRecord) -> Data:
        plan = make_plan(self.environment, record.order())
        self.environment.order_ledger.record_plan(plan)
        return {"plan_sha256": plan.sha256, "summary": plan.sha256[:12]}

    def _run(self, record: OrderRecord) -> Data:
        order = record.order()
        target = tenant_target(self.environment, record, order)
        plan = _recorded_plan(record)
        playbook = next(step["playbook"] for step in plan["steps"] if step["name"] == StepName.RUN)
        last_play = LAST_PLAY if order.kind is OrderKind.PROVISION else None
        # inside the step, so that every attempt of it gets a number of its own
        number = self.environment.order_ledger.take_run_number(
            purpose=f"{record.order_id} {playbook}", now=datetime.now(UTC)
        )
        changed = self._on_host(playbook, target, run_number=number, last_play=last_play)
        return {"changed": changed, "summary": f"{changed} changed" if changed else "nothing changed"}

    def _verify(self, record: OrderRecord) -> Data:
        target = tenant_target(self.environment, record, None)
        plan = _recorded_plan(record)
        playbook = next(step["playbook"] for step in plan["steps"] if step["name"] == StepName.VERIFY)
        self._on_host(playbook, target, run_number=None)
        return {"summary": "guarded"}

    def _on_host(
        self, playbook: str, target: Target, *, run_number: int | None, last_play: str | None = None
    ) -> int:
        machine_id = target.machine.id
        run = HostRun(environment=self.environment, project=self.project, progress=self.progress)
        outcome = run.run(
            playbook,
            (target,),
            run_number=run_number,
            last_play=last_play,
            lock=self.environment.lock_file(machine_id),
        )
        return refuse_unless_ok(outcome, machine_id).changed

    def _done(self, record: OrderRecord) -> Data:
        if record.kind == OrderKind.DECOMMISSION:
            self.environment.machine_ledger.release(record.tenant_id)
            return {"summary": "reinstall the machine before it is used again"}
        return {"summary": ""}

    def close(self, order_id: str, attempt: int, values: Data, failure: Data | None) -> Data:
        """Write the order's end down."""
        record = self.environment.order_ledger.get(order_id)
        state = OrderState.DONE if failure is None else OrderState.FAILED
        result = {
            "order_id": order_id,
            "tenant_id": record.tenant_id,
            "kind": record.kind,
            "state": state.value,
            "attempt": attempt,
            "machine": values.get(StepName.CLAIM, {}).get("machine"),
            "plan_sha256": values.get(StepName.PLAN, {}).get("plan_sha256"),
            "changed": values.get(StepName.RUN, {}).get("changed"),
            "durations_s": {name: value["duration_s"] for name, value in values.items()},
            "failure": failure,
        }
        self.environment.order_ledger.finish(
            order_id, attempt, state=state, result=result, now=datetime.now(UTC)
        )
        return result


_TITLES = {
    StepName.CLAIM: "claim a machine",
    StepName.PLAN: "record the plan",
    StepName.RUN: "run the playbook",
    StepName.VERIFY: "verify the tenant",
    StepName.DONE: "close the order",
}


def refuse_consumed(environment: Environment, record: OrderRecord) -> None:
    """A done order has no secrets left, and a machine that never had them needs them.

    Raises:
        OrderSpentError: `order.consumed`.
    """
    if record.sealed is None and environment.machine_ledger.of_tenant(record.tenant_id) is None:
        raise OrderSpentError(
            f"order {record.order_id} was done, and tenant {record.tenant_id} has no machine any more",
            code="order.consumed",
            hint="Make a new order: `tenantfleet order new`.",
        )


def _recorded_plan(record: OrderRecord) -> Data:
    if record.plan is None:
        raise ConflictError(
            f"order {record.order_id} has no recorded plan",
            code="order.no_plan",
            hint="Hand the order in again.",
        )
    return record.plan


def tenant_target(environment: Environment, record: OrderRecord, order: HubOrder | None) -> Target:
    """The tenant's machine with the recorded plan's variables, and the payload that `order` still has.

    Raises:
        InputRefusedError: `tenant.unknown` or `machine.unlisted`.
    """
    held = environment.machine_ledger.of_tenant(record.tenant_id)
    if held is None:
        raise unknown_tenant(record.tenant_id)
    payload = None
    if order is not None and order.sealed is not None:
        payload = open_payload(order, identity=environment.age_identity)
    return Target(
        machine=_listed(environment.machines(), held.machine_id),
        variables=_recorded_plan(record)["host_vars"],
        enrolled=held.enrolled,
        payload=Secret(payload.model_dump_json()) if payload else None,
        secrets=tuple(Secret(value) for value in payload.secrets.values()) if payload else (),
    )


def _listed(machines: tuple[Machine, ...], machine_id: str) -> Machine:
    for machine in machines:
        if machine.id == machine_id:
            return machine
    raise InputRefusedError(
        f"the provider no longer lists {machine_id}",
        code="machine.unlisted",
        hint="Put it back into machines.yml, or find out what became of it.",
    )


def unknown_tenant(tenant_id: str) -> InputRefusedError:
    return InputRefusedError(
        f"tenant {tenant_id} has no machine",
        code="tenant.unknown",
        hint="`tenantfleet status` lists the tenants.",
    )
