"""No-change run of the whole role set against a stock-module playbook of the same resources; and growth."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import hosts as on_hosts
from benchmarks import stock, wire
from benchmarks.figures import Row, faults, growth, ratios, verdict
from benchmarks.ways import OURS, Bench, Way, play, role_set
from benchmarks.ways import stock as stock_ways
from lab import fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.hosts import Look
    from lab.host import Host
    from lab.state import Lab

BATCH = 3  # tenants that start at once: each gateway takes fifteen CPU seconds before its probe passes
SSH_PORT = 22
type Say = Callable[[str], object]


class BenchError(Exception):
    """The benchmark could not be set up; the text says what to read."""


def prepare(lab: Lab, names: Sequence[str], *, say: Say) -> dict[str, Host]:
    """Hosts that are tenants already, or are made so, a few at a time.

    Raises:
        BenchError: a host does not converge.
    """
    hosts = on_hosts.up(lab, names)
    say("publishing the release")
    fleet.publish(lab)
    for start in range(0, len(names), BATCH):
        batch = {name: hosts[name] for name in list(hosts)[start : start + BATCH]}
        say(f"bringing {', '.join(batch)} to their state")
        account = play(lab, role_set(), on_hosts.inventory(lab, batch))
        if account.used.exit_code:
            raise BenchError(f"the role set failed:\n{account.log[-4000:]}")
    return hosts


def translated(lab: Lab, hosts: Mapping[str, Host], folder: Path, *, say: Say) -> dict[str, Look]:
    """Write the stock playbook of what the role set declares on these hosts; how they look.

    Raises:
        BenchError, NotTranslatableError: it cannot be written.
    """
    inventory = on_hosts.inventory(lab, hosts)
    place = folder / "declared.jsonl"
    say("asking the role set what it declares")
    account = play(lab, role_set(), inventory, declared=place)
    if account.used.exit_code or any(account.counted("changed").values()):
        raise BenchError(f"the role set failed, or still changed something:\n{account.log[-4000:]}")
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    looks = on_hosts.look(hosts)
    tasks = {}
    for name in hosts:
        variables = inventory["_meta"]["hostvars"][name]
        gateway = variables["release"]["units"]["openclaw"]["sha256"]
        tenant = stock.Tenant(
            declared=[
                stock.Declared(
                    action=row["action"], arguments=row["arguments"], activation=row["activation"] or ""
                )
                for row in rows
                if row["host"] == name
            ],
            found=looks[name].found,
            store_url=variables["release_store_url"],
            image=f"{variables['registry']}/tenantfleet/openclaw@sha256:{gateway}",
        )
        tasks[name] = stock.tasks_of(tenant)
    first = next(iter(hosts))
    declared = [
        stock.Declared(action=row["action"], arguments=row["arguments"])
        for row in rows
        if row["host"] == first
    ]
    write_playbook(folder, tasks, stock.handlers(declared))
    say(f"{len(tasks[first])} stock tasks")
    return looks


def write_playbook(
    folder: Path, tasks: Mapping[str, Sequence[stock.Task]], handlers: Sequence[dict[str, Any]]
) -> None:
    """Lay the playbook, its files and its host variables down."""
    playbook, values = stock.merged(tasks)
    play_document = {
        "name": "The same resources by stock modules",
        "hosts": "tenants",
        "remote_user": "tf-deploy",
        "become": True,
        "tasks": playbook,
        "handlers": list(handlers),
    }
    (folder / "site.yml").write_text(json.dumps([play_document], indent=1))
    (folder / "host_vars").mkdir(exist_ok=True)
    for host, own in values.items():
        (folder / f"host_vars/{host}.json").write_text(json.dumps(own))
    for name, text in stock.contents(tasks).items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def compare(lab: Lab, names: Sequence[str], *, rounds: int, say: Say) -> dict[str, Any]:
    """All ways in turn, there and back again, so that what drifts on the machine hits each alike."""
    hosts = prepare(lab, names, say=say)
    with tempfile.TemporaryDirectory(prefix="tf-stock-") as scratch:
        looks = translated(lab, hosts, Path(scratch), say=say)
        ways: list[Way] = [role_set(), *stock_ways(Path(scratch))]
        addresses = {name: (host.address, SSH_PORT) for name, host in hosts.items()}
        with wire.counting(addresses) as counter:
            bench = Bench(
                lab=lab, hosts=hosts, inventory=on_hosts.inventory(lab, hosts), wire=counter, looks=looks
            )
            rows = []
            for number in range(1, rounds + 1):
                for way in ways if number % 2 else reversed(ways):
                    row, log = bench.row(way, number)
                    rows.append(row)
                    say(told(row))
                    if faults([row]):
                        say(log[-3000:])
    return {
        "hosts": len(names),
        "rows": [asdict(row) for row in rows],
        "faults": faults(rows),
        "ratios": [asdict(ratio) | {"verdict": verdict(ratio)} for ratio in ratios(rows, ours=OURS)],
    }


def grow(lab: Lab, names: Sequence[str], *, small: int, rounds: int, say: Say) -> dict[str, Any]:
    """Our own run on some of the hosts and on all of them."""
    hosts = prepare(lab, names, say=say)
    addresses = {name: (host.address, SSH_PORT) for name, host in hosts.items()}
    sizes = {small: dict(list(hosts.items())[:small]), len(hosts): hosts}
    rows: dict[int, list[Row]] = {size: [] for size in sizes}
    with wire.counting(addresses) as counter:
        for number in range(1, rounds + 1):
            for size, some in sizes.items():
                inventory = on_hosts.inventory(lab, some)
                bench = Bench(
                    lab=lab, hosts=some, inventory=inventory, wire=counter, looks=on_hosts.look(some)
                )
                row, log = bench.row(role_set(), number)
                rows[size].append(replace(row, way=f"{OURS} on {size}"))
                say(told(rows[size][-1]))
                if faults([row]):
                    say(log[-3000:])
    every = [row for some in rows.values() for row in some]
    return {
        "hosts": len(names),
        "rows": [asdict(row) for row in every],
        "faults": faults(every),
        "growth_per_host": growth(rows[small], rows[len(hosts)]),
    }


def told(row: Row) -> str:
    state = "INVALID" if faults([row]) else "valid"
    hosts = len(row.states)
    return (
        f"  {row.way:15} round {row.round} {state:8}"
        f" ok {sum(row.ok.values()):4} changed {sum(row.changed.values())}  wall {row.wall_s:6.1f} s"
        f"  CPU/host {row.controller_cpu_s / hosts:5.2f} + {row.hosts_cpu_s / hosts:5.2f} s"
        f"  sent/host {row.sent / hosts / 1000:8.0f} kB  turns/host {row.turns / hosts:6.0f}"
    )
