"""A minimal Debian root from the mirrors that this machine itself uses."""

from pathlib import Path

from tenantfleet.release.mirrors import machine_mirrors
from tenantfleet.release.pin import DebianPin
from tenantfleet.release.programs import ensure_programs, run

# Reading matter that nobody opens in a container; licences stay.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)


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
