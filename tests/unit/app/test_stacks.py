"""What the driver reads of a release's stacks is what it checks, byte by byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tenantfleet.app.stacks import tools_of_release
from tenantfleet.model.document import canonical, plain
from tenantfleet.model.errors import InputRefusedError, ReleaseMismatchError, TenantfleetError
from tenantfleet.release.archive import members_below
from tenantfleet.release.manifest import Image
from tenantfleet.release.stacks import StackSource, find_stacks, pack_stack
from tenantfleet.release.tree import pack_tree

STACKS = Path(__file__).parents[3] / "lab/stacks"
FEEDS = {"feeds": {"addresses": ["192.0.2.7"], "ports": [443]}}
OWN = Image(sha256="c" * 64, size=5)


class Release:
    """The lab's stacks as a release holds them; `put` replaces a tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trees: dict[str, bytes] = {}
        self.units: dict[str, Any] = {}
        self.put("policy", {"policy.json": json.dumps({"loopback_ports": [18901]}).encode()})
        for source in find_stacks(STACKS):
            archive = folder / source.name
            pack_stack(source.checked(OWN), archive)
            self._add(f"tool_{source.name}", archive.read_bytes())

    def put(self, unit: str, files: dict[str, bytes]) -> None:
        content = self.folder / f"{unit}-files"
        content.mkdir()
        for name, data in files.items():
            (content / name).write_bytes(data)
        pack_tree(members_below(content), self.folder / unit)
        self._add(unit, (self.folder / unit).read_bytes())

    def _add(self, unit: str, archive: bytes) -> None:
        digest = hashlib.sha256(archive).hexdigest()
        self.trees[digest] = archive
        self.units[unit] = {"kind": "tree", "sha256": digest, "size": len(archive)}

    def plan(self, *tools: str) -> dict[str, Any]:
        return tools_of_release(
            {"units": self.units}, tools, fetch=lambda digest, _: self.trees[digest], destinations=FEEDS
        ).host_vars()


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def test_the_labs_stacks_pass(release: Release) -> None:
    planned = release.plan("notes", "pages")
    assert [row["name"] for row in planned["tool_rows"]["egress"]] == [
        "nginx to notes",
        "openclaw to notes",
        "nginx to pages",
    ]
    assert [stack["images"] for stack in planned["tool_stacks"]] == [
        [f"release.tenantfleet.invalid/tenantfleet/image_{name}@sha256:{OWN.sha256}"]
        for name in ("notes", "pages")
    ]


def test_a_tenant_without_tools_needs_no_tree(release: Release) -> None:
    release.trees.clear()
    assert release.plan() == {
        "tool_stacks": [],
        "tool_secrets": [],
        "tool_rows": {"egress": [], "forward": []},
    }


def test_an_unknown_tool_is_refused_with_the_list(release: Release) -> None:
    with pytest.raises(InputRefusedError, match="no tool crm; it has notes, pages"):
        release.plan("crm")


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    stack = StackSource(STACKS / "pages").checked(OWN)
    return (
        stack.compose.model_dump(mode="json", exclude_defaults=True),
        stack.file.model_dump(mode="json", exclude_defaults=True),
    )


def broken(what: str) -> dict[str, bytes]:
    compose, stack = documents()
    files = {"compose.json": canonical(compose), "stack.json": canonical(stack)}
    match what:
        case "privileged":
            compose["services"]["web"]["privileged"] = True
            return files | {"compose.json": canonical(compose)}
        case "an environment file beside it":
            return files | {".env": b"PODMAN_X=1"}
        case "not canonical":
            return files | {"compose.json": json.dumps(compose, indent=1).encode()}
        case "a key twice":
            return files | {
                "compose.json": files["compose.json"].replace(b'{"cap_drop"', b'{"user":"0:0","cap_drop"')
            }
        case _:
            return {"stack.json": files["stack.json"]}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("privileged", r"services\.web\.privileged"),
        ("an environment file beside it", r"\.env"),
        ("not canonical", "canonical"),
        ("a key twice", "stands twice"),
        ("a file missing", "stack.json"),
    ],
)
def test_a_tree_that_says_anything_else_is_refused(release: Release, what: str, why: str) -> None:
    release.put("tool_pages", broken(what))
    with pytest.raises(TenantfleetError, match=why):
        release.plan("pages")


def test_a_tree_that_unpacks_to_more_than_a_stack_is_refused(release: Release) -> None:
    release.put("tool_pages", {"stack.json": b" " * (1 << 20)})
    with pytest.raises(ReleaseMismatchError, match="larger than"):
        release.plan("pages")


def test_the_template_is_read_strictly() -> None:
    with pytest.raises(InputRefusedError, match="aliases"):
        plain("a: &x 1\nb: *x\n", kind="stack")
