"""Pure: rows of a comparison, which of them count, and the ratios that they give."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUIRED, AIM = 0.25, 0.10  # issue 3: no-change run against stock modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of one way on all hosts.

    Attributes:
        ok, changed: tasks of each host; `bad`: failed and unreachable ones of all.
        states: host → SHA-256 of its state before and after.
        controller_cpu_s, hosts_cpu_s: seconds of all hosts together, children included.
        sent, received: bytes on SSH; `turns`: changes from answering to asking.
    """

    way: str
    round: int
    exit_code: int
    ok: Mapping[str, int]
    changed: Mapping[str, int]
    bad: int
    states: Mapping[str, tuple[str, str]]
    wall_s: float
    controller_cpu_s: float
    hosts_cpu_s: float
    connections: int
    sent: int
    received: int
    turns: int
    detail: Sequence[str] = field(default=())


# What is compared: name → unit, decimals.
MEASURES = {
    "wall_s": ("s", 1),
    "controller_cpu_s": ("s", 2),
    "hosts_cpu_s": ("s", 2),
    "sent": ("B", 0),
    "received": ("B", 0),
    "turns": ("", 0),
}


def faults(rows: Sequence[Row]) -> list[str]:
    """Why rows do not count; empty when every one does.

    A row counts when it succeeded, reported the same number of tasks as its way always does, changed nothing,
    and left each host as it was, which is also how every other way found and left it.
    """
    found = [fault for row in rows for fault in _own_faults(row)]
    for way in dict.fromkeys(row.way for row in rows):
        counts = {tuple(sorted(row.ok.items())) for row in rows if row.way == way}
        if len(counts) > 1:
            found.append(f"{way}: ok differs from round to round: {sorted(counts)}")
    hosts = sorted({host for row in rows for host in row.states})
    seen = {host: {state for row in rows for state in row.states.get(host, ())} for host in hosts}
    unlike = [host for host in hosts if len(seen[host]) > 1]
    return [*found, *(f"{host}: its state is not the same before and after all rows" for host in unlike)]


def _own_faults(row: Row) -> Iterable[str]:
    name = f"{row.way} round {row.round}"
    if row.exit_code or row.bad:
        yield f"{name}: exit code {row.exit_code}, {row.bad} tasks failed or unreachable"
    if not row.ok or set(row.ok) != set(row.states) or not all(row.ok.values()):
        yield f"{name}: not every host reported tasks: {dict(row.ok)}"
    if any(row.changed.values()):
        yield f"{name}: changed {dict(row.changed)}"
    for host, (before, after) in row.states.items():
        if before != after:
            yield f"{name}: {host} is not as it was: {'; '.join(row.detail[:5])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Ours over theirs, paired round by round: median, and the smallest and largest."""

    measure: str
    against: str
    median: float
    low: float
    high: float
    ours: float
    theirs: float


def ratios(rows: Sequence[Row], *, ours: str) -> list[Ratio]:
    """Every measure against every other way; rounds in which one is missing are left out."""
    found = []
    by_way: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_way.setdefault(row.way, {})[row.round] = row
    for way in (way for way in by_way if way != ours):
        rounds = sorted(by_way[way].keys() & by_way.get(ours, {}).keys())
        for measure in MEASURES if rounds else ():
            pairs = [(_value(by_way[ours][n], measure), _value(by_way[way][n], measure)) for n in rounds]
            each = [mine / other for mine, other in pairs if other > 0]
            if each:
                found.append(
                    Ratio(
                        measure=measure,
                        against=way,
                        median=statistics.median(each),
                        low=min(each),
                        high=max(each),
                        ours=statistics.median(mine for mine, _ in pairs),
                        theirs=statistics.median(other for _, other in pairs),
                    )
                )
    return found


def _value(row: Row, measure: str) -> float:
    return float(getattr(row, measure))


def verdict(ratio: Ratio) -> str:
    """What the promise says of a ratio; bytes and turns are told, not promised."""
    if ratio.measure not in {"wall_s", "controller_cpu_s", "hosts_cpu_s"}:
        return ""
    if ratio.median > REQUIRED:
        return f"MISSES {REQUIRED}"
    return "aim met" if ratio.median <= AIM else "required met"


def growth(small: Sequence[Row], large: Sequence[Row]) -> dict[str, float]:
    """Each measure per host at the larger number of hosts over the same at the smaller: 1 is linear."""
    found = {}
    for measure in MEASURES:
        per_host = [
            statistics.median(_value(row, measure) / len(row.states) for row in rows)
            for rows in (small, large)
        ]
        if per_host[0] > 0:
            found[measure] = per_host[1] / per_host[0]
    return found
