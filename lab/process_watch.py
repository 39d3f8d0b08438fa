"""Watches the command line and the environment of every process of this machine and of the lab's hosts on it.

A host's processes are processes of this machine too, so one look into /proc sees both sides, also containers.
A process is looked at in every pass while it is young, because it may become another program; an old one once
in a while, because it may write a new title.

What it can miss: a process that lives shorter than one pass (`Watched.longest_pass_s`), and an environment
that a program itself overwrites between two looks.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_YOUNG_S = 3.0
_LOOK_AGAIN_S = 1.0
_PAUSE_S = 0.02  # a fifth of a core
_PARTS = ("cmdline", "environ")


@dataclass(kw_only=True)
class Watched:
    """What was seen: programs by their names, and where a needle stood."""

    passes: int = 0
    longest_pass_s: float = 0.0
    programs: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)


@contextmanager
def watch(needles: Iterable[str]) -> Iterator[Watched]:
    """Watch until the block ends. The needles are in this process's memory only, never in an argument."""
    watched, over = Watched(), threading.Event()
    looking = threading.Thread(target=_look_on, args=(watched, [n.encode() for n in needles], over))
    looking.start()
    try:
        yield watched
    finally:
        over.set()
        looking.join()


def processes_with(needle: str, folder: Path = Path("/proc")) -> list[int]:
    """Pids of this machine whose command line or environment holds a text, our own left out."""
    pids = (int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal())
    return [pid for pid in pids if pid != os.getpid() and any(needle.encode() in said for said in _said(pid))]


def _look_on(watched: Watched, needles: list[bytes], over: threading.Event) -> None:
    seen: dict[str, tuple[float, float]] = {}  # pid → first seen, last looked at
    while not over.wait(_PAUSE_S):
        began = time.monotonic()
        here = [entry.name for entry in os.scandir("/proc") if entry.name.isdecimal()]
        for name in here:
            first, last = seen.get(name, (began, 0.0))
            if began - first < _YOUNG_S or began - last > _LOOK_AGAIN_S:
                _look_at(watched, needles, int(name))
                seen[name] = (first, began)
        seen = {name: seen[name] for name in here}
        watched.passes += 1
        watched.longest_pass_s = max(watched.longest_pass_s, time.monotonic() - began)


def _look_at(watched: Watched, needles: list[bytes], pid: int) -> None:
    said = _said(pid)
    program = said[0].partition(b"\0")[0].decode(errors="replace")
    watched.programs.add(Path(program).name)
    for part, text in zip(_PARTS, said, strict=True):
        for number, needle in enumerate(needles):
            if needle in text:
                watched.found.add(f"needle {number} in the {part} of {program.partition(' ')[0] or pid}")


def _said(pid: int) -> tuple[bytes, bytes]:
    """Command line and environment; empty when the process has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b"", b""
