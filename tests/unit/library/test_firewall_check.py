"""What firewall-check calls a difference between two listings of nft."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "roles/baseline/files/firewall_check.py"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # roles/ stays free of it
    spec = importlib.util.spec_from_file_location("firewall_check", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rule(comment: str, *, uid: int = 2101, handle: int = 1) -> dict[str, Any]:
    match = {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": uid}
    return {"rule": {"chain": "output", "handle": handle, "comment": comment, "expr": [{"match": match}]}}


def callers(*addresses: str) -> dict[str, Any]:
    return {"set": {"name": "callers", "timeout": 120, "handle": 1, "elem": list(addresses)}}


def admins(*addresses: str) -> dict[str, Any]:
    return {"set": {"name": "admins", "handle": 1, "elem": list(addresses)}}


@pytest.mark.parametrize(
    ("now", "made", "names"),
    [
        ([rule("a", handle=9)], [rule("a")], []),
        ([callers("192.0.2.1")], [callers()], []),
        ([rule("a", uid=0)], [rule("a")], ["rule output: a"]),
        ([rule("a"), rule("b")], [rule("a")], ["rule output: b"]),
        ([rule("a"), rule("a")], [rule("a")], ["rule output: a"]),
        ([rule("b"), rule("a")], [rule("a"), rule("b")], ["the order of the rules"]),
        ([admins("192.0.2.1")], [admins()], ["set admins"]),
        ([], [rule("a")], ["rule output: a"]),
    ],
)
def test_only_what_lasts_and_differs_is_named(
    program: ModuleType, now: list[dict[str, Any]], made: list[dict[str, Any]], names: list[str]
) -> None:
    read = [json.loads(json.dumps(items), object_hook=program.lasting) for items in (now, made)]
    assert program.altered(*read) == names
