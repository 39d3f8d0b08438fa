"""Which stacks a tenant gets and what the kernel lets through for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tenantfleet.model.errors import InputRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tenantfleet.model.stack import Stack

# Debian's account for nginx: the only one with a row to a stack.
PROXY_ACCOUNT = "www-data"
SECRET_BYTES = 32  # of a secret that the payload does not bring


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedStack:
    """A stack as a release brings it; `sha256` is its tree's."""

    stack: Stack
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsPlan:
    """Host variables about tools: what runs, which secrets it reads, and what may pass."""

    stacks: tuple[dict[str, Any], ...] = ()
    secrets: tuple[dict[str, Any], ...] = ()
    egress: tuple[dict[str, Any], ...] = ()
    forward: tuple[dict[str, Any], ...] = ()

    def host_vars(self) -> dict[str, Any]:
        return {
            "tool_stacks": list(self.stacks),
            "tool_secrets": list(self.secrets),
            "tool_rows": {"egress": list(self.egress), "forward": list(self.forward)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSurroundings:
    """What a plan takes from elsewhere.

    Attributes:
        policy_ports: loopback ports that the release's policy lets the agent use.
        destinations: the environment's `tool_destinations`: name → {addresses, ports}.
    """

    policy_ports: frozenset[int] = frozenset()
    destinations: Mapping[str, Any] = field(default_factory=dict)


def refuse_unknown_tools(wanted: Iterable[str], *, available: Iterable[str]) -> None:
    """Refuse a tool that the release has no stack for.

    Raises:
        InputRefusedError: `order.unknown_tool`, with the list of those that it has.
    """
    known = sorted(available)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputRefusedError(
            f"the release has no tool {', '.join(unknown)}; it has {', '.join(known) or 'none'}",
            code="order.unknown_tool",
            hint="Correct the order's tools, or order a release that has them.",
        )


def plan_tools(released: Sequence[ReleasedStack], *, around: ToolSurroundings) -> ToolsPlan:
    """Plan the stacks of one tenant.

    Raises:
        InputRefusedError: `stack.conflict`, two stacks claim the same; `stack.unknown_destination`.
    """
    stacks = [one.stack for one in released]
    _refuse_conflicts(stacks)
    return ToolsPlan(
        stacks=tuple(_variables(one) for one in released),
        secrets=tuple(
            {"name": f"tools.{stack.name}.{name}", "bytes": SECRET_BYTES, "format": "base64url"}
            for stack in stacks
            for name in sorted(stack.file.secrets)
        ),
        egress=tuple(row for stack in stacks for row in _egress(stack, around.policy_ports)),
        forward=tuple(row for stack in stacks for row in _forward(stack, around.destinations)),
    )


def _variables(one: ReleasedStack) -> dict[str, Any]:
    stack = one.stack
    return {
        "name": stack.name,
        "code_sha256": one.sha256,
        "images": list(stack.compose.images),
        "port": stack.file.port,
        "upstream": f"{stack.addresses[stack.file.service]}:{stack.file.listen}",
        "health": stack.file.health,
        "network": stack.file.network,
        "interface": stack.interface,
        "addresses": stack.addresses,
        "secrets": [{"name": name, "uid": uid} for name, uid in sorted(stack.secret_readers.items())],
    }


def _egress(stack: Stack, policy_ports: frozenset[int]) -> list[dict[str, Any]]:
    nginx = {
        "name": f"nginx to {stack.name}",
        "user": PROXY_ACCOUNT,
        "protocols": ["tcp"],
        "ports": [stack.file.listen],
        "addresses": [stack.addresses[stack.file.service]],
        # a stopped stack has no route of its own: without this its requests would take the default one
        "interface": stack.interface,
    }
    if stack.file.port not in policy_ports:
        return [nginx]
    agent = {
        "name": f"openclaw to {stack.name}",
        "user": "openclaw",
        "protocols": ["tcp"],
        "ports": [stack.file.port],
        "addresses": "loopback",
    }
    return [nginx, agent]


def _forward(stack: Stack, destinations: Mapping[str, Any]) -> list[dict[str, Any]]:
    unknown = [name for name in stack.file.destinations if name not in destinations]
    if unknown:
        raise InputRefusedError(
            f"stack {stack.name} goes to {', '.join(unknown)}, which this environment does not know",
            code="stack.unknown_destination",
            hint="Say addresses and ports under network.tool_destinations in settings.yml.",
        )
    # hosts whose kernel filters bridges too (br_netfilter) forward between services of one stack
    inside = {
        "name": f"{stack.name} inside",
        "sources": [stack.file.network],
        "protocols": ["tcp"],
        "ports": list(stack.file.inside),
        "addresses": [stack.file.network],
    }
    outside = [
        {
            "name": f"{stack.name} to {name}",
            "sources": [stack.file.network],
            "protocols": ["tcp"],
            "ports": list(destinations[name]["ports"]),
            "addresses": destinations[name]["addresses"],
        }
        for name in stack.file.destinations
    ]
    return [inside, *outside] if stack.file.inside else outside


def _refuse_conflicts(stacks: Sequence[Stack]) -> None:
    claims: dict[str, str] = {}
    for stack in stacks:
        mine = [f"port {stack.file.port}", f"network {stack.file.network}"]
        mine += [f"user {uid}" for uid in sorted(stack.uids)]
        for claim in mine:
            other = claims.setdefault(claim, stack.name)
            if other != stack.name:
                raise InputRefusedError(
                    f"stacks {other} and {stack.name} both claim {claim}",
                    code="stack.conflict",
                    hint="Give each stack its own, and build the release again.",
                )
