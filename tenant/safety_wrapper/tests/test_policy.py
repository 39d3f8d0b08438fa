import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safety_wrapper.policy import Autonomy, Decision, Policy, Verdict, decide, parse_policy
from safety_wrapper.strict import InvalidDocumentError

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "revision": 7,
    "default": "deny",
    "tools": {"read": "allow", "write": "allow", "browser": "deny", "process": "ask", "exec": "rules"},
    "rules": [
        {
            "id": "no-delete",
            "tool": "exec",
            "match": {"param": "command", "contains": ["rm -rf", "rm -fr"]},
            "decision": "deny",
            "reason": "no deletion",
        },
        {
            "id": "ask-publish",
            "tool": "exec",
            "match": {"param": "command", "prefix": ["publish "]},
            "decision": "ask",
        },
        {
            "id": "list",
            "tool": "exec",
            "match": {"param": "command", "equals": ["ls"]},
            "decision": "allow",
        },
    ],
    "ask_timeout_s": 60,
    "limits": {"tool_calls_per_minute": 60, "llm_calls_per_minute": 60, "llm_calls_per_run": 200},
}


def changed(**changes: object) -> bytes:
    return json.dumps({**copy.deepcopy(DOCUMENT), **changes}).encode()


POLICY: Policy = parse_policy(changed())


def verdict(tool: str, params: dict[str, Any], autonomy: Autonomy = Autonomy.STANDARD) -> Decision:
    return decide(policy=POLICY, autonomy=autonomy, tool=tool, params=params)


@pytest.mark.parametrize(
    ("tool", "params", "expected", "rule"),
    [
        ("read", {"path": "x"}, Verdict.ALLOW, "tools.read"),
        ("browser", {}, Verdict.DENY, "tools.browser"),
        ("process", {}, Verdict.ASK, "tools.process"),
        ("gateway", {}, Verdict.DENY, "default"),
        ("Exec", {"command": "ls"}, Verdict.DENY, "default"),
        ("exec", {"command": "ls"}, Verdict.ALLOW, "list"),
        ("exec", {"command": "ls "}, Verdict.DENY, "no-rule"),
        ("exec", {"command": "ls; rm -rf /"}, Verdict.DENY, "no-delete"),
        ("exec", {"command": "publish rm -fr"}, Verdict.DENY, "no-delete"),
        ("exec", {"command": "publish it"}, Verdict.ASK, "ask-publish"),
        ("exec", {"command": "do publish it"}, Verdict.DENY, "no-rule"),
        ("exec", {}, Verdict.DENY, "no-rule"),
    ],
)
def test_the_first_rule_that_fits_decides_and_the_unknown_is_denied(
    tool: str, params: dict[str, Any], expected: Verdict, rule: str
) -> None:
    decision = verdict(tool, params)
    assert (decision.verdict, decision.rule) == (expected, rule)


def test_a_denial_tells_the_model_why() -> None:
    assert verdict("exec", {"command": "rm -rf /"}).reason == "no deletion"
    assert "gateway" in verdict("gateway", {}).reason


def test_a_value_that_cannot_be_searched_does_not_slip_past_a_denying_rule() -> None:
    assert verdict("exec", {"command": ["rm", "-rf"]}).rule == "no-delete"


def test_strict_autonomy_asks_for_every_allowed_action_and_trusted_loosens_nothing() -> None:
    assert verdict("write", {}, Autonomy.STRICT).verdict is Verdict.ASK
    assert verdict("exec", {"command": "ls"}, Autonomy.STRICT).verdict is Verdict.ASK
    assert verdict("read", {}, Autonomy.STRICT).verdict is Verdict.ALLOW
    assert verdict("exec", {"command": "rm -rf x"}, Autonomy.STRICT).verdict is Verdict.DENY
    for tool, params in (("browser", {}), ("process", {}), ("exec", {"command": "rm -rf x"})):
        assert verdict(tool, params, Autonomy.TRUSTED) == verdict(tool, params)


@given(tool=st.text(max_size=12), command=st.text(max_size=40))
def test_only_what_the_policy_names_is_ever_allowed(tool: str, command: str) -> None:
    decision = verdict(tool, {"command": command})
    if decision.verdict is Verdict.ALLOW:
        assert tool in {"read", "write"} or (tool, command) == ("exec", "ls")


LIMITS = DOCUMENT["limits"]
RULE: dict[str, Any] = {"id": "r", "tool": "exec", "decision": "allow"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"version": 1, "version": 1}',
        changed(version=2),
        changed(version=True),
        changed(default="allow"),
        changed(extra=1),
        changed(tools={"exec": "maybe"}),
        changed(tools=[]),
        changed(rules={}),
        changed(rules=[{**RULE, "decision": "rules"}]),
        changed(rules=[RULE, RULE]),
        changed(rules=[{**RULE, "unless": 1}]),
        changed(rules=[{**RULE, "match": {"param": "command"}}]),
        changed(rules=[{**RULE, "match": {"param": "command", "contains": [""]}}]),
        changed(rules=[{**RULE, "match": {"param": "command", "contains": "rm"}}]),
        changed(rules=[{**RULE, "match": {"param": "command", "regex": ["x"]}}]),
        changed(ask_timeout_s=0),
        changed(ask_timeout_s=541),
        changed(limits={**LIMITS, "tool_calls_per_minute": 0}),
        changed(limits={"tool_calls_per_minute": 1}),
        changed(external_communication="sometimes"),
        changed(loopback_ports=[0]),
    ],
)
def test_a_policy_that_breaks_the_contract_is_refused_whole(content: bytes) -> None:
    with pytest.raises(InvalidDocumentError):
        parse_policy(content)


def test_the_contracts_own_example_is_a_valid_policy() -> None:
    extras = changed(external_communication="ask", loopback_ports=[18900])
    assert parse_policy(extras).revision == 7
