"""One playbook on some tenants' machines: keys and secrets into memory, take the hosts over, run, judge."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tenantfleet.app.takeover import DEPLOY_ACCOUNT, Takeover
from tenantfleet.execution.events import RunEvent, TaskEnded, TaskState
from tenantfleet.execution.invoke import RunRequest, run_playbook
from tenantfleet.execution.ssh import mint_identity
from tenantfleet.execution.workspace import Workspace, open_workspace
from tenantfleet.inventory.render import FleetHost, host_groups, inventory_document
from tenantfleet.model.errors import (
    EnvironmentMissingError,
    FencedError,
    HostUnreachableError,
    NotAttemptedError,
    RunFailedError,
)
from tenantfleet.model.outcome import HostOutcome, HostState, RunOutcome

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.app.progress import Progress
    from tenantfleet.model.machine import Machine
    from tenantfleet.model.secret import Secret

OPERATOR_ACCOUNT = "tf-ops"
ENROL_PLAY = "Enrol"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One machine of a run.

    Attributes:
        variables: the plan's host variables.
        enrolled: whether the ledger knows that the deploy account works there.
        payload: text of the bootstrap file, None when nothing is delivered.
        secrets: every value in it, to be kept out of events.
    """

    machine: Machine
    variables: dict[str, Any]
    enrolled: bool
    payload: Secret[str] | None = None
    secrets: tuple[Secret[str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun:
    """Runs playbooks of the project against targets of one environment."""

    environment: Environment
    project: Path
    progress: Progress

    def run(
        self,
        playbook: str,
        targets: tuple[Target, ...],
        *,
        run_number: int | None,
        last_play: str | None = None,
        lock: Path | None = None,
        check: bool = False,
    ) -> RunOutcome:
        """Run a playbook on all targets at once.

        Args:
            playbook: name below playbooks/.
            targets: each is given to the run first; one that refuses or does not answer is left out of it.
            run_number: taken for this run; None for one that reads as `tf-ops`, which takes no host over.
            last_play: see `Reckoning`.
            lock: see `RunRequest`.
            check: change nothing, say what would change.

        Raises:
            EnvironmentMissingError: first contact is needed and there is no key for it.
        """
        with open_workspace() as workspace:
            files = _RunFiles(self.environment, workspace, run_number)
            takeover: Takeover | None = None
            left_out: tuple[HostOutcome, ...] = ()
            if run_number is not None:
                takeover = Takeover(environment=self.environment, key_file=files.key, run_number=run_number)
                targets, left_out = takeover.take_over(targets)
            if not targets:
                return RunOutcome(hosts=left_out, error="", duration_s=0.0)
            request = RunRequest(
                playbook=self.project / "playbooks" / playbook,
                project=self.project,
                hosts=tuple(target.machine.id for target in targets),
                inventory=inventory_document(tuple(files.fleet_host(target) for target in targets)),
                last_play=last_play,
                lock=lock,
                secrets=tuple(secret for target in targets for secret in target.secrets),
                check=check,
            )
            outcome = run_playbook(request, workspace=workspace, on_event=self._tell)
            if takeover:
                outcome = takeover.explain(outcome, targets)
        self._note_enrolment(outcome)
        return replace(outcome, hosts=(*outcome.hosts, *left_out))

    def _tell(self, event: RunEvent) -> None:
        if isinstance(event, TaskEnded) and event.state is not TaskState.SKIPPED:
            name = f"{event.role} : {event.task}" if event.role else event.task
            self.progress.task_ended(event.host, name, state=event.state.value, duration_s=event.duration_s)

    def _note_enrolment(self, outcome: RunOutcome) -> None:
        for host in outcome.hosts:
            if ENROL_PLAY in host.finished_plays:
                self.environment.machine_ledger.mark_enrolled(host.host, now=datetime.now(UTC))


class _RunFiles:
    """The files of one run, all in its workspace."""

    def __init__(self, environment: Environment, workspace: Workspace, run_number: int | None) -> None:
        self._environment = environment
        self._workspace = workspace
        self._run_number = run_number
        run = "look" if run_number is None else f"run-{run_number}"
        identity = mint_identity(
            ca=environment.ssh_user_ca_key,
            accounts=(OPERATOR_ACCOUNT,) if run_number is None else (DEPLOY_ACCOUNT, OPERATOR_ACCOUNT),
            key_id=f"tenantfleet-{environment.settings.environment}-{run}",
            now=datetime.now(UTC),
        )
        self.key = workspace.write_secret("ssh/deploy", identity.private_key)
        workspace.write("ssh/deploy-cert.pub", identity.certificate + "\n")

    def fleet_host(self, target: Target) -> FleetHost:
        first_contact = self._run_number is not None and not target.enrolled
        payload = ""
        if target.payload is not None:
            payload = str(self._workspace.write_secret(f"payload/{target.machine.id}.json", target.payload))
        variables = {
            **target.variables,
            "machine_user": target.machine.user,
            "machine_enrolled": target.enrolled,
            "tenant_secrets_bootstrap_path": payload,
            "enrol_private_key_file": str(self._first_contact_key()) if first_contact else "",
            "ansible_ssh_private_key_file": str(self.key),
        }
        return FleetHost(
            machine=target.machine,
            run_number=self._run_number,
            groups=host_groups(target.machine, target.variables.get("tenant")),
            variables=variables,
        )

    def _first_contact_key(self) -> Path:
        written = self._environment.settings.first_contact_key
        copy = self._workspace.root / "ssh" / "first_contact"
        if copy.exists():
            return copy
        try:
            text = self._environment.path(written).read_text(encoding="utf-8") if written else None
        except OSError:
            text = None
        if text is None:
            raise EnvironmentMissingError(
                "the key for first contact is not set or cannot be read",
                code="first_contact.missing",
                hint="Name it: `tenantfleet init --first-contact-key FILE`.",
            )
        return self._workspace.write("ssh/first_contact", text)


def unreachable(machine_id: str, reason: str) -> HostUnreachableError:
    if "Host key verification failed" in reason:
        return HostUnreachableError(
            f"{machine_id} shows another host key than machines.yml names",
            code="host.wrong_key",
            hint="Find out who answers there before anything else; nothing was sent to it.",
        )
    return HostUnreachableError(
        f"{machine_id} cannot be reached: {reason}",
        code="host.unreachable",
        hint="Check that it runs and takes SSH; was it reinstalled, say so: "
        f"`tenantfleet inventory reinstalled {machine_id}`.",
    )


def refuse_unless_ok(outcome: RunOutcome, machine_id: str) -> HostOutcome:
    """The host's outcome, if it is ok.

    Raises:
        HostUnreachableError, FencedError, NotAttemptedError, RunFailedError: else.
    """
    host = outcome.host(machine_id)
    match host.state:
        case HostState.OK:
            return host
        case HostState.UNREACHABLE:
            raise unreachable(machine_id, host.reason)
        case HostState.FENCED:
            raise FencedError(
                f"{machine_id}: {host.reason}",
                code="host.fenced",
                hint="Do what the host says; docs/operations/run-number.md has every case.",
            )
        case HostState.NOT_ATTEMPTED if not outcome.error:
            raise NotAttemptedError(
                f"the run ended before {machine_id}'s turn",
                code="run.not_attempted",
                hint="Run it again.",
            )
        case _:
            where = f"{host.task}: " if host.task else ""
            raise RunFailedError(
                f"{machine_id}: {outcome.error or where + host.reason}",
                code="run.failed",
                hint="Mend the cause and hand the same order in again: it goes on from there.",
            )
