"""The effects of a switch: systemd is told, links are moved; each may be done again after a crash."""
# ruff: noqa: INP001 - Ansible's folders are not packages

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from activation import Paths, Transition, fsync_folder

RUNNING_STATES = frozenset({"active", "activating", "reloading"})  # one on its way up has processes already
NOT_LOADED = 5  # exit code of systemctl for a unit that systemd does not know


class StepFailedError(Exception):
    """One step of a switch did not work; the text says which, for the verdict."""


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = list(argv)
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def systemctl(*argv: str, accept: tuple[int, ...] = (0,)) -> None:
    say(f"systemctl {' '.join(argv)}")
    done = run("/usr/bin/systemctl", *argv)
    if done.returncode not in accept:
        raise StepFailedError(f"systemctl {' '.join(argv)}: {done.stderr.strip() or done.returncode}")


def active_state(name: str) -> str:
    return run("/usr/bin/systemctl", "is-active", name).stdout.strip()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def point(slots: Path, link: str, activation_id: str | None) -> None:
    """Let `current` or `previous` name another activation, or none, in one rename."""
    say(f"{link} -> {activation_id}")
    if activation_id is None:
        (slots / link).unlink(missing_ok=True)
    else:
        fresh = slots / f".{link}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(activation_id)
        fresh.rename(slots / link)
    if slots.is_dir():
        fsync_folder(slots)


def unlink(place: Path) -> None:
    place.unlink(missing_ok=True)
    if place.parent.suffix in {".d", ".wants", ".requires"}:
        with contextlib.suppress(OSError):  # others' links may live there
            place.parent.rmdir()


def relink(place: Path, target: str) -> None:
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(place)


def steps(
    paths: Paths, change: Transition, *, current: str | None, previous: str | None
) -> Iterator[Callable[[], None]]:
    """Yield the effects of a switch, each of which may be done again after a crash."""
    for name in (*change.stop, *change.dependents):
        yield partial(systemctl, "stop", name, accept=(0, NOT_LOADED))
    for link in change.unlink:
        yield partial(unlink, paths.root / link)
    yield partial(point, paths.slots, "previous", previous)
    yield partial(point, paths.slots, "current", current)
    for link, target in change.link.items():
        yield partial(relink, paths.root / link, target)
    if change.link or change.unlink:
        yield partial(systemctl, "daemon-reload")
    for name in change.stop:
        if name not in change.start:  # else systemd remembers as failed what is no longer there
            yield partial(systemctl, "reset-failed", name, accept=(0, 1))
    yield from starts(change)


def starts(change: Transition) -> Iterator[Callable[[], None]]:
    yield from start(change.start)
    for name in change.reload:
        if active_state(name) == "active":
            yield partial(systemctl, "reload", name)
    yield from start(change.dependents)


def start(names: tuple[str, ...]) -> Iterator[Callable[[], None]]:
    for name in names:
        yield partial(systemctl, "reset-failed", name, accept=(0, 1))  # 1: systemd has not loaded it yet
        yield partial(systemctl, "start", name)


def troubles_of(effects: Iterator[Callable[[], None]]) -> list[str]:
    """Do all of them, also after one that does not work; say which did not."""
    troubles = []
    for effect in effects:
        try:
            effect()
        except (StepFailedError, OSError) as error:
            troubles.append(str(error))
    return troubles
