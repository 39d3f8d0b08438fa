"""Remove what no activation needs any more: old activations of a unit, and trees of the store."""
# ruff: noqa: INP001 - Ansible's folders are not packages

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from activation import Paths

# A tree that was asked for within a day may still wait for its activation: a run fetches all trees first.
FRESH_S = 86400
LARGEST_TEXT = 1 << 20  # bytes; configuration that names a tree is far smaller


def sweep(paths: Paths, *, keep: int) -> None:
    """Keep `current`, `previous`, the `keep` youngest of the rest, and each tree that an activation names."""
    for slot in stale_activations(paths, keep=keep):
        shutil.rmtree(slot)
    with store_lock(paths.store):
        for tree in stale_trees(paths.store, now=time.time()):
            shutil.rmtree(tree)


def stale_activations(paths: Paths, *, keep: int) -> list[Path]:
    needed = {paths.linked_id("current"), paths.linked_id("previous")}
    rest = [slot for slot in slots_in(paths.slots) if slot.name not in needed]
    return sorted(rest, key=lambda slot: slot.stat().st_mtime, reverse=True)[keep:]


def stale_trees(store: Path, *, now: float) -> list[Path]:
    """Trees that no file of any activation of any unit names and that nobody asked for within a day."""
    slots = [slot for unit in store.parent.iterdir() if unit != store for slot in slots_in(unit)]
    files = [file for slot in slots for file in slot.rglob("*") if file.is_file() and not file.is_symlink()]
    named = b"\0".join(file.read_bytes() for file in files if file.stat().st_size < LARGEST_TEXT)
    old = [tree for tree in store.glob("[0-9a-f]*") if now - tree.stat().st_mtime > FRESH_S]
    return [tree for tree in old if tree.name.encode() not in named]


def slots_in(unit: Path) -> list[Path]:
    """Return the activations themselves, without the links that name two of them."""
    return [slot for slot in unit.glob("[0-9a-f]*") if not slot.is_symlink()]


@contextlib.contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold the lock of fetch-tree: nothing is swept while a tree lands."""
    store.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
