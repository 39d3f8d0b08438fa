"""Looks at tenants without changing anything: are they guarded, and are they as their orders say?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tenantfleet.app.host_run import HostRun
from tenantfleet.app.steps import LAST_PLAY, tenant_target, unknown_tenant
from tenantfleet.model.errors import ConflictError, InputRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.app.host_run import Target
    from tenantfleet.app.progress import Progress
    from tenantfleet.model.outcome import RunOutcome

VERIFY_PLAYBOOK = "tenant_verify.yml"
STATE_PLAYBOOK = "tenant_provision.yml"


def verify_tenants(
    environment: Environment, tenant_ids: Sequence[str], *, project: Path, progress: Progress
) -> RunOutcome:
    """Verify tenants in one run.

    Args:
        environment: theirs.
        tenant_ids: which; every tenant that has a machine when empty.
        project: the repository with playbooks/.
        progress: hears the tasks.

    Raises:
        InputRefusedError: `tenant.unknown`, or `tenant.none` when there is no tenant at all.
        ConflictError: `tenant.busy`, an order is changing one of them.
    """
    targets = _targets(environment, tenant_ids)
    run = HostRun(environment=environment, project=project, progress=progress)
    return run.run(VERIFY_PLAYBOOK, targets, run_number=None)


def detect_drift(
    environment: Environment, tenant_ids: Sequence[str], *, project: Path, progress: Progress
) -> RunOutcome:
    """Say what `provision --again` would change on tenants' hosts, by Ansible's check mode.

    Args and errors as of `verify_tenants`. A host whose outcome counts a change has drifted.
    """
    targets = _targets(environment, tenant_ids)
    number = environment.order_ledger.take_run_number(purpose="drift", now=datetime.now(UTC))
    run = HostRun(environment=environment, project=project, progress=progress)
    return run.run(STATE_PLAYBOOK, targets, run_number=number, last_play=LAST_PLAY, check=True)


def _targets(environment: Environment, tenant_ids: Sequence[str]) -> tuple[Target, ...]:
    held = [record.tenant_id for record in environment.machine_ledger.records() if record.tenant_id]
    wanted = list(tenant_ids) or held
    if not wanted:
        raise InputRefusedError(
            "no machine has a tenant yet",
            code="tenant.none",
            hint="Provision one: `tenantfleet provision ORDER.yml`.",
        )
    return tuple(settled_target(environment, tenant_id) for tenant_id in dict.fromkeys(wanted))


def settled_target(environment: Environment, tenant_id: str) -> Target:
    """The machine of a tenant that no order is changing.

    Raises:
        InputRefusedError: `tenant.unknown`.
        ConflictError: `tenant.busy`.
    """
    last = environment.order_ledger.latest_provision(tenant_id)
    if last is None:
        raise unknown_tenant(tenant_id)
    busy = environment.order_ledger.running(tenant_id)
    if busy is not None:
        raise ConflictError(
            f"order {busy.order_id} is changing tenant {tenant_id}",
            code="tenant.busy",
            hint="Wait for it, or finish it: `tenantfleet resume`.",
        )
    return tenant_target(environment, last, None)
