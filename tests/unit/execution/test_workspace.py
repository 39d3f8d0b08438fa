from __future__ import annotations

import fcntl
import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from tenantfleet.execution.workspace import open_workspace, remove_own_workspaces
from tenantfleet.model.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path


def test_a_fresh_workspace_is_never_taken_for_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def another_driver_comes_first(file: int, operation: int) -> None:
        monkeypatch.undo()
        with open_workspace(tmp_path):
            pass
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", another_driver_comes_first)
    with open_workspace(tmp_path) as workspace:
        workspace.write("kept", "x")
        with open_workspace(tmp_path):
            assert {path.name for path in workspace.root.iterdir()} == {"owner", "kept"}
    assert not list(tmp_path.iterdir())


def die_within(base: Path) -> None:
    with open_workspace(base) as workspace:
        workspace.write("secret", "x")
        os._exit(0)


def test_what_a_dead_driver_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    driver = multiprocessing.get_context("spawn").Process(target=die_within, args=(tmp_path,))
    driver.start()
    driver.join()
    assert list(tmp_path.glob("*/secret"))
    with open_workspace(tmp_path):
        assert not list(tmp_path.glob("*/secret"))


def test_a_workspace_that_was_removed_takes_no_more_secrets(tmp_path: Path) -> None:
    """A thread of an interrupted run may still want to write; nobody would ever remove what it made."""
    with open_workspace(tmp_path) as workspace:
        remove_own_workspaces(tmp_path)
        with pytest.raises(FileNotFoundError):
            workspace.write_secret("payload/late.json", Secret("late"))
        assert list(tmp_path.iterdir()) == []
        workspace.root.mkdir()  # for the context's own removal


def test_what_a_dying_child_made_of_a_removed_workspace_goes_with_the_next_run(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        left = workspace.root
    (left / "tmp").mkdir(parents=True)
    with open_workspace(tmp_path) as workspace:
        assert list(tmp_path.iterdir()) == [workspace.root]
