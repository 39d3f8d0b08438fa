"""The safety wrapper's decisions as one whole: runs, tool calls, admissions, by the policy in force."""

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safety_wrapper.admission import PASSING, Refusal, Run, Runs
from safety_wrapper.approvals import SHOWN_CHARACTERS, Approvals, Question
from safety_wrapper.canaries import Canaries
from safety_wrapper.config import Config
from safety_wrapper.metering import Meter
from safety_wrapper.policy import Autonomy, Decision, Policy, Verdict, decide, load_autonomy, load_policy
from safety_wrapper.strict import InvalidDocumentError

log = logging.getLogger(__name__)

# The gateway reports a tool's end and a model call's start beside its model call, not before it.
SETTLE_S = 3.0
CANARY_DENIAL = Decision(verdict=Verdict.DENY, rule="canary", reason="a canary's tool call never runs")
TOO_LONG = "too long to be shown to a person"


class RefusedError(Exception):
    """What was asked for is refused; the text is for whoever asked."""


@dataclass(frozen=True)
class Admitted:
    admission_id: str
    run_id: str
    route: str


@dataclass(frozen=True)
class ToolRequest:
    run_id: str
    tool_call_id: str
    tool: str
    params: Mapping[str, Any]
    session_key: str

    @property
    def fingerprint(self) -> str:
        content = json.dumps([self.tool, self.params], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How the proxy says that an admitted call went; tokens as the provider counted them."""

    succeeded: bool
    model: str
    input_tokens: int
    output_tokens: int
    redactions: Mapping[str, int]


class Guard:
    """All decisions of the daemon. Whoever calls has checked who the caller is.

    Raises:
        InvalidDocumentError: there is no valid policy to begin with.
    """

    def __init__(self, config: Config) -> None:
        self.runs = Runs()
        self.canaries = Canaries()
        self.approvals = Approvals()
        self.meter = Meter()
        self.counters: Counter[str] = Counter()
        self.unmeasured: str | None = "the plugin is not measured yet"
        self.policy_fault: str | None = None
        self._config = config
        self._changed = asyncio.Event()
        self.policy, self.autonomy = self._read_policy()

    def _read_policy(self) -> tuple[Policy, Autonomy]:
        return load_policy(self._config.policy), load_autonomy(self._config.tenant)

    def reload_policy(self) -> None:
        """Read the policy anew; one that does not validate leaves the old in force and stops new runs."""
        try:
            self.policy, self.autonomy = self._read_policy()
        except InvalidDocumentError as error:
            self.policy_fault = f"invalid policy: {error}"
            log.warning("%s; revision %d stays in force", self.policy_fault, self.policy.revision)
        else:
            self.policy_fault = None
            log.info("policy revision %d in force", self.policy.revision)

    @property
    def closed(self) -> str | None:
        """Why no new run is admitted, None while admission is open."""
        return self.unmeasured or self.policy_fault

    def vouch(self) -> None:
        """The mounted plugin is the pinned one."""
        if self.unmeasured is not None:
            log.info("admission opens: the plugin is the pinned one")
        self.unmeasured = None

    def close(self, reason: str) -> None:
        """Nothing vouches for the gateway: every run ends, none begins."""
        if self.unmeasured != reason:
            log.warning("admission closes: %s", reason)
        self.unmeasured = reason
        self.end_all_runs()

    def end_all_runs(self) -> None:
        if ended := self.runs.end_all():
            log.warning("%d live runs ended", ended)
        self._notice()

    def open_run(self, run_id: str, *, session_key: str) -> str:
        """Return the nonce of this run, a new one unless the run is live.

        Raises:
            RefusedError: admission is closed.
        """
        if self.closed:
            self.counters["runs_refused"] += 1
            raise RefusedError(self.closed)
        nonce = secrets.token_urlsafe(32)
        run = self.runs.open(run_id, nonce=nonce, session_key=session_key, now=time.monotonic())
        self.counters["runs_opened"] += run.nonce == nonce
        return run.nonce

    def start_run(self, run_id: str) -> None:
        """Note that the gate before the first model call was reached.

        Raises:
            RefusedError: admission is closed, or the run has no nonce.
        """
        if self.closed:
            raise RefusedError(self.closed)
        self._live(run_id).started = True

    def announce_model_call(self, run_id: str) -> None:
        """Note that the gateway itself is about to call the model for this run.

        Raises:
            RefusedError: there is no such live run.
        """
        self._live(run_id).announced = True
        self._notice()

    def end_run(self, run_id: str) -> None:
        self.runs.end(run_id)
        self._notice()

    def end_tool_call(self, run_id: str, tool_call_id: str) -> None:
        self.runs.end_tool_call(run_id, tool_call_id, now=time.monotonic())
        self._notice()

    def _live(self, run_id: str) -> Run:
        run = self.runs.live(run_id, now=time.monotonic())
        if run is None:
            raise RefusedError("this run is not live")
        return run

    async def decide_tool_call(self, request: ToolRequest) -> Decision:
        """Decide one tool call; an "ask" waits here for a person."""
        decision = await self._decide_tool_call(request)
        self.counters[f"tools_{decision.verdict}"] += 1
        log.info("tool=%s run=%s decision=%s rule=%s", request.tool, request.run_id, *_words(decision))
        return decision

    async def _decide_tool_call(self, request: ToolRequest) -> Decision:
        now = time.monotonic()
        run = self.runs.live(request.run_id, now=now)
        if run is None or not run.started:
            return Decision(verdict=Verdict.DENY, rule="no-run", reason="this run is not live")
        standing = self.runs.begin_tool_call(
            run,
            tool_call_id=request.tool_call_id,
            fingerprint=request.fingerprint,
            limits=self.policy.limits,
            now=now,
        )
        if standing is not None:
            return standing
        decision = self._judge(request, run)
        if decision.verdict is Verdict.ASK:
            try:
                decision = await self._ask(request, decision)
            except asyncio.CancelledError:
                # No end is reported of a call that was given up: undecided it would hold its run for ever.
                run.tool_calls[request.tool_call_id].decision = replace(
                    decision, verdict=Verdict.DENY, reason="withdrawn"
                )
                self._notice()
                raise
        if self.runs.live(request.run_id, now=time.monotonic()) is not run:
            return Decision(verdict=Verdict.DENY, rule="run-ended", reason="the run ended meanwhile")
        run.tool_calls[request.tool_call_id].decision = decision
        return decision

    def _judge(self, request: ToolRequest, run: Run) -> Decision:
        if run.canary is not None:
            self.canaries.tool_call(run.canary, tool=request.tool, command=request.params.get("command"))
            return CANARY_DENIAL
        return decide(policy=self.policy, autonomy=self.autonomy, tool=request.tool, params=request.params)

    async def _ask(self, request: ToolRequest, decision: Decision) -> Decision:
        """Ask a person, who sees the whole call or is not asked: a cut one would hide what is decided."""
        params = json.dumps(request.params, sort_keys=True)
        if len(params) > SHOWN_CHARACTERS:
            return Decision(verdict=Verdict.DENY, rule=decision.rule, reason=TOO_LONG)
        timeout_s = self.policy.ask_timeout_s
        asked_at = time.time()
        question = Question(
            id=secrets.token_urlsafe(12),
            run_id=request.run_id,
            session_key=request.session_key,
            tool=request.tool,
            params=params,
            rule=decision.rule,
            reason=decision.reason,
            asked_at=asked_at,
            expires_at=asked_at + timeout_s,
        )
        self.counters["tools_asked"] += 1
        verdict = await self.approvals.ask(question, timeout_s=timeout_s)
        if verdict is Verdict.ALLOW:
            return Decision(verdict=Verdict.ALLOW, rule=decision.rule, reason="a person allowed it")
        reason = "a person denied it" if verdict else f"nobody allowed it within {timeout_s} s"
        return Decision(verdict=Verdict.DENY, rule=decision.rule, reason=reason)

    def decide_approval(self, approval_id: str, *, verdict: Verdict, approver: str) -> bool:
        """Answer a waiting question in a person's name; False when it does not wait (any more)."""
        decided = self.approvals.decide(approval_id, verdict)
        if decided:
            log.info("approval %s: %s by %s", approval_id, verdict.value, json.dumps(approver))
        return decided

    async def admit(self, nonces: Sequence[str], *, canaries: Sequence[str]) -> Admitted | Refusal:
        """Decide one model call, after a moment's patience when the gateway's next report can change it."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            changed = self._changed
            verdict = self._admit(nonces, canaries=canaries)
            remaining = deadline - time.monotonic()
            if verdict not in PASSING or remaining <= 0:
                break
            try:
                await asyncio.wait_for(changed.wait(), remaining)
            except TimeoutError:
                continue
        refused = isinstance(verdict, Refusal)
        self.counters[f"admissions_refused_{verdict}" if refused else "admissions"] += 1
        if refused:
            log.info("model call refused: %s", verdict)
        return verdict

    def _admit(self, nonces: Sequence[str], *, canaries: Sequence[str]) -> Admitted | Refusal:
        if self.unmeasured is not None:
            return Refusal.WRAPPER_UNMEASURED
        now = time.monotonic()
        admission_id = secrets.token_urlsafe(16)
        run = self.runs.admit(nonces, admission_id=admission_id, limits=self.policy.limits, now=now)
        if isinstance(run, Refusal):
            return run
        run.canary = run.canary or self.canaries.claim(canaries, run_id=run.run_id, now=now)
        if run.canary is not None:
            self.canaries.admitted(run.canary, run_id=run.run_id)
        route = "upstream" if run.canary is None else "sink"
        return Admitted(admission_id=admission_id, run_id=run.run_id, route=route)

    def release(self, admission_id: str, outcome: Outcome) -> None:
        """End an admitted model call and meter it.

        Raises:
            RefusedError: no such call is under way; a second report is not metered twice.
        """
        succeeded = outcome.succeeded
        if self.runs.release(admission_id, succeeded=succeeded, now=time.monotonic()) is None:
            raise RefusedError("no such admission")
        self.meter.add(
            at=time.time(),
            model=outcome.model,
            succeeded=succeeded,
            input_tokens=outcome.input_tokens,
            output_tokens=outcome.output_tokens,
        )
        self.meter.redactions.update(outcome.redactions)
        self._notice()

    def _notice(self) -> None:
        """Wake every admission that waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()


def _words(decision: Decision) -> tuple[str, str]:
    return decision.verdict.value, decision.rule
