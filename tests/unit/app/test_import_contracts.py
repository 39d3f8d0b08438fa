from __future__ import annotations

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def test_arrows_between_the_drivers_parts_point_down_only() -> None:
    done = subprocess.run(
        [REPOSITORY / ".venv/bin/lint-imports", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
