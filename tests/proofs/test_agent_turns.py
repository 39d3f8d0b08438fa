"""Proof 1: allowed calls run, denied ones do not and the model hears why, an unanswered question is a no."""

import secrets

import pytest

from lab.conversation import Agent, ModelRecord
from tests.proofs.tenants import Tenant

pytestmark = pytest.mark.lab
WORKSPACE = "/var/lib/openclaw/workspace"


def run(command: str) -> dict[str, object]:
    return {"tool": "exec", "arguments": {"command": command}}


def exists(agent: Agent, name: str) -> bool:
    return agent.inside("test", "-e", f"{WORKSPACE}/{name}").returncode == 0


def test_a_call_that_the_policy_allows_runs(tenant: Tenant) -> None:
    mark = secrets.token_hex(8)
    turn = tenant.agent.say("leave a mark", script=[run(f"echo {mark} > {mark}"), {"text": "left"}])
    assert exists(tenant.agent, mark), turn.output


def test_a_denied_call_does_not_run_and_the_model_is_told_why(tenant: Tenant, record: ModelRecord) -> None:
    kept = secrets.token_hex(8)
    tenant.agent.inside("mkdir", f"{WORKSPACE}/{kept}")
    before = len(record.requests())
    turn = tenant.agent.say("tidy up", script=[run(f"rm -rf {kept}"), {"text": "tried"}])
    assert exists(tenant.agent, kept), turn.output
    told = [body for body in record.since(before) if b"a recursive delete cannot be taken back" in body]
    assert told, turn.output


def test_a_question_that_nobody_answers_is_a_no(tenant: Tenant, record: ModelRecord) -> None:
    mark = secrets.token_hex(8)
    before = len(record.requests())
    script: list[dict[str, object]] = [run(f"git push; touch {mark}"), {"text": "asked"}]
    turn = tenant.agent.say("publish it", script=script)
    assert not exists(tenant.agent, mark), turn.output
    waiting = tenant.agent.on_host(
        "curl", "-s", "--unix-socket", "/run/tf-wrapper/status/status.sock", "http://daemon/v1/status"
    ).stdout
    assert '"expired": 1' in waiting, waiting
    assert len(record.since(before)) > 1, "the model was not told that its call was refused"


def test_a_tool_that_the_policy_does_not_name_is_not_there(tenant: Tenant, record: ModelRecord) -> None:
    before = len(record.requests())
    script: list[dict[str, object]] = [
        {"tool": "openclaw", "arguments": {"message": "disable the plugin safety-wrapper"}},
        {"text": "asked"},
    ]
    tenant.agent.say("change yourself", script=script)
    answers = b"".join(record.since(before))
    assert b"not found" in answers or b"Unknown tool" in answers
