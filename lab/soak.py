"""`script/soak`: every point of a case, however long it takes; what was done before is not done again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lab import draw
from lab.fleet import ROOT

EVIDENCE = ROOT / "docs/evidence"
PROGRESS = ROOT / "build/soak"
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tests that belong together: where they are, and which of them by pytest's expression."""

    about: str
    paths: tuple[str, ...]
    chosen: str = ""


CASES = {
    "driver-kills": Case(
        about="the driver killed at ten points of a provision, each on a bare host (proof 9)",
        paths=("tests/proofs/test_driver_kills.py",),
        chosen="killed_once",
    ),
    "bad-release": Case(
        about="releases that fail their probe, with and without a driver (proof 6)",
        paths=("tests/proofs/test_bad_release.py",),
        chosen="every_unit or first_activation",
    ),
    "bad-input": Case(about="bad input on a real host (proof 8)", paths=("tests/proofs/test_bad_input.py",)),
    "tools": Case(
        about="tool stacks behind nginx on a whole tenant (proof 11)", paths=("tests/proofs/test_tools.py",)
    ),
    "legacy-cleanup": Case(
        about="an older product taken off a tenant's machine (proof 12)",
        paths=("tests/proofs/test_legacy_cleanup.py",),
    ),
    "gateway": Case(
        about="the wrapper on the real gateway, every way around it (proofs 1 and 3)",
        paths=("tenant/safety_wrapper/tests/test_gateway.py",),
    ),
    "egress-matrix": Case(
        about="every account and every destination (proof 4)",
        paths=("tests/integration/test_egress_matrix.py",),
    ),
    "fail-closed": Case(
        about="a whole tenant loses its wrapper, every way (proof 3)",
        paths=("tests/proofs/test_fail_closed.py",),
    ),
    "lockout-drills": Case(
        about="a host locks us out and comes back (proof 10)",
        paths=("tests/integration/test_lockout_drills.py",),
    ),
    "firewall": Case(
        about="a firewall altered by hand, every way", paths=("tests/integration/test_firewall_on_host.py",)
    ),
    "stock-modules": Case(
        about="stock modules bring a damaged and a fresh host to the very state that ours make",
        paths=("tests/integration/test_stock_playbook.py", "tests/integration/test_host_state_on_host.py"),
        chosen="stock_modules",
    ),
    "activations": Case(
        about="switches of a unit on a host, killed and broken (proof 6)",
        paths=("tests/integration/test_release_slot_on_host.py",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One soak of a case at a commit with a seed; its progress lies in a file of that name."""

    name: str
    commit: str
    seed: str
    dirty: bool

    @classmethod
    def now(cls, name: str) -> "Run":
        # what other cases have proved is no change of what this one tries
        command = ["git", "status", "--porcelain", "--", ".", ":!docs/evidence"]
        changes = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        return cls(name=name, commit=draw.commit(), seed=draw.seed(), dirty=bool(changes.strip()))

    @property
    def record(self) -> Path:
        """Where its progress lies; a tree with changes has no name, so that its run is never resumed."""
        return PROGRESS / f"{self.name}-{self.commit[:12]}-{self.seed}.jsonl"

    def done(self) -> dict[str, dict[str, Any]]:
        """The last word on each point that a run came to."""
        lines = self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []
        ends = [json.loads(line) for line in lines]
        return {end["point"]: end for end in ends}


def points_of(case: Case) -> list[str]:
    """Names of the case's tests, as pytest collects them."""
    done = _pytest(case, "--collect-only", "--quiet", capture=True)
    if done.returncode:
        sys.exit(f"soak: the case cannot be collected:\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def _pytest(
    case: Case, *options: str, points: Iterable[str] = (), capture: bool = False
) -> subprocess.CompletedProcess[str]:
    chosen = ("-k", case.chosen) if case.chosen else ()
    what = [*points] or [*case.paths, *chosen]
    ours = ("--config-file", "pyproject.toml", "--rootdir", ".", "-p", "lab.draw", "--soak", "-m", "")
    command = [sys.executable, "-m", "pytest", *ours, *options, *what]
    return subprocess.run(command, check=False, text=True, capture_output=capture, cwd=ROOT)


def evidence(run: Run, points: list[str]) -> dict[str, Any]:
    """What is committed: each point with its verdict, those that did not run among them."""
    done = run.done()
    ends = [done.get(point, {"point": point, "verdict": NOT_RUN}) for point in points]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {
        "version": 1,
        "case": run.name,
        "commit": run.commit,
        "dirty": run.dirty,
        "seed": run.seed,
        "machine": {"cores": os.cpu_count(), "memory_mib": memory},
        # of the points themselves: a soak may be one run, or several with days between
        "duration_s": round(sum(end.get("duration_s", 0) for end in ends), 1),
        "counts": {
            verdict: sum(end["verdict"] == verdict for end in ends) for verdict in (PASSED, FAILED, NOT_RUN)
        },
        "points": ends,
    }


def soak(name: str) -> dict[str, Any]:
    """Run what is left of a case and write its evidence; `counts` says how it ended."""
    case, run = CASES[name], Run.now(name)
    points = points_of(case)
    if run.dirty:
        run.record.unlink(missing_ok=True)
    left = [point for point in points if run.done().get(point, {}).get("verdict") != PASSED]
    if left:
        find_gateway()
        _pytest(case, "--record", str(run.record), points=left)
    document = evidence(run, points)
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    (EVIDENCE / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document


def find_gateway() -> None:
    """The gateway's tests run OpenClaw on this machine, out of the tree that the image is made of."""
    command = [str(ROOT / ".venv/bin/tenantfleet"), "release", "openclaw-tree"]
    tree = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()
    os.environ["OPENCLAW_TREE"] = f"{tree}/opt"


@app.command()
def main(
    case: Annotated[str | None, typer.Argument(help="Which; --list names them.")] = None,
    *,
    listed: Annotated[bool, typer.Option("--list", help="Name the cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Run every point of a case, resuming a broken-off run; write docs/evidence/CASE.json."""
    if listed:
        abouts = {name: known.about for name, known in CASES.items()}
        print(json.dumps(abouts) if as_json else "\n".join(f"{n:16}{a}" for n, a in abouts.items()))  # noqa: T201
        return
    if case not in CASES:
        sys.exit(f"soak: name a case: {', '.join(CASES)}")
    document = soak(case)
    counts = document["counts"]
    if as_json:
        print(json.dumps(document))  # noqa: T201
    else:
        print(f"soak: {case}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")  # noqa: T201
    sys.exit(0 if counts[PASSED] == len(document["points"]) else 1)


if __name__ == "__main__":
    app()
