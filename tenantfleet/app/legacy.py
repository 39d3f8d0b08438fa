"""Takes away what an older product left on a tenant's machine, outside of any order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tenantfleet.app.host_run import HostRun
from tenantfleet.app.verify import settled_target
from tenantfleet.model.errors import InputRefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.app.progress import Progress
    from tenantfleet.model.outcome import RunOutcome

PLAYBOOK = "legacy_cleanup.yml"
PLAY = "Clean"


def clean_machine(
    environment: Environment, machine_id: str, *, project: Path, progress: Progress, dry_run: bool
) -> RunOutcome:
    """Remove what the environment's settings name; the outcome's report says what was, stays and is unknown.

    Args:
        environment: with `legacy` in its settings.
        machine_id: a machine that a tenant is on.
        project: the repository with playbooks/.
        progress: hears the tasks.
        dry_run: change nothing, only report.

    Raises:
        InputRefusedError: `legacy.none` without an inventory, `machine.no_tenant` for a machine without one.
        ConflictError: `tenant.busy`, an order is changing its tenant.
    """
    declared = environment.settings.legacy.host_vars()
    if not declared:
        raise InputRefusedError(
            f"the settings of {environment.settings.environment} say nothing of an older product",
            code="legacy.none",
            hint="Declare it under `legacy` (docs/operations/legacy_cleanup.md), then `tenantfleet init`.",
        )
    target = settled_target(environment, _tenant_of(environment, machine_id))
    number = environment.order_ledger.take_run_number(
        purpose=f"legacy-cleanup {machine_id}", now=datetime.now(UTC)
    )
    run = HostRun(environment=environment, project=project, progress=progress)
    return run.run(
        PLAYBOOK,
        (replace(target, variables={**target.variables, **declared}),),
        run_number=number,
        last_play=PLAY,
        lock=None if dry_run else environment.lock_file(machine_id),
        check=dry_run,
    )


def _tenant_of(environment: Environment, machine_id: str) -> str:
    for record in environment.machine_ledger.records():
        if record.machine_id == machine_id and record.tenant_id:
            return record.tenant_id
    raise InputRefusedError(
        f"no tenant is on machine {machine_id}",
        code="machine.no_tenant",
        hint="The order that claims it cleans it too. `tenantfleet inventory list` shows the machines.",
    )
