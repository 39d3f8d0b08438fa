"""From events to an outcome for every planned host: what was not seen was not attempted, never ok."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenantfleet.execution.events import (
    Complaint,
    HostsExhausted,
    ItemFailed,
    NoHostsMatched,
    PlayStarted,
    RunEvent,
    RunStats,
    TaskEnded,
    TaskState,
)
from tenantfleet.model.outcome import HostOutcome, HostState

if TYPE_CHECKING:
    from collections.abc import Iterable

_COMPLAINTS_KEPT = 20
_WENT_WELL = {TaskState.OK, TaskState.CHANGED, TaskState.IGNORED}


class Reckoning:
    """Hears every event of one run, then says what became of each planned host."""

    def __init__(self, planned: Iterable[str], *, last_play: str | None) -> None:
        """Start with nobody seen.

        Args:
            planned: hosts that the run is for.
            last_play: the play that a host must have come through to count as ok; None when none matters.
        """
        self._planned = tuple(planned)
        self._last_play = last_play
        self._stats: RunStats | None = None
        self._bad: dict[str, TaskEnded] = {}
        self._item_reason: dict[str, str] = {}
        self._report: dict[str, dict[str, Any]] = {}
        self._well_in: dict[str, dict[str, None]] = {}
        self._badly_in: set[tuple[str, str]] = set()
        self._seen: set[str] = set()
        self._batch: set[str] = set()
        self._aborted: set[str] = set()
        self._complaints: list[str] = []
        self._play_started = False
        self.no_hosts_matched = False

    def hear(self, event: RunEvent) -> None:
        match event:
            case PlayStarted():
                self._play_started = True
                self._batch = set()
            case TaskEnded():
                self._hear_task(event)
            case ItemFailed():
                self._item_reason[event.host] = event.reason
            case HostsExhausted():
                self._aborted |= self._batch
            case NoHostsMatched():
                self.no_hosts_matched = True
            case RunStats():
                self._stats = event
            case Complaint():
                if not self._play_started and event.text:
                    self._complaints = [*self._complaints, event.text][-_COMPLAINTS_KEPT:]

    def _hear_task(self, event: TaskEnded) -> None:
        self._seen.add(event.host)
        self._batch.add(event.host)
        if event.report is not None:
            self._report[event.host] = event.report
        if event.state in {TaskState.FAILED, TaskState.UNREACHABLE}:
            self._bad[event.host] = event
            self._badly_in.add((event.host, event.play))
        elif event.state in _WENT_WELL:
            self._well_in.setdefault(event.host, {})[event.play] = None

    @property
    def complaint(self) -> str:
        """What Ansible said before its first play, in one line."""
        return " ".join(" ".join(self._complaints).split())

    def outcomes(self, *, ended: bool) -> tuple[HostOutcome, ...]:
        """One outcome for each planned host.

        Args:
            ended: the run came to its own end, i.e. it was neither cancelled nor killed.
        """
        return tuple(self._outcome(host, ended=ended) for host in self._planned)

    def _outcome(self, host: str, *, ended: bool) -> HostOutcome:
        state, reason = self._judge(host, ended=ended)
        bad = self._bad.get(host) if state in {HostState.FAILED, HostState.UNREACHABLE} else None
        return HostOutcome(
            host=host,
            state=state,
            changed=self._stats.changed.get(host, 0) if self._stats else 0,
            reason=reason,
            task=bad.task if bad else "",
            finished_plays=tuple(
                play for play in self._well_in.get(host, {}) if (host, play) not in self._badly_in
            ),
            report=self._report.get(host),
        )

    def _judge(self, host: str, *, ended: bool) -> tuple[HostState, str]:  # noqa: PLR0911 - a rule a line
        if host not in self._seen:
            return HostState.NOT_ATTEMPTED, "no task ran there"
        if self._stats is None or not ended:
            return HostState.FAILED, "the run ended before this host was finished: its state is unknown"
        if self._stats.dark.get(host):
            return HostState.UNREACHABLE, self._reason(host)
        if self._stats.failures.get(host):
            return HostState.FAILED, self._reason(host)
        if host not in self._stats.processed or host in self._aborted:
            return HostState.FAILED, "the run was given up before this host was finished"
        if self._last_play is not None and self._last_play not in self._well_in.get(host, {}):
            return HostState.FAILED, f"it never came through the play {self._last_play!r}"
        return HostState.OK, ""

    def _reason(self, host: str) -> str:
        bad = self._bad.get(host)
        if bad is None:
            return "no reason given"
        if bad.state is TaskState.FAILED and host in self._item_reason:
            return self._item_reason[host]
        return bad.reason
