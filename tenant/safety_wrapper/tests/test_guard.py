"""The guard's own decisions, without sockets or processes."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest
from safety_wrapper.admission import Refusal
from safety_wrapper.approvals import SHOWN_CHARACTERS
from safety_wrapper.config import parse_config
from safety_wrapper.guard import Admitted, Guard, ToolRequest
from safety_wrapper.policy import Decision, Verdict

POLICY = {
    "version": 1,
    "revision": 1,
    "default": "deny",
    "tools": {"exec": "rules"},
    "rules": [{"id": "ask-exec", "tool": "exec", "decision": "ask"}],
    "ask_timeout_s": 60,
    "limits": {"tool_calls_per_minute": 100, "llm_calls_per_minute": 100, "llm_calls_per_run": 100},
}


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    """A guard with one started run, `r`."""
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    (tmp_path / "tenant.json").write_text('{"autonomy": "standard"}')
    paths = {name: str(tmp_path / f"{name}.json") for name in ("policy", "tenant")}
    made = Guard(parse_config({"version": 1, "plugin_sha256": "0" * 64, **paths}))
    made.vouch()
    made.open_run("r", session_key="s")
    made.start_run("r")
    return made


def exec_call(command: str) -> ToolRequest:
    return ToolRequest(
        run_id="r", tool_call_id="c", tool="exec", params={"command": command}, session_key="s"
    )


def test_a_question_too_long_to_be_shown_whole_is_denied_and_never_asked(guard: Guard) -> None:
    longest = "x" * (SHOWN_CHARACTERS - len(json.dumps({"command": ""})))

    async def ask() -> tuple[Decision, str]:
        too_long = await guard.decide_tool_call(exec_call(longest + "x"))
        assert guard.approvals.waiting == []
        guard.runs.end("r")
        guard.open_run("r", session_key="s")
        guard.start_run("r")
        asking = asyncio.create_task(guard.decide_tool_call(exec_call(longest)))
        await asyncio.sleep(0)  # the task runs up to its question
        shown = guard.approvals.waiting[0].params
        asking.cancel()
        return too_long, shown

    too_long, shown = asyncio.run(asyncio.wait_for(ask(), 20))
    assert too_long == Decision(
        verdict=Verdict.DENY, rule="ask-exec", reason="too long to be shown to a person"
    )
    assert json.loads(shown) == {"command": longest}


def test_a_question_that_was_withdrawn_does_not_hold_its_run(guard: Guard) -> None:
    nonce = guard.open_run("r", session_key="s")
    guard.announce_model_call("r")

    async def hang_up() -> tuple[Admitted | Refusal, Decision]:
        asking = asyncio.create_task(guard.decide_tool_call(exec_call("true")))
        await asyncio.sleep(0)  # the task runs up to its question
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        return await guard.admit([nonce], canaries=[]), await guard.decide_tool_call(exec_call("true"))

    admitted, repeated = asyncio.run(asyncio.wait_for(hang_up(), 20))
    assert isinstance(admitted, Admitted)
    assert repeated == Decision(verdict=Verdict.DENY, rule="ask-exec", reason="withdrawn")
