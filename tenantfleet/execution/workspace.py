"""A run's private directory: memory only, one run, gone afterwards."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tenantfleet.model.errors import EnvironmentMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantfleet.model.secret import Secret

_PREFIX = "tenantfleet-run-"
_FRESH = "tenantfleet-fresh-"
_DETACHED = "tenantfleet-removed-"
_OWNER = "owner"


class Workspace:
    """A 0700 directory in memory. Files in it are 0600 and never written twice."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, content: str) -> Path:
        """Write a file, at most one folder deep.

        Raises:
            FileNotFoundError: the workspace was removed; it is not made again, for nobody would remove it.
        """
        path = self.root / name
        if path.parent != self.root:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(content)
        return path

    def write_secret(self, name: str, content: Secret[str]) -> Path:
        return self.write(name, content.reveal())

    def directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        return path


@contextmanager
def open_workspace(memory: Path | None = None) -> Iterator[Workspace]:
    """A fresh workspace, removed at the end; what killed drivers left behind is removed first.

    Args:
        memory: directory on a tmpfs; found by itself when not given.

    Raises:
        EnvironmentMissingError: `memory.missing`, no tmpfs is writable.
    """
    base = memory or _tmpfs()
    _remove_orphans(base)
    # locked before it gets the name that others look at: to them, an unlocked one is an orphan
    fresh = Path(tempfile.mkdtemp(prefix=f"{_FRESH}{os.getpid()}-", dir=base))
    owner = os.open(fresh / _OWNER, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(owner, fcntl.LOCK_EX)
    root = fresh.rename(base / f"{_PREFIX}{fresh.name.removeprefix(_FRESH)}")
    try:
        yield Workspace(root)
    finally:
        _remove(root)
        os.close(owner)


def remove_own_workspaces(memory: Path | None = None) -> None:
    """Remove every workspace of this process, because it is about to die in the middle of a run."""
    for root in (memory or _tmpfs()).glob(f"{_PREFIX}{os.getpid()}-*"):
        _remove(root)


def _remove(root: Path) -> None:
    """First out of sight of those who still write to it; then a kill leaves nothing that others miss."""
    detached = root.with_name(f"{_DETACHED}{root.name}")
    root.rename(detached)
    shutil.rmtree(detached, ignore_errors=True)


def _remove_orphans(base: Path) -> None:
    """Remove workspaces of ours whose driver is dead: the kernel released its lock."""
    for detached in base.glob(f"{_DETACHED}*"):
        shutil.rmtree(detached, ignore_errors=True)
    for root in base.glob(f"{_PREFIX}*"):
        try:
            if root.stat().st_uid != os.geteuid():
                continue
            owner = os.open(root / _OWNER, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # removed, and made again by a dying child of its run that still had something to write
            shutil.rmtree(root, ignore_errors=True)
            continue
        except OSError:
            continue  # somebody else's
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(root)
        except (BlockingIOError, FileNotFoundError):
            pass  # at work, or another driver removes it at this moment
        finally:
            os.close(owner)


def _tmpfs() -> Path:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    in_memory = {fields[1] for fields in mounts if fields[2] in {"tmpfs", "ramfs"}}
    for candidate in ("/dev/shm", f"/run/user/{os.geteuid()}", "/run"):  # noqa: S108 - mkdtemp makes the name
        if candidate in in_memory and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    raise EnvironmentMissingError(
        "no file system in memory is writable (/dev/shm, /run)",
        code="memory.missing",
        hint="Mount a tmpfs at /dev/shm: secrets are never put on a disk.",
    )
