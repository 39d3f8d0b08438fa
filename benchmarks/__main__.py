"""`script/bench [NAME...]`: measure, print, and say by the exit code whether every row counted."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import evidence, first_provision, no_change_run, start_of_openclaw
from benchmarks.figures import MEASURES
from lab import world
from lab.state import Lab, LabError

if TYPE_CHECKING:
    from collections.abc import Callable

INVALID, BROKEN = 1, 2
# In the order in which they do not disturb each other.
NAMES = ("first_provision", "start_of_openclaw", "no_change_run", "growth")


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def measured(name: str, lab: Lab, given: argparse.Namespace) -> dict[str, Any]:
    hosts = [f"n{number}" for number in range(1, given.hosts + 1)]
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "first_provision": lambda: first_provision.measure(lab, "f1", say=say),
        "start_of_openclaw": lambda: start_of_openclaw.measure(lab, "n1", rounds=given.rounds, say=say),
        "no_change_run": lambda: no_change_run.compare(lab, hosts, rounds=given.rounds, say=say),
        "growth": lambda: no_change_run.grow(
            lab,
            [f"n{number}" for number in range(1, given.many + 1)],
            small=given.hosts,
            rounds=given.rounds,
            say=say,
        ),
    }
    began = time.monotonic()
    result = {"name": name, **evidence.circumstances(), **ways[name]()}
    return {**result, "took_s": round(time.monotonic() - began)}


def show(result: dict[str, Any]) -> None:
    """The ratios first: they are what a figure promises."""
    print(f"== {result['name']}, {result['took_s']} s")
    for ratio in result.get("ratios", ()):
        unit, decimals = MEASURES[ratio["measure"]]
        ours, theirs = (f"{ratio[key]:.{decimals}f} {unit}" for key in ("ours", "theirs"))
        print(
            f"  {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})  {ratio['measure']:17}"
            f" against {ratio['against']:12} {ours} : {theirs}  {ratio['verdict']}"
        )
    for measure, factor in result.get("growth_per_host", {}).items():
        print(f"  {factor:.2f}  {measure} a host, {result['hosts']} hosts over the smaller number")
    for part, aim_s in (("first", first_provision.FIRST_AIM_S), ("second", first_provision.SECOND_AIM_S)):
        if part in result:
            print(f"  {result[part]['wall_s']:.1f} s  {part} provision, aim {aim_s:.0f} s")
    for variant, values in result.get("medians", {}).items():
        print("  " + "  ".join(f"{key} {value:5.1f}" for key, value in values.items()) + f"  {variant}")
    for fault in result["faults"]:
        print(f"  INVALID {fault}")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; without: all but growth"
    )
    parser.add_argument("--json", action="store_true", help="results on standard output, for programs")
    parser.add_argument("--write-evidence", action="store_true", help="docs/evidence/bench-NAME.json")
    parser.add_argument(
        "--hosts", type=int, default=3, help="of no_change_run, and the smaller number of growth"
    )
    parser.add_argument("--many", type=int, default=10, help="the larger number of hosts of growth")
    parser.add_argument("--rounds", type=int, default=3, help="odd numbers balance the order")
    parser.add_argument("--keep", action="store_true", help="leave the hosts up")
    given = parser.parse_args(argv)
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return given


def main(argv: list[str]) -> int:
    given = arguments(argv)
    lab, results = Lab.from_environment(), []
    chosen = [name for name in NAMES if name in (given.names or NAMES[:-1])]
    try:
        for name in chosen:
            result = measured(name, lab, given)
            results.append(result)
            if not given.json:
                show(result)
            if given.write_evidence:
                evidence.write(name, result)
            if name == "first_provision" and not given.keep:
                world.remove(lab, ["f1"])  # its gateway would be noise
    except (LabError, no_change_run.BenchError) as error:
        say(f"bench: {error}")
        return BROKEN
    finally:
        if not given.keep:
            world.down(lab, purge=False)
    if given.json:
        print(json.dumps(results, indent=1))
    return INVALID if any(result["faults"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
