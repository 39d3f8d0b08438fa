"""Three tenants on three lab hosts, provisioned once by the product's own commands."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import endpoints, fleet
from lab.control import Control
from lab.conversation import Agent, ModelRecord
from lab.process_watch import watch
from lab.state import Lab
from tests.proofs.spare import Spare
from tests.proofs.tenants import Fleet, Tenant, needles, new_payload

HOSTS = ("p1", "p2", "p3")
SPARE = "p4"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    chosen = Lab.from_environment()
    command = [str(Path(sys.executable).parent / "lab")]
    subprocess.run([*command, "up", *HOSTS], check=True)
    subprocess.run([*command, "reset", *HOSTS], check=True)
    yield chosen
    subprocess.run([*command, "down", *HOSTS], check=True)


@pytest.fixture(scope="session")
def release(lab: Lab) -> str:
    return fleet.publish(lab)


@pytest.fixture(scope="session")
def provisioned(lab: Lab, release: str) -> Iterator[Fleet]:
    home = lab.root / "proofs-home"
    shutil.rmtree(home, ignore_errors=True)
    control = Control(lab=lab, home=home, hosts=HOSTS)
    control.init()
    payloads = {f"tenant-{host}": new_payload() for host in HOSTS}
    orders = {name: control.order(name, release=release, secrets=values) for name, values in payloads.items()}
    with watch(needles(value for payload in payloads.values() for value in payload.values())) as watched:
        done = control.run("provision", *map(str, orders.values()), "--json")
    tenants = tuple(_tenant(control, name, orders[name], payloads[name]) for name in orders)
    yield Fleet(
        control=control,
        release=release,
        tenants=tenants,
        record=ModelRecord(Path(endpoints.info(lab)["model_record_dir"])),
        provisioned=done.stdout,
        progress=done.stderr,
        watched=watched,
        undisturbed=tenants[0].fingerprint(),
    )
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def spare(lab: Lab) -> Iterator[Spare]:
    """A bare host with a disk of its own, so that it can be filled."""
    command = str(Path(sys.executable).parent / "lab")
    subprocess.run([command, "up", SPARE, "--disk", "8G"], check=True)
    subprocess.run([command, "reset", SPARE], check=True)
    yield Spare(lab=lab, name=SPARE)
    subprocess.run([command, "down", SPARE], check=True)


@pytest.fixture
def tenant(provisioned: Fleet, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """The tenant that turns are tried on; its journal explains a failure."""
    chosen = provisioned.tenants[0]
    failed_before = request.session.testsfailed
    yield chosen
    if request.session.testsfailed > failed_before:
        sys.stderr.write(chosen.journal())


@pytest.fixture
def record(provisioned: Fleet) -> ModelRecord:
    return provisioned.record


def _tenant(control: Control, name: str, order: Path, values: dict[str, str]) -> Tenant:
    machine = control.status(name)["orders"][-1]["machine"]
    host = str(machine).removeprefix("lab-")
    return Tenant(id=name, order=order, agent=Agent(control.lab, host), secrets=values)
