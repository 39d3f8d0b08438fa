"""What became of each host of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class HostState(StrEnum):
    OK = "ok"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    FENCED = "fenced"
    NOT_ATTEMPTED = "not_attempted"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOutcome:
    """One host after one run.

    Fenced: the host does not take this run's tasks (any more), as a rule because a newer run has it.

    Attributes:
        reason: why it is not ok, one sentence, with known secrets taken out; empty when ok.
        task: name of the task that decided, if one did.
        finished_plays: names of the plays that the host came through without a failure.
        report: what a module that reports to people found there, see `events.REPORTING`.
    """

    host: str
    state: HostState
    changed: int = 0
    reason: str = ""
    task: str = ""
    finished_plays: tuple[str, ...] = ()
    report: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """One run of a playbook: an outcome for each planned host, none left out.

    Attributes:
        error: what went wrong with the run as a whole; empty when it ran to its end.
        duration_s: wall time in seconds.
    """

    hosts: tuple[HostOutcome, ...]
    error: str
    duration_s: float

    @property
    def ok(self) -> bool:
        return not self.error and all(host.state is HostState.OK for host in self.hosts)

    def host(self, name: str) -> HostOutcome:
        return next(outcome for outcome in self.hosts if outcome.host == name)
