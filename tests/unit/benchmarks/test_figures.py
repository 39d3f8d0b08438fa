"""Which rows of a comparison count, and what ratio they give."""

from dataclasses import replace

import pytest

from benchmarks.figures import Row, faults, growth, ratios, verdict

ROW = Row(
    way="ours",
    round=1,
    exit_code=0,
    ok={"a": 40},
    changed={"a": 0},
    bad=0,
    states={"a": ("s1", "s1")},
    wall_s=10.0,
    controller_cpu_s=2.0,
    hosts_cpu_s=1.0,
    connections=1,
    sent=1000,
    received=500,
    turns=100,
)
STOCK = replace(ROW, way="stock", ok={"a": 110}, wall_s=100.0, controller_cpu_s=20.0, turns=2000)


def test_rows_that_left_the_host_as_it_was_count() -> None:
    assert faults([ROW, STOCK, replace(ROW, round=2)]) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(ROW, exit_code=2), "exit code 2"),
        (replace(ROW, bad=1), "1 tasks failed"),
        (replace(ROW, changed={"a": 1}), "changed {'a': 1}"),
        (replace(ROW, ok={}), "not every host reported"),
        (replace(ROW, ok={"a": 0}), "not every host reported"),
        (replace(ROW, states={"a": ("s1", "s2")}, detail=["/etc/x: old => new"]), "/etc/x: old => new"),
        (replace(ROW, round=2, ok={"a": 39}), "ok differs from round to round"),
        (replace(STOCK, states={"a": ("s2", "s2")}), "a: its state is not the same"),
    ],
)
def test_a_row_that_does_not_count_says_why(row: Row, words: str) -> None:
    assert any(words in fault for fault in faults([ROW, row])), faults([ROW, row])


def test_ratios_are_paired_by_round_and_told_with_their_spread() -> None:
    rows = [ROW, STOCK, replace(ROW, round=2, wall_s=30.0), replace(STOCK, round=2), replace(STOCK, round=3)]
    (wall,) = [ratio for ratio in ratios(rows, ours="ours") if ratio.measure == "wall_s"]
    assert (wall.against, wall.median, wall.low, wall.high) == ("stock", 0.2, 0.1, 0.3)
    assert (wall.ours, wall.theirs) == (20.0, 100.0)


def test_a_ratio_over_the_required_one_is_said_to_miss_it() -> None:
    slow = ratios([replace(ROW, wall_s=26.0), STOCK], ours="ours")
    said = {ratio.measure: verdict(ratio) for ratio in slow}
    assert said == {
        "wall_s": "MISSES 0.25",
        "controller_cpu_s": "aim met",
        "hosts_cpu_s": "MISSES 0.25",
        "sent": "",
        "received": "",
        "turns": "",
    }


def test_growth_is_per_host() -> None:
    more = replace(
        ROW, ok={"a": 40, "b": 40}, states={"a": ("s", "s"), "b": ("s", "s")}, wall_s=15.0, turns=200
    )
    factors = growth([ROW], [more])
    assert (factors["wall_s"], factors["turns"]) == (0.75, 1.0)
