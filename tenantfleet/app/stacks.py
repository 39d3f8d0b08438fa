"""Reads from a release's trees, before any effect, what a tenant's tools need."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from tenantfleet.model.document import canonical, plain
from tenantfleet.model.errors import ReleaseMismatchError
from tenantfleet.model.stack import StackFile, check_stack
from tenantfleet.planning.tools import (
    ReleasedStack,
    ToolsPlan,
    ToolSurroundings,
    plan_tools,
    refuse_unknown_tools,
)
from tenantfleet.release.manifest import STACK_UNIT, tool_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # digest and size of a tree's archive → its bytes, compared
    type FetchTree = Callable[[str, int], bytes]

LARGEST_TREE = 1 << 20  # bytes, unpacked too: templates and policies are a few kB


def tools_of_release(
    manifest: Mapping[str, Any],
    wanted: Iterable[str],
    *,
    fetch: FetchTree,
    destinations: Mapping[str, Any],
) -> ToolsPlan:
    """Check and plan the stacks that an order names, exactly as hosts would get them.

    Args:
        manifest: of the release, as data.
        wanted: the order's tools.
        fetch: gives a tree's archive.
        destinations: the environment's `tool_destinations`.

    Raises:
        InputRefusedError: a tool is unknown, a stack is refused, two stacks conflict.
        ReleaseMismatchError: `release.not_a_stack`, a tree does not hold what its unit should.
    """
    names = tuple(wanted)
    units = manifest["units"] if names else {}
    available = [
        name.partition("_")[2] for name in units if (m := STACK_UNIT.fullmatch(name)) and m["kind"] == "tool"
    ]
    refuse_unknown_tools(names, available=available)
    if not names:
        return ToolsPlan()
    ports = json.loads(_files(fetch, units["policy"])["policy.json"]).get("loopback_ports", [])
    released = [_released(name, units[tool_unit(name)], fetch) for name in names]
    around = ToolSurroundings(policy_ports=frozenset(ports), destinations=destinations)
    return plan_tools(released, around=around)


def _released(name: str, unit: Mapping[str, Any], fetch: FetchTree) -> ReleasedStack:
    files = _files(fetch, unit)
    if set(files) != {"compose.json", "stack.json"}:
        raise _not_a_stack(name, f"it holds {', '.join(sorted(files))}")
    stack = check_stack(
        name,
        file=StackFile.parse(files["stack.json"].decode(), kind="stack"),
        compose=plain(files["compose.json"].decode(), kind="stack"),
    )
    # byte by byte what was checked: the executor's reader can see nothing else in it
    if canonical(stack.compose.model_dump(mode="json", exclude_defaults=True)) != files["compose.json"]:
        raise _not_a_stack(name, "its compose.json is not canonical")
    return ReleasedStack(stack=stack, sha256=unit["sha256"])


def _files(fetch: FetchTree, unit: Mapping[str, Any]) -> dict[str, bytes]:
    packed = fetch(unit["sha256"], unit["size"])
    try:
        with gzip.open(io.BytesIO(packed)) as stream:
            unpacked = stream.read(LARGEST_TREE + 1)
        if len(unpacked) > LARGEST_TREE:
            raise _not_a_stack(unit["sha256"], f"it is larger than {LARGEST_TREE} bytes")
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
            return {
                member.name: content.read()
                for member in archive.getmembers()
                if (content := archive.extractfile(member)) is not None
            }
    except (OSError, EOFError, tarfile.TarError) as error:
        raise _not_a_stack(unit["sha256"], str(error)) from None


def _not_a_stack(name: str, why: str) -> ReleaseMismatchError:
    return ReleaseMismatchError(
        f"the tree of {name} is not one that this version reads: {why}",
        code="release.not_a_stack",
        hint="Build and publish the release again.",
    )
