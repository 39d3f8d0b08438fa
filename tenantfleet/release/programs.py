"""Debian programs that a build calls; each is named like the package that brings it."""

import os
import shutil
import subprocess

from tenantfleet.release.errors import MissingProgramError, ReleaseError


def ensure_programs(*programs: str) -> None:
    """Install what is missing, as root on Debian; MissingProgramError with the command to run otherwise."""
    missing = sorted(program for program in programs if shutil.which(program) is None)
    if not missing:
        return
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingProgramError(f"{', '.join(missing)} missing: run as root: {' '.join(install)}")
    run(["apt-get", "update", "-qq"])
    run(install, DEBIAN_FRONTEND="noninteractive")


def run(argv: list[str], **variables: str) -> str:
    """Run a program to its end and return its standard output.

    Args:
        argv: never through a shell.
        variables: added to the environment.

    Raises:
        ReleaseError: it failed; the message ends with what it wrote to standard error.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | variables)
    if done.returncode:
        raise ReleaseError(
            f"{' '.join(argv[:3])} … exited with {done.returncode}:\n{done.stderr[-4000:].strip()}"
        )
    return done.stdout
