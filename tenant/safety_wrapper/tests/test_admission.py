import pytest
from safety_wrapper.admission import (
    ADMISSION_LONGEST_S,
    RUN_IDLE_S,
    RUN_LONGEST_S,
    Refusal,
    Run,
    Runs,
)
from safety_wrapper.policy import Decision, Limits, Verdict

LIMITS = Limits(tool_calls_per_minute=3, llm_calls_per_minute=100, llm_calls_per_run=3)
ALLOW = Decision(verdict=Verdict.ALLOW, rule="r", reason="")
DENY = Decision(verdict=Verdict.DENY, rule="r", reason="no")


def ready(runs: Runs, run_id: str = "run", nonce: str = "nonce", now: float = 0.0) -> Run:
    run = runs.open(run_id, nonce=nonce, session_key="s", now=now)
    run.started = run.announced = True
    return run


def admit(runs: Runs, *nonces: str, admission_id: str = "a", now: float = 1.0) -> Run | Refusal:
    return runs.admit(nonces, admission_id=admission_id, limits=LIMITS, now=now)


def begin(runs: Runs, run: Run, call: str = "c", fingerprint: str = "f", now: float = 1.0) -> Decision | None:
    return runs.begin_tool_call(run, tool_call_id=call, fingerprint=fingerprint, limits=LIMITS, now=now)


def test_a_model_call_of_a_live_announced_run_is_admitted_once() -> None:
    runs = Runs()
    run = ready(runs)
    assert admit(runs, "nonce") is run
    assert admit(runs, "nonce", admission_id="b") is Refusal.BUSY
    runs.release("a", succeeded=True, now=2)
    assert admit(runs, "nonce", admission_id="b") is Refusal.BUSY, "nobody announced a second call"
    run.announced = True
    assert admit(runs, "nonce", admission_id="b") is run


def test_a_failed_model_call_may_be_repeated_without_a_new_announcement() -> None:
    runs = Runs()
    run = ready(runs)
    admit(runs, "nonce")
    runs.release("a", succeeded=False, now=2)
    assert admit(runs, "nonce", admission_id="b") is run


def test_opening_a_live_run_again_gives_the_same_nonce_and_an_ended_one_a_new() -> None:
    runs = Runs()
    ready(runs)
    assert runs.open("run", nonce="other", session_key="s", now=1).nonce == "nonce"
    runs.end("run")
    again = runs.open("run", nonce="other", session_key="s", now=2)
    assert (again.nonce, again.started) == ("other", False)
    assert admit(runs, "nonce") is Refusal.RUN_ENDED


@pytest.mark.parametrize(
    ("nonces", "refusal"),
    [
        ((), Refusal.NO_NONCE),
        (("strange",), Refusal.UNKNOWN_NONCE),
        (("nonce", "second"), Refusal.UNKNOWN_NONCE),
        (("ended",), Refusal.RUN_ENDED),
        (("unstarted",), Refusal.UNKNOWN_NONCE),
    ],
)
def test_exactly_one_live_started_run_must_stand_in_the_prompt(
    nonces: tuple[str, ...], refusal: Refusal
) -> None:
    runs = Runs()
    ready(runs)
    ready(runs, "other", "second")
    ready(runs, "gone", "ended")
    runs.end("gone")
    ready(runs, "early", "unstarted").started = False
    assert admit(runs, *nonces) is refusal


def test_an_old_nonce_beside_the_live_one_does_no_harm() -> None:
    runs = Runs()
    ready(runs, "gone", "ended")
    runs.end("gone")
    run = ready(runs)
    assert admit(runs, "ended", "nonce", "nonce") is run


def test_no_model_call_passes_while_an_allowed_or_undecided_tool_call_runs() -> None:
    runs = Runs()
    run = ready(runs)
    assert begin(runs, run) is None
    assert admit(runs, "nonce") is Refusal.RUN_IN_TOOL
    run.tool_calls["c"].decision = ALLOW
    assert admit(runs, "nonce") is Refusal.RUN_IN_TOOL
    runs.end_tool_call("run", "c", now=1)
    assert admit(runs, "nonce") is run


def test_a_denied_tool_call_does_not_hold_the_run() -> None:
    runs = Runs()
    run = ready(runs)
    begin(runs, run)
    run.tool_calls["c"].decision = DENY
    assert admit(runs, "nonce") is run


def test_a_repeated_tool_call_keeps_its_decision_unless_it_changed_or_ended() -> None:
    runs = Runs()
    run = ready(runs)
    begin(runs, run)
    assert repeated(begin(runs, run)), "still undecided"
    run.tool_calls["c"].decision = ALLOW
    assert begin(runs, run) is ALLOW
    assert repeated(begin(runs, run, fingerprint="changed"))
    runs.end_tool_call("run", "c", now=1)
    assert repeated(begin(runs, run)), "an approval is for one execution"


def repeated(decision: Decision | None) -> bool:
    return decision is not None and (decision.verdict, decision.rule) == (Verdict.DENY, "repeated-id")


def test_limits_count_a_sliding_minute_and_the_whole_run() -> None:
    runs = Runs()
    run = ready(runs)
    assert [begin(runs, run, call=str(n)) for n in range(3)] == [None, None, None]
    limited = begin(runs, run, call="3")
    assert limited is not None
    assert limited.rule == "rate-limit"
    assert begin(runs, run, call="4", now=61.0) is None
    for number in range(5):
        runs.end_tool_call("run", str(number), now=61)
    for number in range(3):
        run.announced = True
        assert admit(runs, "nonce", admission_id=str(number), now=62) is run
        runs.release(str(number), succeeded=True, now=62)
    run.announced = True
    assert admit(runs, "nonce", admission_id="last", now=62) is Refusal.RATE_LIMITED


def test_model_calls_per_minute_are_limited_over_all_runs() -> None:
    runs = Runs()
    few = Limits(tool_calls_per_minute=1, llm_calls_per_minute=2, llm_calls_per_run=9)
    for number in range(3):
        ready(runs, f"run{number}", f"nonce{number}")

    def call(number: int, now: float) -> Run | Refusal:
        return runs.admit([f"nonce{number}"], admission_id=str(number), limits=few, now=now)

    assert isinstance(call(0, 1), Run)
    assert isinstance(call(1, 2), Run)
    assert call(2, 60) is Refusal.RATE_LIMITED
    assert isinstance(call(2, 61), Run)


def test_a_nonce_dies_when_idle_stuck_or_old() -> None:
    runs = Runs()
    ready(runs)
    assert admit(runs, "nonce", now=RUN_IDLE_S) is Refusal.RUN_ENDED
    ready(runs, "stuck", "stuck")
    admit(runs, "stuck", admission_id="s", now=10)
    assert runs.live("stuck", now=10 + ADMISSION_LONGEST_S) is None
    assert runs.release("s", succeeded=True, now=10 + ADMISSION_LONGEST_S) is None
    run = ready(runs, "long", "long")
    begin(runs, run)
    assert runs.live("long", now=RUN_LONGEST_S - 1) is run, "a long tool call keeps its run alive"
    assert runs.live("long", now=RUN_LONGEST_S) is None


def test_ending_all_runs_leaves_no_nonce_alive() -> None:
    runs = Runs()
    ready(runs)
    ready(runs, "other", "second")
    assert runs.end_all() == 2
    assert admit(runs, "nonce") is Refusal.RUN_ENDED
    assert runs.count(now=1) == 0
