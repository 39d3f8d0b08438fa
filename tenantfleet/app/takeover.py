"""Gives hosts to one run, and says of a host that failed whether a newer run took it away."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tenantfleet.execution.host_gate import Answer, Gate
from tenantfleet.inventory.render import ssh_arguments
from tenantfleet.model.outcome import HostOutcome, HostState, RunOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.app.host_run import Target
    from tenantfleet.model.machine import Machine

DEPLOY_ACCOUNT = "tf-deploy"
_SIDE_BY_SIDE = 10
_SSHD_RELOADS_WITHIN_S = 60
_ASK_AGAIN_S = 0.5
_NOT_TAKEN = {
    Answer.REFUSED: HostState.FENCED,
    Answer.FAILED: HostState.FAILED,
    Answer.ENROLMENT_TAKEN_BACK: HostState.FAILED,
    Answer.LOGIN_REFUSED: HostState.UNREACHABLE,
    Answer.WRONG_HOST_KEY: HostState.UNREACHABLE,
    Answer.UNREACHABLE: HostState.UNREACHABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """One run's dealings with the gates of its hosts."""

    environment: Environment
    key_file: Path
    run_number: int

    def take_over(self, targets: Sequence[Target]) -> tuple[tuple[Target, ...], tuple[HostOutcome, ...]]:
        """Give each host to the run; a host that knows no deployment account yet is left to first contact.

        The host itself is asked whether it is enrolled: a driver that died after the enrolment could not
        write it down.

        Returns:
            targets that the run may go on with, and an outcome for each other one.
        """
        ready: list[Target] = []
        left_out: list[HostOutcome] = []
        with ThreadPoolExecutor(max_workers=_SIDE_BY_SIDE) as pool:
            answers = pool.map(lambda target: self._take_over(target.machine), targets)
            for target, (answer, words) in zip(targets, answers, strict=True):
                if answer is Answer.ACCEPTED:
                    if not target.enrolled:
                        self.environment.machine_ledger.mark_enrolled(
                            target.machine.id, now=datetime.now(UTC)
                        )
                    ready.append(replace(target, enrolled=True))
                elif answer is Answer.LOGIN_REFUSED and not target.enrolled:
                    ready.append(target)
                else:
                    left_out.append(
                        HostOutcome(host=target.machine.id, state=_NOT_TAKEN[answer], reason=words)
                    )
        return tuple(ready), tuple(left_out)

    def _take_over(self, machine: Machine) -> tuple[Answer, str]:
        """The gate's answer; where an enrolment was taken back, the one after sshd has heard of it."""
        gate = self._gate(machine)
        answer, words = gate.take_over(self.run_number)
        deadline = time.monotonic() + _SSHD_RELOADS_WITHIN_S
        while answer is Answer.ENROLMENT_TAKEN_BACK and time.monotonic() < deadline:
            answer, words = gate.still_ours()
            if answer is not Answer.LOGIN_REFUSED:
                answer = Answer.ENROLMENT_TAKEN_BACK
                time.sleep(_ASK_AGAIN_S)
        return answer, words

    def explain(self, outcome: RunOutcome, targets: Sequence[Target]) -> RunOutcome:
        """The same outcome, in which hosts that a newer run took away meanwhile count as fenced.

        Ansible shows a gate's refusal as whatever its task makes of it, and of a killed task nothing but a
        broken connection: the host is asked.
        """
        machines = {target.machine.id: target.machine for target in targets}
        return replace(
            outcome, hosts=tuple(self._explained(host, machines[host.host]) for host in outcome.hosts)
        )

    def _explained(self, host: HostOutcome, machine: Machine) -> HostOutcome:
        if host.state is HostState.OK:
            return host
        answer, words = self._gate(machine).still_ours()
        if answer is not Answer.REFUSED:
            return host
        return replace(
            host, state=HostState.FENCED, reason=f"{words} (noticed at: {host.task or host.reason})"
        )

    def _gate(self, machine: Machine) -> Gate:
        return Gate(
            address=machine.address,
            account=DEPLOY_ACCOUNT,
            key_file=self.key_file,
            ssh_arguments=ssh_arguments(machine, self.run_number),
        )
