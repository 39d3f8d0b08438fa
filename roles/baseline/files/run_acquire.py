#!/usr/bin/python3 -IB
"""Give this host to a run, and to no older one ever again.

    run-acquire NUMBER SECONDS            refuse when a newer run has the host; else record the number, wait
                                          so long for tasks of older runs, then kill what is left of them
    run-acquire --repair NUMBER SECONDS   the same without a valid record: enrolment, or root on the console

The deployment account reaches it through run-gate (`ssh tf-deploy@HOST run-acquire 41 120`), which names
the control group of the asking session: it alone is spared. Tasks of older runs are whatever lives in the
slice of the deployment account, also what became root by sudo or closed its descriptors; services and
systemd's transient jobs live elsewhere.

A change of SSH, sudo or firewall that an older run left without its proof is taken back here and now, rather
than by its timer under the feet of this run. If that was the enrolment itself, the host is nobody's again.

Exit: 0 the host is the run's; 2 usage, or asked from inside the account's slice; 73 the enrolment was never
proved and is taken back; 74 the number cannot be stored; 75 older tasks do not end; 77 a newer run has the
host; 79 no valid record.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE = Path("/var/lib/tenantfleet/run")
CGROUPS = Path("/sys/fs/cgroup")
ACCOUNT = "tf-deploy"
ACCOUNT_SLICE = CGROUPS / "user.slice/user-2105.slice"  # of uid 2105, docs/contracts/host.md
RECORD = re.compile(r"([1-9][0-9]{0,14}) (acquired|acquiring)\n?")
KILL_S = 15.0
POLL_S = 0.05
USAGE, NOT_ENROLLED, STORE_FAILED, TASKS_LEFT, NEWER_RUN, NO_RECORD = 2, 73, 74, 75, 77, 79
ARMED = Path("/var/lib/tenantfleet/lockout/armed.json")  # of lockout-guard: a change that waits for its proof
TAKE_BACK = ("/usr/local/lib/tenantfleet/lockout-guard", "revert")
SUDOERS = Path("/etc/sudoers.d/tenantfleet")  # without it the deployment account can do nothing


class RefusedError(Exception):
    """Why the host is not the run's: one sentence with the next step, and the exit code."""

    def __init__(self, exit_code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Record(NamedTuple):
    """Which run has the host. While `acquiring`, older tasks may be alive and nobody's tasks may start."""

    number: int
    state: str


def read_record() -> Record | None:
    """What is recorded; None when there is nothing or nothing valid."""
    try:
        found = RECORD.fullmatch((STATE / "number").read_text(encoding="ascii"))
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return Record(int(found[1]), found[2]) if found else None


def write_record(record: Record) -> None:
    """Replace the record in one step, on disk before it is visible and before this returns."""
    draft = STATE / ".number.new"
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{record.number} {record.state}\n")
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(STATE / "number")
        folder = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RefusedError(
            STORE_FAILED,
            f"the run number cannot be stored ({error.strerror}): "
            "free space on the host, then hand the order in again",
        ) from error


@contextlib.contextmanager
def record_locked() -> Iterator[None]:
    """One reader and writer of the record at a time; held for milliseconds."""
    with (STATE / "record.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def refuse_older(number: int, record: Record | None) -> None:
    if record is not None and number < record.number:
        raise RefusedError(
            NEWER_RUN,
            f"run {number} is older than run {record.number}, which has this host: "
            "let that one finish, then hand the order in again",
        )


def announce(number: int, *, repair: bool) -> str:
    """Record that this run takes the host, which refuses every older one; return the record's state."""
    with record_locked():
        record = read_record()
        if record is None and not repair:
            raise RefusedError(
                NO_RECORD,
                "this host's run number is missing or unreadable: as root on its console, "
                f"/usr/local/lib/tenantfleet/run-acquire --repair {number} 120",
            )
        refuse_older(number, record)
        if record is not None and record.number == number:
            return record.state
        write_record(Record(number, "acquiring"))
        return "acquiring"


def complete(number: int) -> None:
    """Open the gate for this run, unless a newer one came while it waited."""
    with record_locked():
        refuse_older(number, read_record())
        write_record(Record(number, "acquired"))


def locked_alone(lock: int, seconds: float) -> bool:
    """Wait until no task holds the gate's lock any more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        else:
            return True


def task_groups(session: Path | None) -> list[Path]:
    """Control groups of the account's tasks: all but the asking session's and the idle user manager's."""
    manager = ACCOUNT_SLICE / f"user@{ACCOUNT_SLICE.stem.removeprefix('user-')}.service"
    spared = {session, manager, manager / "init.scope"}
    return [group for group in (*ACCOUNT_SLICE.glob("*/"), *manager.glob("*/")) if group not in spared]


def is_populated(group: Path) -> bool:
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except (FileNotFoundError, OSError):  # ENODEV: removed while it was read
        return False


def kill_tasks(session: Path | None) -> list[str]:
    """Kill every process of the account's other sessions, forks included; return the groups that resist."""
    deadline = time.monotonic() + KILL_S
    while left := [group for group in task_groups(session) if is_populated(group)]:
        if time.monotonic() > deadline:
            break
        for group in left:
            with contextlib.suppress(FileNotFoundError, OSError):
                (group / "cgroup.kill").write_text("1")
        time.sleep(POLL_S)
    return [group.name for group in left]


def own_group() -> Path:
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    return CGROUPS / next(line.removeprefix("0::") for line in lines if line.startswith("0::")).lstrip("/")


def refuse_wrong_place(session: Path | None) -> None:
    """Refuse where the kill would hit ourselves, or would miss the account's sessions."""
    if own_group().is_relative_to(ACCOUNT_SLICE):
        raise RefusedError(
            USAGE,
            f"this would kill itself: ask through the gate, ssh {ACCOUNT}@HOST run-acquire NUMBER SECONDS",
        )
    if session is not None and not session.is_relative_to(ACCOUNT_SLICE):
        raise RefusedError(
            TASKS_LEFT,
            f"sessions of {ACCOUNT} have no control group of their own, so older tasks could not be ended: "
            "install libpam-systemd on the host (roles/baseline does)",
        )


def take_back_unproved() -> bool:
    """Undo what an older run, dead by now, changed under the lock-out guard without proof; was there any?"""
    if not ARMED.exists():
        return False
    done = subprocess.run(TAKE_BACK, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(
            TASKS_LEFT,
            f"an older run's change of SSH, sudo or firewall cannot be taken back ({done.stderr.strip()}): "
            "reboot the host, then hand the order in again",
        )
    return True


def acquire(number: int, seconds: float, *, repair: bool, session: Path | None) -> None:
    refuse_wrong_place(session)
    if announce(number, repair=repair) == "acquired":
        return  # the same run asks again; its tasks go on
    with (STATE / "lock").open() as lock:
        alone = locked_alone(lock.fileno(), seconds)
        # with the lock as well: a task's child may have closed it and live on
        left = kill_tasks(session)
        if left or not (alone or locked_alone(lock.fileno(), KILL_S)):
            raise RefusedError(
                TASKS_LEFT,
                f"tasks of an older run do not end ({', '.join(left) or 'they hold the lock'}): "
                "reboot the host, then hand the order in again",
            )
        taken_back = take_back_unproved()
        complete(number)
    if taken_back and not repair and not SUDOERS.exists():
        raise RefusedError(
            NOT_ENROLLED,
            "the enrolment of this host was never proved and is taken back: enrol it again by first contact",
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="run-acquire", allow_abbrev=False)
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--session", type=lambda path: CGROUPS / path.lstrip("/"))
    parser.add_argument("number", type=int)
    parser.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    if not RECORD.fullmatch(f"{arguments.number} acquired"):
        parser.error("NUMBER is a whole number of at most 15 digits, from 1 on")
    try:
        acquire(arguments.number, arguments.seconds, repair=arguments.repair, session=arguments.session)
    except RefusedError as refused:
        sys.stderr.write(f"run-acquire: {refused}\n")
        return refused.exit_code
    sys.stdout.write(f"run {arguments.number} has this host\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
