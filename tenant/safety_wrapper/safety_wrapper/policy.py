"""The tenant's policy: parsed strictly once, decided purely. Matching is literal."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from safety_wrapper.strict import (
    InvalidDocumentError,
    check_keys,
    integer,
    name,
    parse_object,
    text,
    texts,
)

# The plugin gives up after 580 s and the gateway's hook limit is 600 s: an "ask" must be over before.
LONGEST_ASK_S = 540
HIGHEST_PORT = 65535
ACTING_TOOLS = frozenset({"exec", "write", "edit", "apply_patch", "process"})
CONDITIONS = ("equals", "prefix", "contains")


class Verdict(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class Autonomy(StrEnum):
    """How far the tenant lets its agents go alone; ``trusted`` loosens nothing that the policy says."""

    STRICT = "strict"
    STANDARD = "standard"
    TRUSTED = "trusted"


@dataclass(frozen=True)
class Match:
    """A literal condition on one parameter: it holds when any of the values fits."""

    param: str
    equals: tuple[str, ...]
    prefix: tuple[str, ...]
    contains: tuple[str, ...]

    def fits(self, value: str) -> bool:
        return (
            value in self.equals
            or value.startswith(self.prefix)
            or any(piece in value for piece in self.contains)
        )


@dataclass(frozen=True)
class Rule:
    id: str
    tool: str
    match: Match | None
    verdict: Verdict
    reason: str

    def applies(self, tool: str, params: Mapping[str, Any]) -> bool:
        if self.tool != tool:
            return False
        if self.match is None:
            return True
        value = params.get(self.match.param)
        if isinstance(value, str):
            return self.match.fits(value)
        # A value that cannot be searched must not slip past the rule that would have stopped it.
        return value is not None and self.verdict is not Verdict.ALLOW


@dataclass(frozen=True)
class Limits:
    tool_calls_per_minute: int
    llm_calls_per_minute: int
    llm_calls_per_run: int


@dataclass(frozen=True)
class Policy:
    revision: int
    sha256: str
    tools: Mapping[str, Verdict | None]  # None: the rules decide
    rules: tuple[Rule, ...]
    ask_timeout_s: int
    limits: Limits


@dataclass(frozen=True)
class Decision:
    """What becomes of a tool call, by which rule, and the words that the model reads."""

    verdict: Verdict
    rule: str
    reason: str


def decide(*, policy: Policy, autonomy: Autonomy, tool: str, params: Mapping[str, Any]) -> Decision:
    """Decide one tool call by its inner name. Anything the policy does not name is denied."""
    decision = _by_policy(policy=policy, tool=tool, params=params)
    if decision.verdict is Verdict.ALLOW and autonomy is Autonomy.STRICT and tool in ACTING_TOOLS:
        return Decision(verdict=Verdict.ASK, rule=decision.rule, reason="a person must allow this call")
    return decision


def _by_policy(*, policy: Policy, tool: str, params: Mapping[str, Any]) -> Decision:
    if tool not in policy.tools:
        return Decision(
            verdict=Verdict.DENY, rule="default", reason=f"the policy does not know the tool {tool!r}"
        )
    verdict = policy.tools[tool]
    if verdict is not None:
        reason = "" if verdict is Verdict.ALLOW else f"the policy says {verdict} to the tool {tool!r}"
        return Decision(verdict=verdict, rule=f"tools.{tool}", reason=reason)
    for rule in policy.rules:
        if rule.applies(tool, params):
            return Decision(verdict=rule.verdict, rule=rule.id, reason=rule.reason)
    return Decision(verdict=Verdict.DENY, rule="no-rule", reason=f"no rule lets this call of {tool!r} pass")


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        InvalidDocumentError: the file cannot be read or breaks the contract.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidDocumentError(f"{path}: {error.strerror}") from error
    return parse_policy(content)


def parse_policy(content: bytes) -> Policy:
    """Return the policy in ``content``, whole or not at all.

    Raises:
        InvalidDocumentError: an unknown key, a missing one, another type, or a default other than deny.
    """
    document = parse_object(content)
    where = "policy"
    check_keys(
        document,
        where=where,
        required={"version", "revision", "default", "tools", "rules", "ask_timeout_s", "limits"},
        optional=frozenset({"external_communication", "loopback_ports"}),
    )
    integer(document, "version", where=where, least=1, most=1)
    if document["default"] != Verdict.DENY:
        raise InvalidDocumentError("policy.default can only be 'deny'")
    _check_others(document)
    return Policy(
        revision=integer(document, "revision", where=where, least=1, most=2**31),
        sha256=hashlib.sha256(content).hexdigest(),
        tools=_tools(document["tools"]),
        rules=_rules(document["rules"]),
        ask_timeout_s=integer(document, "ask_timeout_s", where=where, least=1, most=LONGEST_ASK_S),
        limits=_limits(document["limits"]),
    )


def _check_others(document: Mapping[str, Any]) -> None:
    """Two keys are other programs' to obey; a typing error in them still makes the file invalid."""
    external = document.get("external_communication", Verdict.ASK)
    if external not in set(Verdict):
        raise InvalidDocumentError("policy.external_communication is neither allow, deny nor ask")
    ports = document.get("loopback_ports", [])
    if not isinstance(ports, list) or not all(
        type(port) is int and 1 <= port <= HIGHEST_PORT for port in ports
    ):
        raise InvalidDocumentError("policy.loopback_ports is no list of ports")


def _tools(document: object) -> Mapping[str, Verdict | None]:
    if not isinstance(document, dict):
        raise InvalidDocumentError("policy.tools is no object")
    tools: dict[str, Verdict | None] = {}
    for tool, word in document.items():
        if word not in {*Verdict, "rules"}:
            raise InvalidDocumentError(f"policy.tools.{tool} is neither allow, deny, ask nor rules")
        tools[tool] = None if word == "rules" else Verdict(word)
    return tools


def _rules(document: object) -> tuple[Rule, ...]:
    if not isinstance(document, list):
        raise InvalidDocumentError("policy.rules is no list")
    rules = tuple(_rule(item, f"policy.rules[{index}]") for index, item in enumerate(document))
    if len({rule.id for rule in rules}) != len(rules):
        raise InvalidDocumentError("policy.rules repeats an id")
    return rules


def _rule(document: object, where: str) -> Rule:
    if not isinstance(document, dict):
        raise InvalidDocumentError(f"{where} is no object")
    check_keys(
        document,
        where=where,
        required={"id", "tool", "decision"},
        optional=frozenset({"match", "reason"}),
    )
    try:
        verdict = Verdict(text(document, "decision", where=where))
    except ValueError as error:
        raise InvalidDocumentError(f"{where}.decision is neither allow, deny nor ask") from error
    rule_id = name(document, "id", where=where, longest=64)
    otherwise = "" if verdict is Verdict.ALLOW else f"the rule {rule_id!r} says {verdict}"
    return Rule(
        id=rule_id,
        tool=name(document, "tool", where=where),
        match=_match(document["match"], f"{where}.match") if "match" in document else None,
        verdict=verdict,
        reason=text({"reason": otherwise, **document}, "reason", where=where, longest=300),
    )


def _match(document: object, where: str) -> Match:
    if not isinstance(document, dict):
        raise InvalidDocumentError(f"{where} is no object")
    check_keys(document, where=where, required={"param"}, optional=frozenset(CONDITIONS))
    values = {key: texts({key: [], **document}, key, where=where) for key in CONDITIONS}
    if not any(values.values()) or any("" in pieces for pieces in values.values()):
        raise InvalidDocumentError(f"{where} needs {', '.join(CONDITIONS)} with texts that are not empty")
    return Match(param=name(document, "param", where=where), **values)


def _limits(document: object) -> Limits:
    where = "policy.limits"
    if not isinstance(document, dict):
        raise InvalidDocumentError(f"{where} is no object")
    check_keys(
        document,
        where=where,
        required={"tool_calls_per_minute", "llm_calls_per_minute", "llm_calls_per_run"},
    )
    return Limits(
        tool_calls_per_minute=integer(document, "tool_calls_per_minute", where=where, least=1, most=100_000),
        llm_calls_per_minute=integer(document, "llm_calls_per_minute", where=where, least=1, most=100_000),
        llm_calls_per_run=integer(document, "llm_calls_per_run", where=where, least=1, most=1_000_000),
    )


def load_autonomy(path: Path) -> Autonomy:
    """Return the tenant's autonomy from its facts; the other facts are not this program's.

    Raises:
        InvalidDocumentError: the file is unreadable or the value is none of the three.
    """
    try:
        return Autonomy(text(parse_object(path.read_bytes()), "autonomy", where="tenant"))
    except OSError as error:
        raise InvalidDocumentError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidDocumentError(f"{path}: {error}") from error
