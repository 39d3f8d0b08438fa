"""A minimal Debian root from the mirrors that this machine itself uses."""

from dataclasses import dataclass
from pathlib import Path

from tenantfleet.release.pin import DebianPin
from tenantfleet.release.programs import ensure_programs, run

DEFAULT_ARCHIVE = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
# Reading matter that nobody opens in a container; licences stay.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)


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


def machine_mirrors(etc_apt: Path = Path("/etc/apt")) -> Mirrors:
    """The mirrors in this machine's apt configuration, Debian's own where it names none."""
    archive, security = [], []
    for uri in _uris(etc_apt):
        trimmed = uri.rstrip("/")
        if trimmed.endswith("/debian"):
            archive.append(trimmed)
        elif trimmed.endswith("/debian-security"):
            security.append(trimmed)
    return Mirrors(
        archive=archive[0] if archive else DEFAULT_ARCHIVE,
        security=security[0] if security else DEFAULT_SECURITY,
    )


def _uris(etc_apt: Path) -> list[str]:
    files = [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*"))]
    words = [
        line.split()
        for file in files
        if file.suffix in {".list", ".sources"} and file.is_file()
        for line in file.read_text().splitlines()
        if line.startswith(("deb ", "URIs:"))
    ]
    return [word for line in words for word in line if word.startswith(("http://", "https://"))]


def build_debian_root(pin: DebianPin, *, hook: Path, out: Path) -> None:
    """Write a root file system as a tar archive.

    Reproducible while the mirror offers the same packages: time stamps are clamped to the pin's day.

    Args:
        pin: suite, packages and day.
        hook: program that gets the root's path once all packages are in place.
        out: the archive.

    Raises:
        ReleaseError: mmdebstrap failed.
        MissingProgramError: it is not installed and cannot be.
    """
    ensure_programs("mmdebstrap")
    options = [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    argv = [
        *("mmdebstrap", "--quiet", "--variant=essential", "--format=tar", "--skip=output/dev,cleanup/run"),
        *(f"--include={','.join(pin.packages)}", *options, f"--customize-hook={hook}"),
        *(pin.suite, str(out), *machine_mirrors().sources(pin.suite)),
    ]
    run(argv, SOURCE_DATE_EPOCH=str(pin.epoch))
