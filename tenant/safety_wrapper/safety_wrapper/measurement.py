"""Which plugin the gateway's unit mounts, and whether it is the pinned one. Standard library only."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

LARGEST_FILE_BYTES = 1024 * 1024
MOST_FILES = 200
GROUP_OR_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnmeasuredError(Exception):
    """The plugin cannot be vouched for; the text says why."""


@dataclass(frozen=True)
class UnitFacts:
    """Public properties of the gateway's unit, as systemd gives them to anyone."""

    exec_start: str
    invocation_id: str
    control_group: str


def hash_plugin(directory: Path) -> str:
    """Return the SHA-256 over the sorted ``path NUL mode NUL sha256(content) LF`` of all files below.

    Raises:
        UnmeasuredError: unreadable, empty, too large, or with anything but files and directories in it.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(_files(directory), key=lambda path: path.relative_to(directory).as_posix())
        for path in files:
            name = path.relative_to(directory).as_posix()
            mode = stat.S_IMODE(path.lstat().st_mode)
            content = hashlib.sha256(_content(path)).hexdigest()
            digest.update(f"{name}\0{mode:04o}\0{content}\n".encode())
    except OSError as error:
        raise UnmeasuredError(f"{error.filename}: {error.strerror}") from error
    if not files:
        raise UnmeasuredError(f"{directory} holds no file")
    return digest.hexdigest()


def _files(directory: Path) -> list[Path]:
    files: list[Path] = []
    for root, directories, names in os.walk(directory, onerror=_fail):
        entries = [Path(root, name) for name in (*directories, *names)]
        for path in entries:
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                files.append(path)
            elif not stat.S_ISDIR(mode):
                raise UnmeasuredError(f"{path} is neither a file nor a directory")
        if len(files) > MOST_FILES:
            raise UnmeasuredError(f"{directory} holds more than {MOST_FILES} files")
    return files


def _fail(error: OSError) -> None:
    raise error


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise UnmeasuredError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes")
    return content


def mounted_source(exec_start: str, *, mount: Path, store: Path) -> Path:
    """Return the directory that the unit's command mounts read-only at ``mount``.

    Raises:
        UnmeasuredError: there is not exactly one such mount, or it is not a plain path inside ``store``.
    """
    words = [word for word in exec_start.split() if str(mount) in word]
    if len(words) != 1:
        raise UnmeasuredError(f"the unit names {mount} {len(words)} times, not once")
    # Both "-v SRC:DST:ro" and "--volume=SRC:DST:ro" are podman's way to say it.
    source, _, rest = words[0].removeprefix("--volume=").partition(":")
    target, _, options = rest.partition(":")
    if target != str(mount) or "ro" not in options.split(","):
        raise UnmeasuredError(f"the unit does not mount {mount} read-only: {words[0]}")
    path = Path(source)
    if not path.is_relative_to(store) or path == store or ".." in path.parts:
        raise UnmeasuredError(f"{source} is not in {store}")
    return path


def check_ownership(path: Path, *, tree: bool = True) -> None:
    """Require that nobody but root can change what ``path`` names, from the root directory to its last file.

    Raises:
        UnmeasuredError: a component is a link, not root's, or writable by others.
    """
    chain = [*reversed(path.parents), path]
    below = _files_and_directories(path) if tree else []
    for part in (*chain, *below):
        try:
            status = part.lstat()
        except OSError as error:
            raise UnmeasuredError(f"{part}: {error.strerror}") from error
        _check_component(part, status)


def _files_and_directories(path: Path) -> list[Path]:
    try:
        return [
            Path(root, name)
            for root, directories, names in os.walk(path, onerror=_fail)
            for name in (*directories, *names)
        ]
    except OSError as error:
        raise UnmeasuredError(f"{error.filename}: {error.strerror}") from error


def _check_component(part: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnmeasuredError(f"{part} is a link")
    if status.st_uid != 0:
        raise UnmeasuredError(f"{part} belongs to uid {status.st_uid}, not to root")
    # A sticky directory (/tmp, /var/tmp) lets nobody rename or remove what is root's.
    if status.st_mode & GROUP_OR_OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise UnmeasuredError(f"{part} is writable by others than root")


def measure(facts: UnitFacts, *, mount: Path, store: Path) -> str:
    """Return the digest of the plugin that the unit mounts.

    Raises:
        UnmeasuredError: it cannot be found, is not root's alone, or cannot be read.
    """
    source = mounted_source(facts.exec_start, mount=mount, store=store)
    check_ownership(source)
    return hash_plugin(source)
