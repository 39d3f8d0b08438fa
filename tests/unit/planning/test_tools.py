from __future__ import annotations

from typing import Any

import pytest

from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.stack import Stack, StackFile, check_stack
from tenantfleet.planning.tools import (
    ReleasedStack,
    ToolsPlan,
    ToolSurroundings,
    plan_tools,
    refuse_unknown_tools,
)

FEEDS = {"feeds": {"addresses": ["192.0.2.7"], "ports": [443]}}


def service(uid: int, **changes: object) -> dict[str, Any]:
    return {
        "image": "registry.test/tools/x@sha256:" + "a" * 64,
        "user": f"{uid}:{uid}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "command": ["/x"],
    } | changes


def stack(name: str = "notes", number: int = 1, **changes: object) -> Stack:
    fields: dict[str, Any] = {
        "version": 1,
        "port": 18900 + number,
        "service": "api",
        "listen": 8080,
        "health": "/",
        "network": f"10.210.{number}.0/24",
        "secrets": ("key",),
    } | changes
    uid = 2200 + number
    compose = {"services": {"api": service(uid, secrets=["key"]), "db": service(uid)}}
    return check_stack(name, file=StackFile(**fields), compose=compose)


def plan(*stacks: Stack, ports: set[int] | None = None) -> ToolsPlan:
    around = ToolSurroundings(policy_ports=frozenset(ports or set()), destinations=FEEDS)
    return plan_tools([ReleasedStack(stack=one, sha256="b" * 64) for one in stacks], around=around)


def test_the_agent_gets_a_row_to_a_stack_only_when_the_policy_names_its_port() -> None:
    named = {row["name"]: row for row in plan(stack(), ports={18901}).egress}
    assert named["openclaw to notes"]["ports"] == [18901]
    assert named["openclaw to notes"]["addresses"] == "loopback"
    assert [row["name"] for row in plan(stack(), ports={18902}).egress] == ["nginx to notes"]


def test_nginx_alone_reaches_the_service_that_answers_and_only_its_port() -> None:
    (row,) = plan(stack()).egress
    assert (row["user"], row["addresses"], row["ports"]) == ("www-data", ["10.210.1.2"], [8080])
    assert row["interface"] == "tf-1", "else a stopped stack's requests leave by the default route"


def test_a_stack_goes_out_to_its_declared_destinations_only() -> None:
    assert plan(stack()).forward == ()
    (row,) = plan(stack(destinations=("feeds",))).forward
    assert (row["sources"], row["addresses"], row["ports"]) == (["10.210.1.0/24"], ["192.0.2.7"], [443])


def test_services_of_a_stack_reach_each_other_on_declared_ports_only() -> None:
    (row,) = plan(stack(inside=(5432,))).forward
    assert (row["sources"], row["addresses"], row["ports"]) == (["10.210.1.0/24"], ["10.210.1.0/24"], [5432])


def test_a_destination_that_the_environment_does_not_know_is_refused() -> None:
    with pytest.raises(InputRefusedError, match="notes goes to elsewhere"):
        plan(stack(destinations=("elsewhere",)))


def test_an_unknown_tool_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputRefusedError, match="no tool crm; it has notes, pages"):
        refuse_unknown_tools(["notes", "crm"], available=["pages", "notes"])


@pytest.mark.parametrize(
    ("other", "claim"),
    [
        (stack("other", 2, port=18901), "port 18901"),
        (stack("other", 2, network="10.210.1.0/24"), "network"),
    ],
)
def test_two_stacks_that_claim_the_same_are_refused(other: Stack, claim: str) -> None:
    with pytest.raises(InputRefusedError, match=f"notes and other both claim {claim}"):
        plan(stack(), other)


def test_secrets_that_the_payload_does_not_bring_are_to_be_made() -> None:
    (made,) = plan(stack()).secrets
    assert made["name"] == "tools.notes.key"
    assert plan(stack()).stacks[0]["secrets"] == [{"name": "key", "uid": 2201}]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"secrets": ()}, "not the same"),
        ({"secrets": ("key", "more")}, "not the same"),
        ({"service": "web"}, "no service"),
        ({"network": "10.210.999.0/24"}, "no network"),
    ],
)
def test_a_stack_that_contradicts_itself_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputRefusedError, match=f"stack notes was refused: .*{why}"):
        stack(**changes)
