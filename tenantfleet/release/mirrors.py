"""The Debian mirrors that this machine itself uses, whichever way its apt sources are written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ARCHIVE = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
LIST_OF_MIRRORS = "mirror+file:"  # as in Debian's cloud images: a file with one mirror a line, the best first


@dataclass(frozen=True)
class Mirrors:
    archive: str = DEFAULT_ARCHIVE
    security: str = DEFAULT_SECURITY

    def sources(self, suite: str) -> list[str]:
        return [
            f"deb {self.archive} {suite} main",
            f"deb {self.archive} {suite}-updates main",
            f"deb {self.security} {suite}-security main",
        ]


@dataclass(frozen=True)
class _Source:
    uris: tuple[str, ...]
    components: tuple[str, ...]


def machine_mirrors(etc_apt: Path = Path("/etc/apt")) -> Mirrors:
    """The first mirror of each archive in this machine's apt configuration, Debian's own where it names none.

    An archive is known by the end of its path, and by its component main, which vendors' have no use for.
    """
    first: dict[str, str] = {}
    for source in _sources(etc_apt):
        if "main" in source.components:
            for uri in map(_trimmed, _reachable(source.uris)):
                first.setdefault(uri.rpartition("/")[2], uri)
    return Mirrors(first.get("debian", DEFAULT_ARCHIVE), first.get("debian-security", DEFAULT_SECURITY))


def _sources(etc_apt: Path) -> Iterator[_Source]:
    files = [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*"))]
    for file in filter(Path.is_file, files):
        if file.suffix == ".list":
            yield from _one_line_sources(file.read_text())
        elif file.suffix == ".sources":
            yield from _deb822_sources(file.read_text())


def _one_line_sources(text: str) -> Iterator[_Source]:
    """`deb [option=value …] URI SUITE COMPONENT…`, see sources.list(5)."""
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        options, closed, after = rest.strip().partition("]")
        words = (after if closed and options.startswith("[") else rest).split()
        if kind == "deb" and words:
            yield _Source(uris=(words[0],), components=tuple(words[2:]))


def _deb822_sources(text: str) -> Iterator[_Source]:
    """Paragraphs of `Field: value`; a line that begins with a blank goes on. See sources.list(5)."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for paragraph in "\n".join(lines).split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if not line[:1].isspace():
                name, _, line = line.partition(":")  # noqa: PLW2901 - what is left of it
                name = name.lower()
            fields[name] = f"{fields.get(name, '')} {line}"
        words = {name: tuple(value.split()) for name, value in fields.items()}
        if "deb" in words.get("types", ()) and words.get("enabled") != ("no",):
            yield _Source(uris=words.get("uris", ()), components=words.get("components", ()))


def _reachable(uris: tuple[str, ...]) -> Iterator[str]:
    """Addresses over HTTP, those in a list of mirrors included; of other kinds (file, cdrom) none."""
    for uri in uris:
        if uri.startswith(LIST_OF_MIRRORS):
            listed = Path("/", uri.removeprefix(LIST_OF_MIRRORS).lstrip("/"))
            lines = listed.read_text().splitlines() if listed.is_file() else []
            yield from _reachable(tuple(line.split()[0] for line in lines if line.split()))
        elif uri.startswith(("http://", "https://")):
            yield uri


def _trimmed(uri: str) -> str:
    return uri.rstrip("/")
