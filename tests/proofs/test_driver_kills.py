"""Proof 9: a driver that is killed while it provisions is resumed to the host that it would have made.

A point is a line of the progress that an undisturbed provision recorded: the driver dies as soon as it says
it, or a moment later, inside the next task on the host. The seed of the commit decides which lines.
"""

import itertools
import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.control import ENVIRONMENT, Control
from lab.draw import chooser
from lab.fingerprint import differences
from lab.process_watch import processes_with
from lab.state import write_whole
from tenantfleet.app.environment import open_environment
from tenantfleet.execution.host_gate import Answer, Gate
from tenantfleet.execution.ssh import mint_identity
from tenantfleet.inventory.render import ssh_arguments
from tests.proofs.spare import Spare
from tests.proofs.tenants import Fleet, new_payload
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

TENANT = "tenant-killed"
POINTS_OF_SOAK = 10
# the order's end: a driver that has said so has nothing left to be killed in
LAST_LINES = 3


@dataclass(frozen=True, kw_only=True)
class KillPoint:
    """When to kill: after a line of progress, `inside` the task that follows it on the host."""

    line: str
    inside: bool


def recorded_lines(provisioned: Fleet, spare: Spare) -> list[str]:
    """What the driver says of one tenant, in order, as it would say it of the spare host's."""
    known = provisioned.tenants[0]
    own = [line for line in provisioned.progress.splitlines() if known.id in line or known.machine_id in line]
    renamed = [line.replace(known.id, TENANT).replace(known.machine_id, spare.machine_id) for line in own]
    return list(dict.fromkeys(without_figures(line) for line in renamed))[:-LAST_LINES]


def without_figures(line: str) -> str:
    """A line without its duration; of a step's end only that it ended."""
    text, _, _ = line.rpartition(" (")
    return (text or line.partition("  done")[0]).strip()


def drawn_points(lines: list[str], count: int) -> list[KillPoint]:
    """Points in the order of the provision, one from each stretch of equal length."""
    luck = chooser("driver-kills")
    borders = [len(lines) * number // count for number in range(count + 1)]
    stretches = [lines[start:end] for start, end in itertools.pairwise(borders)]
    return [KillPoint(line=luck.choice(stretch), inside=luck.random() < 0.5) for stretch in stretches]


def kill_at(point: KillPoint, control: Control, spare: Spare, *command: str) -> None:
    """Start a driver, kill it at the point, and see all that it had started end."""
    with subprocess.Popen(
        control.command(*command), env=control.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, bufsize=1,
    ) as driver:  # fmt: skip
        assert driver.stderr is not None
        said = []
        for line in driver.stderr:
            said.append(line)
            if without_figures(line) == point.line:
                break
        assert driver.poll() is None, f"it ended before {point}:\n{''.join(said[-30:])}"
        if point.inside:
            wait_until(lambda: spare.runs_a_task() or driver.poll() is not None, what=f"a task after {point}")
            assert driver.poll() is None, f"it ended before a task after {point} was seen"
        driver.kill()
    own = f"tenantfleet-run-{driver.pid}-"
    wait_until(lambda: not processes_with(own), what="no process of the killed driver", story=process_list)


def process_list() -> str:
    return subprocess.run(["ps", "-ef"], check=True, capture_output=True, text=True).stdout


def provision_killed_at(points: list[KillPoint], control: Control, spare: Spare, order: Path) -> str:
    """Carry an order out by a driver for each point and one that is left alone; what that one says."""
    command: tuple[str, ...] = ("provision", str(order))
    runs: set[int] = set()
    for point in points:
        kill_at(point, control, spare, *command)
        runs |= spare.run_numbers()
        command = ("resume",)
    done = control.run("resume", "--json")
    (row,) = json.loads(done.stdout)
    assert row["failure"] is None, done.stdout + done.stderr
    (newest,) = spare.run_numbers()
    # a driver that dies before first contact, or when it only verifies, leaves no older run behind
    answers = {run: knock(control, run)[0] for run in runs - {newest}}
    assert set(answers.values()) <= {Answer.REFUSED}, "an older run can still touch the host"
    assert knock(control, newest)[0] is Answer.ACCEPTED, "the gate refuses everybody"
    return done.stderr


def knock(control: Control, number: int) -> tuple[Answer, str]:
    """What the host's gate says to a task of a run, sent with a good certificate."""
    environment = open_environment(control.home, ENVIRONMENT)
    (machine,) = environment.machines()
    identity = mint_identity(
        ca=environment.ssh_user_ca_key, accounts=("tf-deploy",), key_id="knock", now=datetime.now(UTC)
    )
    key = control.home / "knock"
    write_whole(key, identity.private_key.reveal(), mode=0o600)
    write_whole(control.home / "knock-cert.pub", identity.certificate + "\n")
    arguments = ssh_arguments(machine, number)
    gate = Gate(address=machine.address, account="tf-deploy", key_file=key, ssh_arguments=arguments)
    return gate.still_ours()


def assert_killed_drivers_change_nothing(
    provisioned: Fleet, spare: Spare, points: list[KillPoint], home: Path
) -> None:
    print("\n".join(map(str, points)))  # noqa: T201 - shown when it fails
    spare.reinstall()
    control = spare.control(home)
    order = control.order(TENANT, release=provisioned.release, secrets=new_payload())
    said = provision_killed_at(points, control, spare, order)
    found = differences(provisioned.undisturbed, spare.fingerprint(TENANT))
    assert not found, "\n".join([*found, said])
    wait_until(lambda: not spare.serves_somebody(), what="no process of a dead driver's login on the host")


def test_a_driver_that_was_killed_three_times_makes_the_host_of_an_undisturbed_one(
    provisioned: Fleet, spare: Spare, tmp_path: Path
) -> None:
    points = drawn_points(recorded_lines(provisioned, spare), 3)
    assert_killed_drivers_change_nothing(provisioned, spare, points, tmp_path / "home")


@pytest.mark.drawn("under the guard")
@pytest.mark.parametrize("last", ["Survey the accounts and the guard", "SSH, sudo and firewall"])
def test_a_driver_that_was_killed_under_the_lock_out_guard_is_no_hindrance(
    provisioned: Fleet, spare: Spare, tmp_path: Path, last: str
) -> None:
    """The guard is armed and nothing is changed; or the host is enrolled and nobody has proved it."""
    (line,) = (line for line in recorded_lines(provisioned, spare) if line.endswith(f"guard | {last}"))
    assert_killed_drivers_change_nothing(
        provisioned, spare, [KillPoint(line=line, inside=True)], tmp_path / "home"
    )


@pytest.mark.soak
@pytest.mark.parametrize("number", range(POINTS_OF_SOAK))
def test_a_driver_that_was_killed_once_makes_the_host_of_an_undisturbed_one(
    provisioned: Fleet, spare: Spare, tmp_path: Path, number: int
) -> None:
    point = drawn_points(recorded_lines(provisioned, spare), POINTS_OF_SOAK)[number]
    assert_killed_drivers_change_nothing(provisioned, spare, [point], tmp_path / "home")
