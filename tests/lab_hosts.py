"""The lab's hosts as tests get them: by its own command line, whose words explain a failure."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAB = Path(os.environ.get("LAB_DIR", "/var/tmp/tenantfleet-lab"))
PROGRAM = Path(sys.executable).with_name("lab")


def lab(*argv: str) -> str:
    """What `lab` printed."""
    done = subprocess.run([PROGRAM, *argv], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"lab {' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


def fresh_host(name: str) -> None:
    """A host as its provider delivers it, whatever an earlier test left of it."""
    lab("up", name)
    lab("reset", name)


def cut_the_power(name: str) -> None:
    """Boot the same disk again, after an end that no program was told of."""
    lab("stop", name)
    lab("up", name)
