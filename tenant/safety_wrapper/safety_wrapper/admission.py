"""Runs, their nonces, and which model call may pass: a state machine without clock, randomness or I/O.

Times are seconds of one monotonic clock, handed in by the caller; so are nonces and admission ids.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from safety_wrapper.policy import Decision, Limits, Verdict
from safety_wrapper.window import Window

RUN_IDLE_S = 900.0
RUN_LONGEST_S = 6 * 3600.0
ADMISSION_LONGEST_S = 1800.0
ENDED_NONCES_KEPT = 4096


class Refusal(StrEnum):
    """Why a model call is not admitted: the words of the contract."""

    NO_NONCE = "no_nonce"
    UNKNOWN_NONCE = "unknown_nonce"
    RUN_ENDED = "run_ended"
    RUN_IN_TOOL = "run_in_tool"
    BUSY = "busy"
    WRAPPER_UNMEASURED = "wrapper_unmeasured"
    RATE_LIMITED = "rate_limited"


# What the next message of the gateway may cure within moments: its reports arrive beside its model calls.
PASSING = frozenset({Refusal.RUN_IN_TOOL, Refusal.BUSY})


@dataclass
class ToolCall:
    fingerprint: str
    decision: Decision | None = None
    ended: bool = False

    @property
    def running(self) -> bool:
        allowed = self.decision is not None and self.decision.verdict is Verdict.ALLOW
        return not self.ended and (self.decision is None or allowed)


@dataclass
class Run:
    """One agent run of the gateway, from its prompt to its end."""

    run_id: str
    nonce: str
    session_key: str
    opened_at: float
    last_event_at: float
    started: bool = False
    announced: bool = False
    model_calls: int = 0
    admission_id: str | None = None
    admitted_at: float = 0.0
    canary: str | None = None
    tool_calls: dict[str, ToolCall] = field(default_factory=dict)

    @property
    def in_tool(self) -> bool:
        return any(call.running for call in self.tool_calls.values())

    def expired(self, now: float) -> bool:
        idle = not self.in_tool and self.admission_id is None and now - self.last_event_at >= RUN_IDLE_S
        stuck = self.admission_id is not None and now - self.admitted_at >= ADMISSION_LONGEST_S
        return idle or stuck or now - self.opened_at >= RUN_LONGEST_S


class Runs:
    """Every live run, by id and by nonce; nothing outside holds a nonce that is not here."""

    def __init__(self) -> None:
        self._by_id: dict[str, Run] = {}
        self._by_nonce: dict[str, Run] = {}
        self._by_admission: dict[str, Run] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._model_calls = Window()
        self._tool_calls = Window()

    def count(self, *, now: float) -> int:
        self.expire(now=now)
        return len(self._by_id)

    def live(self, run_id: str, *, now: float) -> Run | None:
        self.expire(now=now)
        return self._by_id.get(run_id)

    def open(self, run_id: str, *, nonce: str, session_key: str, now: float) -> Run:
        """Return the live run of this id, or begin one with ``nonce``."""
        run = self.live(run_id, now=now)
        if run is None:
            run = Run(run_id=run_id, nonce=nonce, session_key=session_key, opened_at=now, last_event_at=now)
            self._by_id[run_id] = run
            self._by_nonce[nonce] = run
        run.last_event_at = now
        return run

    def end(self, run_id: str) -> None:
        run = self._by_id.pop(run_id, None)
        if run is None:
            return
        del self._by_nonce[run.nonce]
        if run.admission_id is not None:
            self._by_admission.pop(run.admission_id, None)
        self._ended[run.nonce] = None
        while len(self._ended) > ENDED_NONCES_KEPT:
            self._ended.popitem(last=False)

    def end_all(self) -> int:
        ids = list(self._by_id)
        for run_id in ids:
            self.end(run_id)
        return len(ids)

    def expire(self, *, now: float) -> None:
        for run_id in [run_id for run_id, run in self._by_id.items() if run.expired(now)]:
            self.end(run_id)

    def admit(self, nonces: Sequence[str], *, admission_id: str, limits: Limits, now: float) -> Run | Refusal:
        """Let one model call pass, or say why not. An admitted run is busy until ``release``."""
        self.expire(now=now)
        run = self._run_of(nonces)
        if isinstance(run, Refusal):
            return run
        if refusal := self._obstacle(run, limits=limits, now=now):
            return refusal
        run.admission_id = admission_id
        run.admitted_at = run.last_event_at = now
        run.model_calls += 1
        run.announced = False
        self._by_admission[admission_id] = run
        self._model_calls.add(now)
        return run

    def _run_of(self, nonces: Sequence[str]) -> Run | Refusal:
        if not nonces:
            return Refusal.NO_NONCE
        runs = [self._by_nonce[nonce] for nonce in set(nonces) if nonce in self._by_nonce]
        if len(runs) == 1:
            return runs[0]
        if not runs and any(nonce in self._ended for nonce in nonces):
            return Refusal.RUN_ENDED
        return Refusal.UNKNOWN_NONCE

    def _obstacle(self, run: Run, *, limits: Limits, now: float) -> Refusal | None:
        if not run.started:
            return Refusal.UNKNOWN_NONCE
        if run.in_tool:
            return Refusal.RUN_IN_TOOL
        # The gateway announces each of its model calls; a call nobody announced is not the gateway's.
        if run.admission_id is not None or not run.announced:
            return Refusal.BUSY
        if run.model_calls >= limits.llm_calls_per_run:
            return Refusal.RATE_LIMITED
        if self._model_calls.count(now) >= limits.llm_calls_per_minute:
            return Refusal.RATE_LIMITED
        return None

    def release(self, admission_id: str, *, succeeded: bool, now: float) -> Run | None:
        """End a model call. One that failed may be repeated by the gateway's client without a new word."""
        run = self._by_admission.pop(admission_id, None)
        if run is None:
            return None
        run.admission_id = None
        run.last_event_at = now
        if not succeeded:
            run.announced = True
        return run

    def begin_tool_call(
        self, run: Run, *, tool_call_id: str, fingerprint: str, limits: Limits, now: float
    ) -> Decision | None:
        """Register a tool call; return a decision that stands already, None when it is still to be made."""
        run.last_event_at = now
        if known := run.tool_calls.get(tool_call_id):
            if known.fingerprint == fingerprint and known.decision is not None and not known.ended:
                return known.decision
            return Decision(verdict=Verdict.DENY, rule="repeated-id", reason="this call's id was used before")
        call = run.tool_calls[tool_call_id] = ToolCall(fingerprint=fingerprint)
        if self._tool_calls.count(now) >= limits.tool_calls_per_minute:
            call.decision = Decision(
                verdict=Verdict.DENY, rule="rate-limit", reason="too many tool calls in the last minute"
            )
            return call.decision
        self._tool_calls.add(now)
        return None

    def end_tool_call(self, run_id: str, tool_call_id: str, *, now: float) -> None:
        run = self._by_id.get(run_id)
        if run is None or tool_call_id not in run.tool_calls:
            return
        run.tool_calls[tool_call_id].ended = True
        run.last_event_at = now
