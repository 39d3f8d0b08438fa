from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.app.conftest import Fleet

CANARY = "sk-canary-9f3d2e81c4"
PATIENCE_S = 90


def wait_until(condition: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen in {PATIENCE_S} s:\n{log.read_text()}")
        time.sleep(0.05)


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
    with log.open("wb") as output:
        driver = subprocess.Popen(
            fleet.command("provision", order), stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(fleet.log.exists, "the first task", log)
        yield order, driver
    finally:
        driver.kill()
        driver.wait()


def test_two_orders_are_carried_out_side_by_side_and_once_each(fleet: Fleet) -> None:
    fleet.open_gate()
    files = [fleet.write(fleet.order(name), f"{name}.yml") for name in ("acme", "bravo")]
    first = fleet.tenantfleet("provision", *files, "--json")
    assert first.returncode == 0, first.stderr
    assert sorted(result["machine"] for result in results(first)) == ["lab-a1", "lab-b1"]
    assert {result["changed"] for result in results(first)} == {1}

    second = fleet.tenantfleet("provision", *files, "--json")
    assert results(second) == results(first)
    assert sorted(runs(fleet)) == ["run 1", "run 2"]


def test_done_order_run_again_gets_a_greater_run_number_and_no_payload(fleet: Fleet) -> None:
    fleet.open_gate()
    order = fleet.write(fleet.order())
    assert fleet.tenantfleet("provision", order).returncode == 0
    again = fleet.tenantfleet("provision", order, "--again", "--json")
    assert again.returncode == 0, again.stderr
    assert results(again)[0]["attempt"] == 2
    assert len(runs(fleet)) == 2


def test_killed_driver_leaves_no_process_and_the_next_one_finishes_the_order(
    fleet: Fleet, driver_at_the_gate: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    order, driver = driver_at_the_gate
    assert processes_naming(str(fleet.project)), "the playbook should run"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(
        lambda: not processes_naming(str(fleet.project)),
        "the end of all its processes",
        tmp_path / "driver.log",
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


def test_a_second_driver_is_refused_while_the_first_works(
    fleet: Fleet, driver_at_the_gate: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    order, driver = driver_at_the_gate
    refused = fleet.tenantfleet("provision", order, "--json")
    assert refused.returncode == 14, refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "driver.busy"
    fleet.open_gate()
    assert driver.wait(PATIENCE_S) == 0


def test_an_interrupted_driver_leaves_no_secret_in_memory(
    driver_at_the_gate: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    _, driver = driver_at_the_gate
    mine = f"tenantfleet-run-{driver.pid}-*"
    assert list(Path("/dev/shm").glob(mine))  # noqa: S108
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(PATIENCE_S) == 130
    assert not list(Path("/dev/shm").glob(mine))  # noqa: S108


def test_the_payload_is_found_nowhere_after_the_run(fleet: Fleet, tmp_path: Path) -> None:
    fleet.open_gate()
    done = fleet.tenantfleet("provision", fleet.write(fleet.order()))
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    left = [
        path
        for place in (tmp_path, Path("/dev/shm"), Path.home() / ".ansible")  # noqa: S108
        for path in place.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert not left


def test_a_done_order_keeps_no_sealed_payload(fleet: Fleet) -> None:
    fleet.open_gate()
    order = fleet.order()
    assert order.sealed is not None
    assert fleet.tenantfleet("provision", fleet.write(order)).returncode == 0
    assert fleet.environment.order_ledger.get(str(order.order_id)).sealed is None


def test_failed_playbook_fails_the_order_and_the_same_order_goes_on_when_mended(fleet: Fleet) -> None:
    playbook = fleet.project / "playbooks/tenant_provision.yml"
    good = playbook.read_text()
    fleet.open_gate()
    playbook.write_text(good + "    - {name: Break, ansible.builtin.fail: {msg: the disk is full}}\n")
    order = fleet.write(fleet.order())
    failed = fleet.tenantfleet("provision", order, "--json")
    assert failed.returncode == 20, failed.stderr
    assert "the disk is full" in results(failed)[0]["failure"]["cause"]

    playbook.write_text(good)
    mended = fleet.tenantfleet("provision", order, "--json")
    assert mended.returncode == 0, mended.stderr
    assert (results(mended)[0]["attempt"], results(mended)[0]["machine"]) == (2, "lab-a1")


def test_a_decommissioned_machine_is_given_to_nobody_before_it_is_reinstalled(fleet: Fleet) -> None:
    fleet.open_gate()
    files = [fleet.write(fleet.order(name), f"{name}.yml") for name in ("acme", "bravo")]
    assert fleet.tenantfleet("provision", *files).returncode == 0
    gone = fleet.tenantfleet("decommission", "acme", "--yes", "--json")
    assert gone.returncode == 0, gone.stderr

    next_order = fleet.write(fleet.order("charlie"))
    refused = fleet.tenantfleet("provision", next_order)
    assert refused.returncode == 13, refused.stdout
    assert "machine.none_free" in refused.stdout

    assert fleet.tenantfleet("inventory", "reinstalled", "lab-a1").returncode == 0
    rows = json.loads(fleet.tenantfleet("inventory", "list", "--json").stdout)
    assert [(row["machine"], row["state"], row["enrolled"]) for row in rows] == [
        ("lab-a1", "free", False),
        ("lab-b1", "claimed", True),
    ]
