from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantfleet.app.environment import open_environment
from tenantfleet.app.fleet import fleet_hosts
from tenantfleet.app.progress import Silence
from tenantfleet.app.provision import Driver
from tenantfleet.app.status import machine_rows
from tenantfleet.app.verify import verify_tenants
from tenantfleet.model.errors import ConflictError, OrderSpentError
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantfleet.model.order import HubOrder
    from tests.unit.app.conftest import Fleet

pytestmark = pytest.mark.driver

PATIENCE_S = 90


def processes_naming(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def results(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    try:
        parsed: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"no JSON; exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return parsed


def runs(fleet: Fleet) -> list[str]:
    return fleet.log.read_text().splitlines()


@pytest.fixture
def driver_at_the_gate(fleet: Fleet, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A driver in the middle of its playbook: the first task ran, the second waits."""
    order = fleet.write(fleet.order())
    log = tmp_path / "driver.log"
    # whoever runs these tests may do so under nohup, which a driver would respect
    command = ["/usr/bin/env", "--default-signal=HUP", *fleet.command("provision", order)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(fleet.log.exists, what="the first task", within_s=PATIENCE_S, story=log.read_text)
        yield order, process
    finally:
        process.kill()
        process.wait()


def submit(fleet: Fleet, *orders: HubOrder, again: bool = False) -> list[dict[str, Any]]:
    return driver(fleet).submit(orders, again=again)


def driver(fleet: Fleet) -> Driver:
    return Driver(environment=fleet.environment, project=fleet.project, progress=Silence())


def files_with(secret: str, *places: Path) -> list[Path]:
    return [
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def test_two_orders_are_carried_out_side_by_side_once_each_and_leave_no_secret(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.open_gate()
    orders = [fleet.order("acme"), fleet.order("bravo")]
    first = submit(fleet, *orders)
    assert [result["failure"] for result in first] == [None, None]
    assert sorted(result["machine"] for result in first) == ["lab-a1", "lab-b1"]
    assert {result["changed"] for result in first} == {1}

    assert submit(fleet, *orders) == first
    assert len(runs(fleet)) == 2

    assert not files_with(fleet.canary, tmp_path, Path("/dev/shm"), Path.home() / ".ansible")
    assert fleet.canary not in "".join(capfd.readouterr())
    assert {fleet.environment.order_ledger.get(str(order.order_id)).sealed for order in orders} == {None}


def test_failed_order_goes_on_when_mended_and_a_done_one_can_be_run_again(fleet: Fleet) -> None:
    playbook = fleet.project / "playbooks/tenant_provision.yml"
    good = playbook.read_text()
    playbook.write_text(good + "    - {name: Break, ansible.builtin.fail: {msg: the disk is full}}\n")
    fleet.open_gate()
    order = fleet.order()
    failed = submit(fleet, order)[0]["failure"]
    assert failed["exit_code"] == 20
    assert "Break: the disk is full" in failed["cause"]

    playbook.write_text(good)
    mended, again = submit(fleet, order)[0], submit(fleet, order, again=True)[0]
    assert [(done["failure"], done["attempt"], done["machine"]) for done in (mended, again)] == [
        (None, 2, "lab-a1"),
        (None, 3, "lab-a1"),
    ]
    numbers = [int(line.split()[1]) for line in runs(fleet)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 3


def test_killed_driver_leaves_no_process_and_the_next_one_finishes_the_order(
    fleet: Fleet, driver_at_the_gate: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    order, working = driver_at_the_gate
    log = tmp_path / "driver.log"
    wait_until(
        lambda: processes_naming(str(fleet.gate)),
        what="the task that waits",
        within_s=PATIENCE_S,
        story=log.read_text,
    )
    os.kill(working.pid, signal.SIGKILL)
    working.wait()
    wait_until(
        lambda: not processes_naming(str(fleet.project)) and not processes_naming(str(fleet.gate)),
        what="the end of all its processes, the task in a session of its own included",
        within_s=PATIENCE_S,
        story=log.read_text,
    )
    fleet.open_gate()
    done = fleet.tenantfleet("provision", order, "--json")
    assert done.returncode == 0, done.stderr
    assert results(done)[0]["machine"] == "lab-a1"
    numbers = [int(line.split()[1]) for line in runs(fleet)]
    assert len(numbers) == 2, "cut off once, so run twice"
    assert numbers[0] < numbers[1], "each attempt has a greater run number"
    status = json.loads(fleet.tenantfleet("status", "acme", "--json").stdout)
    assert [step["step"] for step in status["steps"]] == ["claim", "plan", "run", "verify", "done"]
    assert {step["state"] for step in status["steps"]} == {"done"}


def test_a_second_driver_is_refused_and_an_interrupted_one_leaves_no_secret_in_memory(
    fleet: Fleet, driver_at_the_gate: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    _, working = driver_at_the_gate
    with pytest.raises(ConflictError) as caught:
        submit(fleet, fleet.order("bravo"))
    assert caught.value.code == "driver.busy"

    mine = f"tenantfleet-*-{working.pid}-*"
    assert list(Path("/dev/shm").glob(mine))
    working.send_signal(signal.SIGTERM)
    assert working.wait(PATIENCE_S) == 130
    assert secrets_in_memory(mine) == []


def secrets_in_memory(pattern: str) -> list[Path]:
    """A dying Ansible may still make its scratch folder, `tmp`, which holds no argument of a task."""
    files = [path for root in Path("/dev/shm").glob(pattern) for path in root.rglob("*") if path.is_file()]
    return [path for path in files if path.relative_to("/dev/shm").parts[1] != "tmp"]


def test_a_driver_whose_terminal_hangs_up_leaves_no_secret_in_memory(
    driver_at_the_gate: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    _, working = driver_at_the_gate
    mine = f"tenantfleet-*-{working.pid}-*"
    assert list(Path("/dev/shm").glob(mine))
    working.send_signal(signal.SIGHUP)
    assert working.wait(PATIENCE_S) == 128 + signal.SIGHUP
    assert secrets_in_memory(mine) == []


def test_a_decommissioned_machine_is_given_to_nobody_before_it_is_reinstalled(fleet: Fleet) -> None:
    fleet.open_gate()
    submit(fleet, fleet.order("acme"))
    fleet.environment.machine_ledger.claim(
        tenant_id="bravo", order_id="-", region="eu-lab", candidates=["lab-b1"], now=datetime.now(UTC)
    )
    gone = submit(fleet, driver(fleet).decommission_order("acme"))[0]
    assert gone["failure"] is None, gone

    refused = submit(fleet, fleet.order("charlie"))[0]
    assert refused["failure"]["code"] == "machine.none_free"
    assert refused["failure"]["exit_code"] == 13

    fleet.environment.machine_ledger.mark_reinstalled("lab-a1")
    assert [(row["machine"], row["state"], row["enrolled"]) for row in machine_rows(fleet.environment)] == [
        ("lab-a1", "free", False),
        ("lab-b1", "claimed", True),
    ]


def test_a_done_order_puts_its_tenant_onto_no_second_machine(fleet: Fleet) -> None:
    fleet.open_gate()
    order = fleet.order()
    submit(fleet, order)
    submit(fleet, driver(fleet).decommission_order("acme"))
    with pytest.raises(OrderSpentError) as refused:
        submit(fleet, order, again=True)
    assert (refused.value.code, refused.value.exit_code) == ("order.consumed", 11)
    assert fleet.environment.machine_ledger.of_tenant("acme") is None
    known = fleet.environment.order_ledger.find(order)
    assert known is not None
    assert (known.state, known.attempt) == ("done", 1), "what is refused leaves no mark"


def test_an_order_that_was_refused_hides_no_healthy_tenant(fleet: Fleet) -> None:
    fleet.open_gate()
    submit(fleet, fleet.order())
    settings = fleet.environment.root / "settings.yml"
    settings.write_text(settings.read_text().replace("- eu-lab", "- eu-lab\n- us-lab"))
    wider = replace(fleet, environment=open_environment(fleet.home, "dev"))
    refused = submit(wider, wider.order(region="us-lab"))[0]["failure"]
    assert refused["code"] == "tenant.other_region"
    outcome = verify_tenants(wider.environment, [], project=fleet.project, progress=Silence())
    assert outcome.ok, outcome
    listed = fleet_hosts(fleet.home.parent / "machines.yml", ledger=fleet.environment.root / "ledger.sqlite")
    facts = {host.machine.id: host.variables for host in listed}
    assert facts["lab-a1"]["tenant"]["region"] == "eu-lab"
