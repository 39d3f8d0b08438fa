"""A soak counts what ran, resumes what it left, and never calls a point passed that did not run."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import soak
from lab.fleet import ROOT

TESTS = """
import pathlib, pytest
@pytest.mark.soak
def test_good(): pathlib.Path({log!r}).open("a").write("good ")
@pytest.mark.soak
def test_mended(): assert pathlib.Path({mended!r}).exists()
@pytest.mark.soak
def test_last(): assert pathlib.Path({mended!r}).exists()
"""


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # in the repository: pytest names a test elsewhere in a way that it does not understand itself
    path = ROOT / "build" / f"test_points_{os.getpid()}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(TESTS.format(log=str(tmp_path / "log"), mended=str(tmp_path / "mended")))
    monkeypatch.setattr(
        soak, "CASES", {"points": soak.Case(about="points", paths=(str(path.relative_to(ROOT)),))}
    )
    monkeypatch.setattr(soak, "PROGRESS", tmp_path / "progress")
    monkeypatch.setattr(soak, "EVIDENCE", tmp_path / "evidence")
    monkeypatch.setattr(soak, "find_gateway", lambda: None)
    clean = soak.Run(name="points", commit="c" * 40, seed="1", dirty=False)
    monkeypatch.setattr(soak.Run, "now", lambda _name: clean)
    yield tmp_path
    path.unlink()


def verdicts(document: dict[str, Any]) -> list[str]:
    return [point["verdict"] for point in document["points"]]


def test_what_failed_is_tried_again_and_what_passed_is_not(case: Path) -> None:
    first = soak.soak("points")
    assert verdicts(first) == ["passed", "failed", "failed"]
    (case / "mended").touch()
    assert verdicts(soak.soak("points")) == ["passed", "passed", "passed"]
    assert (case / "log").read_text() == "good ", "a point that has passed was run again"


def test_a_point_without_an_end_is_not_run() -> None:
    run = soak.Run(name="nothing-ran", commit="c" * 40, seed="1", dirty=False)
    document = soak.evidence(run, ["a::b"])
    assert verdicts(document) == ["not run"]
    assert document["counts"] == {"passed": 0, "failed": 0, "not run": 1}
