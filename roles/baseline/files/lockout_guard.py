#!/usr/bin/python3
"""Take back a change that locked everybody out, unless somebody confirms it over a new connection.

    lockout-guard arm SECONDS PATH...   remember paths, SSH units and our firewall table; start the timer
    lockout-guard confirm               keep the change; exit 1 when it was taken back already
    lockout-guard revert                put everything back (called by the timer, and by the next boot)

The memory is one file, written whole and synced before the timer runs. Who holds the lock and finds that file
decides: a confirmation and a revert can never both happen.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE = Path("/var/lib/tenantfleet/lockout")
ARMED = STATE / "armed.json"
TIMER = "tf-lockout-revert"
TABLE = ("inet", "tenantfleet")
FIREWALL = "tf-firewall.service"
SSH_UNITS = ("ssh.socket", "ssh.service")
SELF = "/usr/local/lib/tenantfleet/lockout-guard"
SYSTEMCTL = "/usr/bin/systemctl"
NFT = "/usr/sbin/nft"
ANSWER_WITHIN_S = 30
NO_END = 124  # the exit code of one that did not end in time, as timeout(1) has it


def say(text: str) -> None:
    """Speak to the journal, or to the run that called us."""
    sys.stderr.write(f"{text}\n")


def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command that may fail or hang; what it says belongs into the journal, and who called goes on."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=ANSWER_WITHIN_S
        )
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(argv, NO_END, "", f"no end within {ANSWER_WITHIN_S} s")
    if done.returncode:
        say(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done


@contextlib.contextmanager
def locked() -> Iterator[None]:
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, content: bytes, *, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Replace a file in one step, on disk before it is visible."""
    draft = path.with_name(f".{path.name}.tf-guard")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)


def remember(path: Path) -> dict[str, Any] | None:
    """Describe a file or link so that `restore` can make it again; None: there was nothing."""
    if path.is_symlink():
        return {"target": str(path.readlink())}
    try:
        content, status = path.read_bytes(), path.stat()
    except FileNotFoundError:
        return None
    return {
        "content": base64.b64encode(content).decode(),
        "mode": status.st_mode & 0o7777,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def restore(path: Path, memory: dict[str, Any] | None) -> None:
    if memory is None or "target" in memory:
        path.unlink(missing_ok=True)
    if memory is None:
        return
    if "target" in memory:
        path.symlink_to(memory["target"])
        return
    content = base64.b64decode(memory["content"])
    write_whole(path, content, mode=memory["mode"], uid=memory["uid"], gid=memory["gid"])


def restored(path: Path, memory: dict[str, Any] | None) -> bool:
    """Restore one path; False, and a word in the journal, when it resists: the others matter the more."""
    try:
        restore(path, memory)
    except OSError as error:
        say(f"{path} is not as it was: {error}")
        return False
    return True


def unit_state(unit: str) -> dict[str, bool]:
    verbs = {"enabled": "is-enabled", "active": "is-active"}
    return {
        word: subprocess.run([SYSTEMCTL, verb, "--quiet", unit], check=False).returncode == 0
        for word, verb in verbs.items()
    }


def arm(seconds: int, paths: list[str]) -> int:
    with locked():
        if ARMED.exists():
            say("another change waits for its confirmation or its revert")
            return 1
        table = run(NFT, "-s", "list", "table", *TABLE)
        if table.returncode == NO_END:
            return 1  # no table at all is remembered as such, an unknown one cannot be
        memory = {
            "paths": {path: remember(Path(path)) for path in paths},
            "units": {unit: unit_state(unit) for unit in SSH_UNITS},
            "table": table.stdout if table.returncode == 0 else None,
        }
        run(SYSTEMCTL, "reset-failed", f"{TIMER}.timer", f"{TIMER}.service")
        write_whole(ARMED, json.dumps(memory).encode(), mode=0o600)
        timer = run(
            "/usr/bin/systemd-run",
            f"--unit={TIMER}",
            f"--on-active={seconds}s",
            "--timer-property=AccuracySec=1s",
            SELF,
            "revert",
        )
        if timer.returncode:
            ARMED.unlink()
        return timer.returncode


def confirm() -> int:
    with locked():
        if not ARMED.exists():
            say("nothing waits for a confirmation: the change was taken back")
            return 1
        ARMED.unlink()
    return run(SYSTEMCTL, "stop", f"{TIMER}.timer").returncode


def restore_table(listing: str | None) -> None:
    """Load the old table in one transaction; one that does not load goes: reachable beats filtered.

    What must not run unfiltered requires the firewall's unit and stops with it.
    """
    forget = "table {0} {1}\ndelete table {0} {1}\n".format(*TABLE)
    if run(NFT, "-f", "-", stdin=forget + (listing or "")).returncode:
        run(NFT, "-f", "-", stdin=forget)
        run(SYSTEMCTL, "--no-block", "stop", FIREWALL)


def restore_units(units: dict[str, dict[str, bool]]) -> None:
    """Queue the jobs and do not wait: at boot our own unit is one of those that the queue waits for."""
    run(SYSTEMCTL, "daemon-reload")
    for unit, state in units.items():
        run(SYSTEMCTL, "--no-block", "enable" if state["enabled"] else "disable", unit)
        run(SYSTEMCTL, "--no-block", "reload-or-restart" if state["active"] else "stop", unit)


def revert() -> int:
    with locked():
        if not ARMED.exists():
            return 0
        memory = json.loads(ARMED.read_bytes())
        paths = memory["paths"].items()
        resisting = [path for path, remembered in paths if not restored(Path(path), remembered)]
        restore_table(memory["table"])
        restore_units(memory["units"])
        if resisting:  # the memory stays: the next boot, or a person, tries again
            return 1
        ARMED.unlink()
        # not always what called us: a run that takes the host over does so, and may arm it again at once
        run(SYSTEMCTL, "stop", f"{TIMER}.timer")
    say("nobody confirmed the change: SSH, sudo and firewall are as they were")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="lockout-guard")
    verbs = parser.add_subparsers(dest="verb", required=True)
    arming = verbs.add_parser("arm")
    arming.add_argument("seconds", type=int)
    arming.add_argument("paths", nargs="+")
    verbs.add_parser("confirm")
    verbs.add_parser("revert")
    arguments = parser.parse_args()
    if arguments.verb == "arm":
        return arm(arguments.seconds, arguments.paths)
    return confirm() if arguments.verb == "confirm" else revert()


if __name__ == "__main__":
    sys.exit(main())
