"""What a seed draws: half of the cases, each kind at least once, the same for the same seed."""

import random
import subprocess
import sys
from pathlib import Path

from lab.draw import ROOT, draw

KINDS = {f"{kind}-{number}": kind for kind in ("nonce", "child", "policy") for number in range(6)} | {
    "alone": "rare"
}


def luck(number: int) -> random.Random:
    return random.Random(number)  # noqa: S311 - draws test cases


def test_half_is_drawn_and_each_kind_is_among_it() -> None:
    for number in range(200):
        chosen = draw(KINDS, luck(number))
        assert len(chosen) == 10
        assert {KINDS[case] for case in chosen} == {"nonce", "child", "policy", "rare"}


def test_every_case_has_its_turn_and_a_seed_draws_the_same_again() -> None:
    drawn = [draw(KINDS, luck(number)) for number in range(200)]
    assert set().union(*drawn) == KINDS.keys()
    assert draw(KINDS, luck(7)) == draw(KINDS, luck(7))


CASES = """
import pytest
@pytest.mark.drawn("one")
def test_a(): pass
@pytest.mark.drawn("one")
def test_b(): assert False, "told why"
@pytest.mark.soak
def test_c(): pass
"""


def run(tmp_path: Path, *options: str) -> str:
    (tmp_path / "test_cases.py").write_text(CASES)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "lab.draw",
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_what_was_not_drawn_is_listed_as_not_run_and_counts_for_nothing(tmp_path: Path) -> None:
    said = run(tmp_path, "--draw")
    assert said.count("not run: test_cases.py::") == 2, said
    assert "not run: test_cases.py::test_c" in said
    assert "2 deselected" in said
    assert "skipped" not in said


def test_the_record_tells_each_end_and_why(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    run(tmp_path, "--soak", f"--record={record}")
    first, second, third = record.read_text().splitlines()
    assert '"verdict": "passed"' in first
    assert '"verdict": "failed"' in second
    assert "told why" in second
    assert "test_c" in third


def test_what_another_run_is_asked_for_is_neither_drawn_nor_called_not_run(tmp_path: Path) -> None:
    said = run(tmp_path, "--draw", "-k", "test_a")
    assert "not run" not in said
    assert "1 passed" in said


def test_a_script_draws_names_by_the_same_seed() -> None:
    command = [sys.executable, "-m", "lab.draw", "scenarios", "2", "a", "b", "c"]
    first, again = (
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout for _ in range(2)
    )
    assert first == again
    assert len(set(first.split()) & {"a", "b", "c"}) == 2
