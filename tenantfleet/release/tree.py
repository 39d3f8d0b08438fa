"""The archive of a tenant unit: our package, `__main__.py`, and its locked wheels beside them."""

import gzip
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tenantfleet.release.archive import Member, fingerprint, members_below, sha256_of, write_tar
from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.manifest import Tree
from tenantfleet.release.wheels import unpack_wheels

# What of tenant/<unit>/ a host gets. Tests, requirements and READMEs stay behind.
CONTENTS = {
    "egress_proxy": ("__main__.py", "egress_proxy"),
    "link": ("__main__.py", "link"),
    "policy": ("policy.json",),
    "safety_wrapper": ("__main__.py", "plugin", "safety_wrapper"),
}
LEFT_OUT = frozenset({"__pycache__", "node_modules", "test", "tests"})
# Of a wheel's metadata: what importlib.metadata answers from, and the licences.
KEPT_METADATA = ("METADATA", "entry_points.txt", "LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS")
BUILDERS = ("archive.py", "tree.py", "wheels.py")


@dataclass(frozen=True)
class TreeSource:
    """A unit below tenant/ and what of it goes to a host."""

    root: Path
    unit: str

    @property
    def directory(self) -> Path:
        return self.root / "tenant" / self.unit

    @property
    def lock(self) -> Path | None:
        """The hash lock; None for a unit without requirements. ReleaseError when they were never locked."""
        lock = self.directory / "requirements.lock"
        if lock.is_file():
            return lock
        if (self.directory / "requirements.in").is_file():
            raise ReleaseError(f"{self.directory} has requirements but no lock: run script/bootstrap --lock")
        return None

    def members(self) -> Iterator[Member]:
        for name in CONTENTS[self.unit]:
            path = self.directory / name
            if not path.exists():
                raise ReleaseError(f"the unit {self.unit} lacks {path}")
            yield Member(PurePosixPath(name), path)
            if path.is_dir():
                yield from _wanted(members_below(path, prefix=PurePosixPath(name)))

    def fingerprint(self) -> str:
        """Names everything that the archive depends on, the code that writes it included."""
        here = Path(__file__).parent
        inputs = [Member(PurePosixPath("builder", name), here / name) for name in BUILDERS]
        inputs += [Member(PurePosixPath("unit") / m.name, m.source) for m in self.members()]
        if self.lock:
            inputs.append(Member(PurePosixPath("lock"), self.lock))
        return fingerprint(inputs)


def build_tree(source: TreeSource, out: Path) -> Tree:
    """Write the archive of a unit to `out`; the same sources give the same bytes.

    Raises:
        ReleaseError: a part is missing, a wheel does not match its hash, or there is a link.
    """
    with tempfile.TemporaryDirectory(prefix=f"tree-{source.unit}-") as scratch:
        wheels = Path(scratch)
        if source.lock:
            unpack_wheels(source.lock, wheels, root=source.root)
            _prune(wheels)
        members = [*source.members(), *_wanted(members_below(wheels))]
        _refuse_twins(source.unit, members)
        return pack_tree(members, out)


def pack_tree(members: Iterable[Member], out: Path) -> Tree:
    """Write an archive; the same members give the same bytes. ReleaseError when one of them is a link."""
    # level 6: 9 takes three times as long for one percent
    with out.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        write_tar(members, packed, epoch=0, links=False)
    return inspect_tree(out)


def inspect_tree(archive: Path) -> Tree:
    """Digest and size of an archive as it lies on disk."""
    return Tree(sha256=sha256_of(archive), size=archive.stat().st_size)


def _wanted(members: Iterator[Member]) -> Iterator[Member]:
    return (m for m in members if not LEFT_OUT.intersection(m.name.parts) and m.name.suffix != ".pyc")


def _prune(wheels: Path) -> None:
    """Take away what the installer wrote about this machine, and the commands that no host runs."""
    shutil.rmtree(wheels / "bin", ignore_errors=True)
    (wheels / ".lock").unlink(missing_ok=True)
    for metadata in wheels.glob("*.dist-info"):
        for path in metadata.iterdir():
            if path.is_file() and not path.name.startswith(KEPT_METADATA):
                path.unlink()


def _refuse_twins(unit: str, members: list[Member]) -> None:
    seen: dict[PurePosixPath, Path] = {}
    for member in members:
        if seen.setdefault(member.name, member.source) != member.source:
            raise ReleaseError(f"{unit}: a wheel brings {member.name} too, which is the unit's own name")
