"""Hash-locked wheels for a tenant's Python, whatever Python runs the driver."""

import shutil
import subprocess
import sys
from pathlib import Path

from tenantfleet.release.errors import MissingProgramError, ReleaseError

# Debian 13: Python 3.13, glibc 2.41. The platform is the one that script/bootstrap --lock resolves for.
PYTHON = "3.13"
PLATFORM = "x86_64-manylinux_2_28"


def unpack_wheels(lock: Path, target: Path, *, root: Path) -> None:
    """Unpack every wheel that a lock names into `target`.

    Args:
        lock: requirements with `--hash`, complete: nothing else is resolved.
        target: a directory; made when missing.
        root: the repository, where script/bootstrap keeps uv.

    Raises:
        ReleaseError: a hash does not match, a package has no wheel for the platform, or no index answers.
        MissingProgramError: there is no uv.
    """
    argv = [
        *(str(find_uv(root)), "--quiet", "--no-config", "pip", "install"),
        *("--target", str(target), "--python", sys.executable),
        *("--python-version", PYTHON, "--python-platform", PLATFORM),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--link-mode", "copy"),
        *("--requirements", str(lock)),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"the wheels of {lock} cannot be unpacked:\n{done.stderr.strip()}")


def find_uv(root: Path) -> Path:
    """The project's uv, else the machine's."""
    own = root / ".cache/uv/bin/uv"
    found = str(own) if own.is_file() else shutil.which("uv")
    if not found:
        raise MissingProgramError("uv is missing: run script/bootstrap")
    return Path(found)
