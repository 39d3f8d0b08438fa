"""Proof 6: a release that fails its probe leaves what ran before in force, whoever dies meanwhile.

Tenants get a release at once in which one unit is bad, another one on each host. The driver is killed when
their hosts have switched and wait for their probes; then it is resumed and sees the release fail. The seed of
the commit draws one tenant and its unit; the soak takes all three.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lab.control import Control
from lab.draw import chooser
from lab.process_watch import processes_with
from tests.proofs.bad_release import GATEWAY_MAY_END, MAY_END, publish_bad
from tests.proofs.spare import Spare
from tests.proofs.tenants import Fleet, Tenant, new_payload
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

# in the tenants' order; the last one's policy is a new activation too, for its probe names the wrapper's code
UNITS = ("egress_proxy", "openclaw", "safety_wrapper")
SERVICES = {"egress_proxy": "tf-egress", "safety_wrapper": "tf-wrapper", "openclaw": "openclaw"}
VERDICTS = "/var/lib/tenantfleet/activations"
# a way back has the gateway stop, start and answer a canary turn, each with a deadline of its own
DEADLINE_S = 480
DRAWN = (chooser("bad-release").choice(UNITS),)

type Publish = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """A tenant, the unit that is bad in the release that it gets, and the order that names that release."""

    tenant: Tenant
    unit: str
    order: Path

    def read(self, *argv: str) -> str:
        return self.tenant.agent.on_host(*argv).stdout.strip()

    def json(self, path: str) -> dict[str, Any]:
        said = self.read("cat", path)
        document: dict[str, Any] = json.loads(said) if said else {}
        return document

    def in_force(self) -> dict[str, str]:
        """What runs: the activation by link and by verdict, what its code or image is, and the service."""
        slot = f"/opt/tenantfleet/{self.unit}/current"
        activation = self.json(f"{slot}/activation.json")
        return {
            "current": self.read("readlink", slot),
            "in force": str(self.json(f"{VERDICTS}/{self.unit}.json")["in_force"]),
            "code": str(activation["code"] or activation["image"]),
            "service": self.read("systemctl", "is-active", SERVICES[self.unit]),
        }

    def is_switched(self) -> bool:
        """Whether the host has switched to the bad activation and has no verdict on it yet."""
        attempt = self.json(f"{VERDICTS}/{self.unit}.in_progress.json")
        switched = attempt.get("activation") == self.read("readlink", f"/opt/tenantfleet/{self.unit}/current")
        return switched and self.read("systemctl", "is-active", SERVICES[self.unit]) == "active"

    def let_end(self) -> None:
        self.read("touch", MAY_END, GATEWAY_MAY_END)

    def has_gone_back(self) -> bool:
        in_progress = self.json(f"{VERDICTS}/{self.unit}.in_progress.json")
        return not in_progress and self.json(f"{VERDICTS}/{self.unit}.json")["verdict"] == "reverted"


@pytest.fixture(scope="module")
def publish(provisioned: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Publish:
    """Publishes a release in which the unit of that name is bad, once, and tells its digest."""
    lab, good = provisioned.control.lab, provisioned.release
    return cache(lambda unit: publish_bad(lab, unit, of=good, folder=tmp_path_factory.mktemp(unit)))


@pytest.fixture
def upgrades(provisioned: Fleet, publish: Publish, request: pytest.FixtureRequest) -> Iterator[list[Upgrade]]:
    """An order for each unit that the test names, on the tenant that has its place."""
    made = []
    for unit in request.param:
        tenant = provisioned.tenants[UNITS.index(unit)]
        path = tenant.order.with_name(f"{tenant.id}-{unit}.yml")
        provisioned.control.order(tenant.id, release=publish(unit), secrets=tenant.secrets, output=str(path))
        made.append(Upgrade(tenant=tenant, unit=unit, order=path))
    yield made
    for upgrade in made:
        upgrade.read("rm", "-f", MAY_END, GATEWAY_MAY_END)


def assert_answers(tenant: Tenant) -> None:
    turn = tenant.agent.say("are you there?", script=[{"text": "still the same"}])
    assert "still the same" in turn.output, turn.output + tenant.journal()


def start_and_kill(control: Control, upgrades: list[Upgrade]) -> None:
    """Hand all orders in; kill the driver when each host has switched and nobody has proved anything."""
    command = control.command("provision", *(str(upgrade.order) for upgrade in upgrades))
    with subprocess.Popen(command, env=control.environment, stderr=subprocess.PIPE, text=True) as driver:
        try:
            wait_until(
                lambda: driver.poll() is not None or all(upgrade.is_switched() for upgrade in upgrades),
                what="all hosts have switched",
                within_s=DEADLINE_S,
                story=lambda: str([upgrade.in_force() for upgrade in upgrades]),
            )
            ended = driver.poll()
        finally:
            driver.kill()
        said = driver.stderr.read() if driver.stderr else ""
    assert ended is None, said
    own = f"tenantfleet-run-{driver.pid}-"
    wait_until(lambda: not processes_with(own), what="no process of the killed driver")


@pytest.mark.parametrize(
    "upgrades",
    [pytest.param(DRAWN, id="drawn_unit"), pytest.param(UNITS, id="every_unit", marks=pytest.mark.soak)],
    indirect=True,
)
def test_a_release_that_fails_its_probe_leaves_the_previous_one_running(
    provisioned: Fleet, upgrades: list[Upgrade]
) -> None:
    before = [upgrade.in_force() for upgrade in upgrades]
    start_and_kill(provisioned.control, upgrades)
    assert [upgrade.in_force()["code"] for upgrade in upgrades] != [state["code"] for state in before]
    for upgrade in upgrades:
        upgrade.let_end()
    for upgrade in upgrades:
        wait_until(
            upgrade.has_gone_back,
            what=f"{upgrade.unit} back",
            within_s=DEADLINE_S,
            story=upgrade.tenant.journal,
        )
    assert [upgrade.in_force() for upgrade in upgrades] == before, "the hosts by themselves"
    for upgrade in upgrades:
        assert_answers(upgrade.tenant)

    failed = provisioned.control.run("resume", "--json", check=False)
    assert failed.returncode == 20, failed.stdout + failed.stderr
    failures = {row["tenant_id"]: row["failure"] for row in json.loads(failed.stdout)}
    for upgrade in upgrades:
        failure = failures[upgrade.tenant.id]
        assert failure["code"] == "run.failed"
        assert f"{upgrade.unit} " in failure["cause"], failure
        assert "reverted" in failure["cause"], failure
    assert [upgrade.in_force() for upgrade in upgrades] == before, "the hosts under a driver"
    for upgrade in upgrades:
        assert_answers(upgrade.tenant)
    provisioned.control.run("verify", *(upgrade.tenant.id for upgrade in upgrades))


def test_a_first_activation_that_fails_leaves_nothing_half_started(
    spare: Spare, publish: Publish, tmp_path: Path
) -> None:
    spare.reinstall()
    spare.run(f"touch {MAY_END}")
    control = spare.control(tmp_path / "home")
    order = control.order("tenant-new", release=publish("egress_proxy"), secrets=new_payload())
    done = control.run("provision", str(order), "--json", check=False)
    assert done.returncode == 20, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)
    assert "egress_proxy" in row["failure"]["cause"], row
    assert spare.run("systemctl is-active tf-egress tf-wrapper openclaw || true").split() == ["inactive"] * 3
    assert spare.run("find /etc/systemd /etc/containers -lname '*/opt/tenantfleet/*'") == ""
    slots = spare.run("cd /opt/tenantfleet && ls -d */*").split()
    tried = [slot for slot in slots if slot.startswith("egress_proxy/")]
    assert len(tried) == 1, "only the folder that was tried may be left"
    assert {slot.partition("/")[0] for slot in slots} == {"egress_proxy", "store"}
