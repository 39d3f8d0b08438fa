"""pytest plugin: draws cases by a seed, lists what it left out, and records what a broken-off run has done.

A marker `drawn(kind)` names a case's class of faults. `--draw` runs half of such cases, and of each kind one,
other ones at every commit; `script/soak` runs all. Cases marked `soak` run with `--soak` only. What was left
out is listed as not run: it is neither passed nor skipped.

`python -m lab.draw TOPIC COUNT NAME...` draws among names for a script, by the same seed.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEED_VARIABLE = "TENANTFLEET_SEED"
_LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()


def seed() -> str:
    """The seed of this run: of the environment when given, else of the commit."""
    return os.environ.get(SEED_VARIABLE) or commit()[:16]


def commit() -> str:
    """The commit that is checked out, in hexadecimal."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def chooser(topic: str) -> random.Random:
    """Draws for one topic; the same seed draws the same."""
    return random.Random(f"{seed()}/{topic}")  # noqa: S311 - draws test cases, nothing secret


def draw(kinds: Mapping[str, str], luck: random.Random) -> set[str]:
    """Half of the cases, and at least one of each kind.

    Args:
        kinds: of each case its kind.
        luck: what decides.
    """
    cases = sorted(kinds)
    luck.shuffle(cases)
    first_of_kind = {kinds[case]: case for case in reversed(cases)}
    chosen = set(first_of_kind.values())
    half = (len(cases) + 1) // 2
    others = [case for case in cases if case not in chosen]
    return chosen | set(others[: max(0, half - len(chosen))])


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("draw")
    group.addoption("--draw", action="store_true", help="of the cases marked `drawn` run the seed's half")
    group.addoption("--soak", action="store_true", help="run the cases marked `soak` too")
    group.addoption("--record", type=Path, help="append the end of each case to this file, a JSON line each")


def pytest_report_header() -> str:
    return f"seed: {seed()} (set {SEED_VARIABLE} for another)"


@pytest.hookimpl(trylast=True)  # drawn is among those that -m and -k have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out: dict[str, list[pytest.Item]] = {}
    if not config.getoption("--soak"):
        left_out["script/soak runs it"] = [item for item in items if item.get_closest_marker("soak")]
    if config.getoption("--draw"):
        kinds = {
            item.nodeid: marker.args[0] for item in items if (marker := item.get_closest_marker("drawn"))
        }
        chosen = draw(kinds, chooser("cases"))
        not_drawn = kinds.keys() - chosen
        left_out[f"drawn by seed {seed()}"] = [item for item in items if item.nodeid in not_drawn]
    gone = [item for group in left_out.values() for item in group]
    items[:] = [item for item in items if item not in gone]
    config.hook.pytest_deselected(items=gone)
    config.stash[_LEFT_OUT] = {
        why: [item.nodeid for item in group] for why, group in left_out.items() if group
    }


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for why, cases in config.stash.get(_LEFT_OUT, {}).items():
        terminalreporter.section(f"not run: {why}")
        for case in cases:
            terminalreporter.write_line(f"not run: {case}")


class _Recorder:
    """Appends the end of each case as it happens; a failed fixture is the case's failure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and not (report.when == "setup" and not report.passed) and not report.failed:
            return
        why = "" if report.passed else str(report.longrepr)[-1500:]
        line = {
            "point": report.nodeid,
            "verdict": report.outcome,
            "duration_s": round(report.duration, 1),
            "why": why,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "drawn(kind): with --draw the seed picks half of these, one of each kind"
    )
    config.addinivalue_line("markers", "soak: every point of a case; runs with --soak only")
    path: Path | None = config.getoption("--record")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        config.pluginmanager.register(_Recorder(path))


if __name__ == "__main__":
    topic, count, *names = sys.argv[1:]
    print("\n".join(chooser(topic).sample(sorted(names), int(count))))  # noqa: T201 (the command's output)
