"""Remove what no activation needs any more: old activations of a unit, their images, trees, manifests."""
# ruff: noqa: INP001 - Ansible's folders are not packages

import contextlib
import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from activation import Paths
from effects import run

# A tree that was asked for within a day may still wait for its activation: a run fetches all trees first.
FRESH_S = 86400
LARGEST_TEXT = 1 << 20  # bytes; configuration that names a tree is far smaller
IMAGE = re.compile(rb"(?<![\w.:/-])[\w.:/-]+@sha256:[0-9a-f]{64}")


def sweep(paths: Paths, *, keep: int) -> None:
    """Keep `current`, `previous`, the `keep` youngest of the rest, and what activations name."""
    stale = stale_activations(paths, keep=keep)
    images = images_in(stale)
    for slot in stale:
        shutil.rmtree(slot)
    for image in sorted(images - images_in(all_slots(paths.store))):
        run("/usr/bin/podman", "image", "rm", image)  # one that is in use, or gone, is left as it is
    with store_lock(paths.store):
        for tree in stale_trees(paths.store, now=time.time()):
            shutil.rmtree(tree)
        for manifest in stale_manifests(paths, now=time.time()):
            manifest.unlink()


def stale_activations(paths: Paths, *, keep: int) -> list[Path]:
    needed = {paths.linked_id("current"), paths.linked_id("previous")}
    rest = [slot for slot in slots_in(paths.slots) if slot.name not in needed]
    return sorted(rest, key=lambda slot: slot.stat().st_mtime, reverse=True)[keep:]


def stale_trees(store: Path, *, now: float) -> list[Path]:
    """Trees that no file of any activation of any unit names and that nobody asked for within a day."""
    named = texts_of(all_slots(store))
    old = [tree for tree in store.glob("[0-9a-f]*") if now - tree.stat().st_mtime > FRESH_S]
    return [tree for tree in old if tree.name.encode() not in named]


def stale_manifests(paths: Paths, *, now: float) -> list[Path]:
    """Manifests that nobody asked for within a day and of which a tree has gone: no release to go back to."""
    here = {tree.name for tree in paths.store.glob("[0-9a-f]*")}
    manifests = paths.verdict.parents[1].glob("manifests/[0-9a-f]*.json")
    old = [manifest for manifest in manifests if now - manifest.stat().st_mtime > FRESH_S]
    return [manifest for manifest in old if not trees_of(manifest) <= here]


def trees_of(manifest: Path) -> set[str]:
    units = json.loads(manifest.read_bytes())["units"].values()
    return {unit["sha256"] for unit in units if unit["kind"] == "tree"}


def images_in(slots: Iterable[Path]) -> set[str]:
    return {image.decode() for image in IMAGE.findall(texts_of(slots))}


def texts_of(slots: Iterable[Path]) -> bytes:
    files = [file for slot in slots for file in slot.rglob("*") if file.is_file() and not file.is_symlink()]
    return b"\0".join(file.read_bytes() for file in files if file.stat().st_size < LARGEST_TEXT)


def all_slots(store: Path) -> list[Path]:
    return [slot for unit in store.parent.glob("*") if unit != store for slot in slots_in(unit)]


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
