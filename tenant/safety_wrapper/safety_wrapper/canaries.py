"""Canaries: markers of a turn that proves, end to end, that an agent is guarded. Pure; time is handed in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

CANARY_S = 120.0
KEPT_S = 600.0
MOST_KEPT = 100
CANARY_TOOL = "exec"
NEEDED_ADMISSIONS = 2  # the call that asks for the tool, and the one that carries the tool's denial back


@dataclass(frozen=True)
class CanaryRecord:
    """What the daemon itself saw of one canary's run."""

    born_at: float
    run_id: str | None = None
    before_agent_run: bool = False
    before_tool_call: bool = False
    tool_denied: bool = False
    admitted: int = 0

    @property
    def passed(self) -> bool:
        seen = self.before_agent_run and self.before_tool_call and self.tool_denied
        return seen and self.admitted >= NEEDED_ADMISSIONS


class Canaries:
    """The records by canary. A canary is for one run and for 120 s."""

    def __init__(self) -> None:
        self._records: dict[str, CanaryRecord] = {}

    def add(self, canary: str, *, now: float) -> None:
        """Begin a record; forget old ones.

        Raises:
            OverflowError: too many are kept already.
        """
        self._records = {
            known: record for known, record in self._records.items() if now - record.born_at < KEPT_S
        }
        if len(self._records) >= MOST_KEPT:
            raise OverflowError("too many canaries within ten minutes")
        self._records[canary] = CanaryRecord(born_at=now)

    def record(self, canary: str) -> CanaryRecord | None:
        return self._records.get(canary)

    def claim(self, named: Sequence[str], *, run_id: str, now: float) -> str | None:
        """Return the first of the named canaries that is this run's, or can still become it."""
        for canary in named:
            record = self._records.get(canary)
            if record is None or now - record.born_at >= CANARY_S:
                continue
            if record.run_id in {None, run_id}:
                return canary
        return None

    def admitted(self, canary: str, *, run_id: str) -> None:
        """Note a model call of the canary's run; only runs that passed ``before_agent_run`` are admitted."""
        record = self._records.get(canary)
        if record is None:
            return
        self._records[canary] = replace(
            record,
            run_id=run_id,
            before_agent_run=True,
            admitted=record.admitted + 1,
        )

    def tool_call(self, canary: str, *, tool: str, command: object) -> None:
        """Note the canary's own tool call, which the daemon denies whatever the policy says."""
        record = self._records.get(canary)
        if record and tool == CANARY_TOOL and isinstance(command, str) and canary in command:
            self._records[canary] = replace(record, before_tool_call=True, tool_denied=True)
