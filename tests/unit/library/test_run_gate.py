"""Whose tasks a host takes: the role's own gate and take-over, in a folder (control groups need the lab)."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.unit.gate_host import FILES, GateHost
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBER_WORDS = "no run number was presented"


@pytest.fixture
def host(tmp_path: Path) -> GateHost:
    return GateHost(tmp_path / "host", record="41 acquired\n")


@contextmanager
def held(host: GateHost, how: int) -> Iterator[None]:
    """Hold the gate's lock, as a task or a take-over does."""
    with (host.state / "lock").open() as lock:
        fcntl.flock(lock, how)
        yield


def started(host: GateHost, command: str, run: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": command, "TENANTFLEET_RUN_NUMBER": str(run)}
    program = [str(host.root / "run-gate")]
    return subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("record", "presented", "code", "words"),
    [
        ("41 acquired\n", 41, 7, ""),
        ("41 acquired\n", None, 76, NUMBER_WORDS),
        ("41 acquired\n", "", 76, NUMBER_WORDS),
        ("41 acquired\n", "041", 76, NUMBER_WORDS),
        ("41 acquired\n", "-41", 76, NUMBER_WORDS),
        ("41 acquired\n", "41 ", 76, NUMBER_WORDS),
        ("41 acquired\n", "4" * 16, 76, NUMBER_WORDS),
        ("41 acquired\n", "$(id)", 76, NUMBER_WORDS),
        ("41 acquired\n", 9, 77, "run 9 is older than run 41"),
        ("41 acquired\n", 42, 78, "it is at 41"),
        ("41 acquiring\n", 41, 78, "has not taken this host over"),
        ("41 acquiring\n", 40, 77, "run 40 is older than run 41"),
        (None, 41, 79, "--repair 41 120"),
        ("", 41, 79, "--repair 41 120"),
        ("41\n", 41, 79, "--repair 41 120"),
        ("41 acquired twice\n", 41, 79, "--repair 41 120"),
        ("041 acquired\n", 41, 79, "--repair 41 120"),
        ("4x acquired\n", 41, 79, "--repair 41 120"),
    ],
)
def test_a_task_starts_for_the_run_that_has_the_host_and_for_no_other(
    tmp_path: Path, record: str | None, presented: int | str | None, code: int, words: str
) -> None:
    host = GateHost(tmp_path / "host", record=record)
    answer = host.send("echo did it; exit 7", run=presented)
    assert (answer.returncode, answer.stdout) == (code, "did it\n" if code == 7 else "")
    assert words in answer.stderr
    assert answer.stderr.count("\n") == (0 if code == 7 else 1), "one sentence"


def test_a_host_without_its_lock_takes_no_task(host: GateHost) -> None:
    (host.state / "lock").unlink()
    answer = host.send("true", run=41)
    assert answer.returncode == 79
    assert "systemd-tmpfiles --create" in answer.stderr


def test_the_number_is_compared_only_once_the_lock_is_held(host: GateHost) -> None:
    with held(host, fcntl.LOCK_EX):
        task = started(host, "echo too late", 41)
        with pytest.raises(subprocess.TimeoutExpired):
            task.wait(0.5)
        (host.state / "number").write_text("42 acquired\n")
    assert task.communicate(timeout=30)[0] == ""
    assert task.returncode == 77


def test_the_gate_keeps_the_lock_for_a_task_that_closed_its_descriptors(host: GateHost) -> None:
    task = started(host, "exec 9<&-; echo $$; exec sleep 60", 41)
    assert task.stdout is not None
    child = int(task.stdout.readline())
    with (host.state / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(child, signal.SIGKILL)
    assert task.wait(30) == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    "command",
    ["run-acquire", "run-acquire 42", "run-acquire 42 1 --repair", "run-acquire --repair 42 1",
     "run-acquire 42 -1", "run-acquire * 1", "run-acquire 0 1", "run-acquire 42 $(id)"],
)  # fmt: skip
def test_a_takeover_that_is_not_two_numbers_is_refused_before_root_sees_it(
    host: GateHost, command: str
) -> None:
    (host.root / "sudo").write_text("#!/bin/sh\necho reached\n")
    answer = host.send(command, run=None)
    assert answer.returncode in {2, 76}
    assert answer.stdout == ""
    assert host.record() == "41 acquired\n"


def test_a_takeover_needs_no_number_and_goes_up_only(host: GateHost) -> None:
    assert host.send("run-acquire 42 1", run=None).returncode == 0
    assert host.record() == "42 acquired\n"
    older = host.send("run-acquire 41 1", run=None)
    assert (older.returncode, host.record()) == (77, "42 acquired\n")
    assert "run 41 is older than run 42" in older.stderr
    assert host.send("run-acquire 42 1", run=None).returncode == 0


def test_of_two_takeovers_that_wait_the_newer_one_gets_the_host(host: GateHost) -> None:
    with held(host, fcntl.LOCK_SH):
        older = started(host, "run-acquire 42 600", 41)
        wait_until(lambda: host.record() == "42 acquiring\n", what="the older one is recorded")
        newer = started(host, "run-acquire 43 600", 41)
        wait_until(lambda: host.record() == "43 acquiring\n", what="the newer one is recorded")
    assert newer.wait(60) == 0
    assert older.wait(60) == 77
    assert host.record() == "43 acquired\n"


def test_a_takeover_that_cannot_end_older_tasks_leaves_the_gate_shut(host: GateHost) -> None:
    program = host.root / "run-acquire"
    program.write_text(program.read_text().replace("KILL_S = 15.0", "KILL_S = 0.2"))
    with held(host, fcntl.LOCK_SH):
        answer = host.send("run-acquire 42 1", run=None)
    assert answer.returncode == 75
    assert "reboot the host" in answer.stderr
    assert host.send("true", run=41).returncode == 77
    assert host.send("true", run=42).returncode == 78


def test_a_number_that_cannot_be_stored_leaves_the_host_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = GateHost(tmp_path / "host", record="41 acquired\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # roles/ stays free of it
    spec = importlib.util.spec_from_file_location("run_acquire", FILES / "run_acquire.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "STATE", host.state)
    monkeypatch.setattr(sys, "argv", ["run-acquire", "42", "1"])
    monkeypatch.setattr(os, "fsync", full)
    assert module.main() == 74
    assert "No space left on device" in capsys.readouterr().err
    assert host.record() == "41 acquired\n"
    assert {path.name for path in host.state.iterdir()} == {"number", "lock", "record.lock"}
