"""What the lock-out guard puts back when something resists; nft and systemctl are scripts of the test."""

import base64
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "roles/baseline/files/lockout_guard.py"
OLD_TABLE = "table inet tenantfleet { chain old { } }\n"
# Notes its arguments; refuses an input that holds the word REFUSED, and never ends with one that holds HANGS.
SCRIPT = """#!/bin/sh
input=$(cat)
echo "$(basename "$0") $*" >> {log}
case "$input" in *REFUSED*) exit 1 ;; *HANGS*) exec sleep 60 ;; esac
[ ! -e "$(dirname "$0")/hang" ] || exec sleep 60
"""


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # roles/ stays free of it
    spec = importlib.util.spec_from_file_location("lockout_guard", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("nft", "systemctl"):
        (tmp_path / name).write_text(SCRIPT.format(log=tmp_path / "log"))
        (tmp_path / name).chmod(0o755)
        monkeypatch.setattr(module, name.upper(), str(tmp_path / name))
    monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(module, "ARMED", tmp_path / "state/armed.json")
    return module


def arm(guard: ModuleType, paths: dict[Path, str], *, table: str) -> None:
    """Leave the memory of a change, in which these paths had these contents."""
    owner = {"mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
    memory: dict[str, Any] = {
        "paths": {
            str(path): {"content": base64.b64encode(content.encode()).decode(), **owner}
            for path, content in paths.items()
        },
        "units": {"ssh.service": {"enabled": True, "active": True}},
        "table": table,
    }
    guard.STATE.mkdir()
    guard.ARMED.write_text(json.dumps(memory))


def test_a_table_that_does_not_load_stops_all_that_must_not_run_unfiltered(
    guard: ModuleType, tmp_path: Path
) -> None:
    arm(guard, {}, table="REFUSED")
    assert guard.revert() == 0
    told = (tmp_path / "log").read_text().splitlines()
    assert told[:3] == ["nft -f -", "nft -f -", "systemctl --no-block stop tf-firewall.service"]


def test_a_program_that_hangs_keeps_nothing_else_from_being_put_back(
    guard: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "ANSWER_WITHIN_S", 0.5)
    arm(guard, {}, table="HANGS")
    assert guard.revert() == 0
    assert "no end within 0.5 s" in capsys.readouterr().err
    told = (tmp_path / "log").read_text().splitlines()
    assert told[:3] == ["nft -f -", "nft -f -", "systemctl --no-block stop tf-firewall.service"]
    assert "systemctl --no-block reload-or-restart ssh.service" in told


def test_a_table_that_cannot_be_read_in_time_arms_nothing(
    guard: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "ANSWER_WITHIN_S", 0.5)
    (tmp_path / "hang").touch()
    assert guard.arm(60, []) == 1
    assert not guard.ARMED.exists()


def test_a_table_that_loads_stops_nothing(guard: ModuleType, tmp_path: Path) -> None:
    arm(guard, {}, table=OLD_TABLE)
    assert guard.revert() == 0
    assert not guard.ARMED.exists()
    stopped = [line for line in (tmp_path / "log").read_text().splitlines() if "stop" in line]
    assert stopped == ["systemctl stop tf-lockout-revert.timer"], "only what would have called it"


def test_a_path_that_resists_keeps_nothing_else_from_being_put_back(
    guard: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, kept = tmp_path / "no-such-folder/sudoers", tmp_path / "sshd_config"
    kept.write_text("new")
    arm(guard, {lost: "old", kept: "old"}, table=OLD_TABLE)
    assert guard.revert() == 1
    assert kept.read_text() == "old"
    told = (tmp_path / "log").read_text()
    assert "nft -f -" in told
    assert "systemctl --no-block reload-or-restart ssh.service" in told
    said = capsys.readouterr().err
    assert f"{lost} is not as it was" in said
    assert "are as they were" not in said
    assert guard.ARMED.exists(), "the memory is what another try needs"
    lost.parent.mkdir()
    assert guard.revert() == 0
    assert lost.read_text() == "old"
    assert not guard.ARMED.exists()
