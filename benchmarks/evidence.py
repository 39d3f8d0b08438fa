"""What a figure was measured with, and its file in docs/evidence."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenantfleet.release.pin import read_pin

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/evidence"


def circumstances() -> dict[str, Any]:
    """The commit and whether the tree differs from it, this machine, and the versions that matter."""
    pin = read_pin(ROOT / "tenant/openclaw")
    return {
        "commit": _said("git", "rev-parse", "HEAD"),
        "tree_changed": bool(
            _said("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/evidence")
        ),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "kernel": platform.release(),
        "versions": {
            "python": platform.python_version(),
            "ansible-core": version("ansible-core"),
            "ssh": _said("ssh", "-V"),
            "openclaw": pin.openclaw.version,
            "node": pin.node.version,
        },
    }


def write(name: str, result: Mapping[str, Any]) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"bench-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"wrote {path.relative_to(ROOT)}\n")
    return path


def _said(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=ROOT)
    return (done.stdout or done.stderr).strip()
