"""Tar archives whose bytes depend on nothing but names, modes and contents."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from tenantfleet.release.errors import ReleaseError


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Member:
    """One entry of an archive and the file, directory or symbolic link that it is made from."""

    name: PurePosixPath
    source: Path


HERE = PurePosixPath()


def members_below(source: Path, *, prefix: PurePosixPath = HERE) -> Iterator[Member]:
    """Everything below a directory, without the directory itself."""
    for parent, directories, files in os.walk(source):
        for name in directories + files:
            path = Path(parent, name)
            yield Member(prefix / path.relative_to(source).as_posix(), path)


def write_tar(members: Iterable[Member], out: Writable, *, epoch: int, links: bool) -> None:
    """Write members sorted by name, as root:root, with modes 0644 and 0755 and one time for all.

    Args:
        members: in any order.
        out: receives an uncompressed tar stream.
        epoch: modification time of every member, seconds since 1970.
        links: whether symbolic links are allowed; ReleaseError for one where they are not.
    """
    stream = cast("IO[bytes]", out)  # mode w| calls nothing but write
    with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20, format=tarfile.PAX_FORMAT) as tar:
        for member in sorted(members, key=lambda member: member.name.parts):
            info = _tar_info(member, epoch=epoch, links=links)
            if info.isreg():
                with member.source.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)


def _tar_info(member: Member, *, epoch: int, links: bool) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.name.as_posix())
    info.uname = info.gname = "root"
    info.mtime = epoch
    status = member.source.lstat()
    if member.source.is_symlink() and links:
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, str(member.source.readlink())
    elif member.source.is_symlink():
        raise ReleaseError(f"{member.source} is a link: a tree holds files and directories only")
    elif member.source.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif member.source.is_file():
        info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
    else:
        raise ReleaseError(f"{member.source} is neither a file nor a directory")
    return info


def fingerprint(members: Iterable[Member]) -> str:
    """SHA-256 over names, executable bits and contents: equal for what gives equal archives."""
    digest = hashlib.sha256()
    for member in sorted(members, key=lambda member: member.name.parts):
        digest.update(f"{member.name}\0{_nature(member.source)}\n".encode())
    return digest.hexdigest()


def _nature(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    if path.is_dir():
        return "directory"
    kind = "program" if path.stat().st_mode & 0o100 else "file"
    return f"{kind} {sha256_of(path)}"


def sha256_of(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
