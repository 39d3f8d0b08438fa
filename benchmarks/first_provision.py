"""The first provision of a pristine host by the product's own commands, and the second; where time goes."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.hosts import LAB
from benchmarks.no_change_run import BenchError, Say
from lab import fleet
from lab.control import Control

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.state import Lab

TENANT = "bench"
FIRST_AIM_S, SECOND_AIM_S = 90.0, 15.0
# What the product prints of a task: `  lab-f1: changed openclaw : install | Pull the image (21.1 s)`
TASK = re.compile(r"  (\S+): (ok|changed) (.{1,300}) \((\d+\.\d) s\)")
SHOWN = 12


def measure(lab: Lab, name: str, *, say: Say) -> dict[str, Any]:
    """Reinstall a host, give it a tenant, then bring it to its state again.

    Raises:
        BenchError: an order failed.
    """
    home = lab.root / "bench-home"
    shutil.rmtree(home, ignore_errors=True)
    boot_s = reinstalled(name)
    say("publishing the release")
    control = Control(lab=lab, home=home, hosts=(name,))
    digest = fleet.publish(lab)
    control.init()
    payload = {"provider.openai": f"sk-bench-{secrets.token_hex(16)}"}
    order = control.order(TENANT, release=digest, secrets=payload)
    first = provisioned(control, order)
    report("first", first, aim_s=FIRST_AIM_S, say=say)
    second = provisioned(control, order, "--again")
    report("second", second, aim_s=SECOND_AIM_S, say=say)
    faults = [] if second["changed"] == 0 else [f"the second provision changed {second['changed']}"]
    return {"boot_s": boot_s, "first": first, "second": second, "faults": faults}


def reinstalled(name: str) -> float:
    """A pristine host; seconds from power to SSH."""
    subprocess.run([LAB, "up", name], check=True, cwd=fleet.ROOT, stdout=sys.stderr)
    began = time.monotonic()
    subprocess.run([LAB, "reset", name], check=True, cwd=fleet.ROOT, stdout=sys.stderr)
    return round(time.monotonic() - began, 1)


def provisioned(control: Control, order: Path, *options: str) -> dict[str, Any]:
    """One `tenantfleet provision`, from its start to the end of verification."""
    began = time.monotonic()
    done = control.run("provision", *options, str(order), "--json", check=False)
    wall_s = round(time.monotonic() - began, 1)
    if done.returncode:
        raise BenchError(f"the order failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    (row,) = json.loads(done.stdout)
    return {
        "wall_s": wall_s,
        "changed": row["changed"],
        "steps_s": row["durations_s"],
        "tasks_s": tasks_of(done.stderr.splitlines()),
    }


def tasks_of(lines: Sequence[str]) -> list[tuple[str, float]]:
    """Name and seconds of every task that the product told of, the longest first."""
    found = [match for match in map(TASK.fullmatch, lines) if match]
    return sorted(((match[3], float(match[4])) for match in found), key=lambda item: -item[1])


def report(what: str, run: dict[str, Any], *, aim_s: float, say: Say) -> None:
    say(f"{what} provision {run['wall_s']:.1f} s, aim {aim_s:.0f} s; {run['changed']} changed")
    for step, seconds in run["steps_s"].items():
        say(f"  {seconds:6.1f} s  step {step}")
    for name, seconds in run["tasks_s"][:SHOWN]:
        say(f"  {seconds:6.1f} s  {name}")
    others = [seconds for _, seconds in run["tasks_s"][SHOWN:]]
    say(f"  {sum(others):6.1f} s  {len(others)} other tasks")
