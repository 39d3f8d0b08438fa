"""From an order to the plan of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenantfleet.model.errors import NoMachineError
from tenantfleet.model.order import HubOrder, OrderKind
from tenantfleet.model.plan import PlannedStep, ProvisionPlan, StepName
from tenantfleet.planning.tools import ToolsPlan

if TYPE_CHECKING:
    from tenantfleet.model.settings import FleetSettings

NO_TOOLS = ToolsPlan()
_PROVISION = (
    PlannedStep(name=StepName.CLAIM, title="Claim a machine in the region"),
    PlannedStep(name=StepName.PLAN, title="Record the plan"),
    PlannedStep(name=StepName.RUN, title="Bring the host to its state", playbook="tenant_provision.yml"),
    PlannedStep(name=StepName.VERIFY, title="Prove that the tenant is guarded", playbook="tenant_verify.yml"),
    PlannedStep(name=StepName.DONE, title="Close the order"),
)
_DECOMMISSION = (
    PlannedStep(name=StepName.CLAIM, title="Find the tenant's machine"),
    PlannedStep(name=StepName.PLAN, title="Record the plan"),
    PlannedStep(name=StepName.RUN, title="Take the tenant off the host", playbook="tenant_decommission.yml"),
    PlannedStep(name=StepName.DONE, title="Give the machine back for reinstallation"),
)


def plan_order(
    order: HubOrder,
    *,
    settings: FleetSettings,
    manifest: dict[str, Any],
    ssh_user_ca: str,
    tools: ToolsPlan = NO_TOOLS,
) -> ProvisionPlan:
    """Plan one order.

    Args:
        order: parsed order.
        settings: of the environment that the order is for.
        manifest: the release that the order names, as data; empty for decommission, which needs none.
        ssh_user_ca: public key line of the environment's SSH user CA.
        tools: the order's stacks, planned.

    Raises:
        NoMachineError: `order.unknown_region`.
    """
    if order.region not in settings.regions:
        raise NoMachineError(
            f"{settings.environment} has no region {order.region}; it has {', '.join(settings.regions)}",
            code="order.unknown_region",
            hint="Correct the order's region, or add the region to settings.yml.",
        )
    return ProvisionPlan(
        order_id=str(order.order_id),
        tenant_id=order.tenant_id,
        kind=order.kind.value,
        environment=settings.environment,
        region=order.region,
        release_sha256=order.release_sha256,
        steps=_PROVISION if order.kind is OrderKind.PROVISION else _DECOMMISSION,
        host_vars={
            "order_id": str(order.order_id),
            "tenant": tenant_vars(order, environment=settings.environment),
            "release": {"manifest_sha256": order.release_sha256, **manifest},
            "release_store_url": settings.store_url,
            "registry": settings.registry,
            "fleet_ssh_user_ca": ssh_user_ca,
            "egress_providers": [provider.model_dump() for provider in settings.egress_providers],
            "network": settings.network,
            **settings.legacy.host_vars(),
            **tools.host_vars(),
        },
    )


def tenant_vars(order: HubOrder, *, environment: str) -> dict[str, Any]:
    """The `tenant` variable of a host."""
    return {
        "tenant_id": order.tenant_id,
        "tenant_class": order.tenant_class.value,
        "region": order.region,
        "tier": order.tier.value,
        "tools": list(order.tools),
        "domain": order.domain,
        "autonomy": order.autonomy.value,
        "environment": environment,
    }
