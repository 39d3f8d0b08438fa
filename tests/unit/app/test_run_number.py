"""What an operator hears when a host belongs to a newer run; and that other hosts of the same run go on."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantfleet.app.progress import Silence
from tenantfleet.app.provision import Driver
from tenantfleet.app.verify import detect_drift, verify_tenants
from tenantfleet.model.errors import InputRefusedError

ROOT = Path(__file__).parents[3]

if TYPE_CHECKING:
    from tests.unit.app.conftest import Fleet

pytestmark = pytest.mark.driver


def test_an_order_whose_host_belongs_to_a_newer_run_ends_with_the_hosts_words(fleet: Fleet) -> None:
    fleet.open_gate()
    (fleet.hosts["lab-a1"].state / "number").write_text("900 acquired\n")
    order = fleet.write(fleet.order())
    done = fleet.tenantfleet("provision", order, "--json")
    failure = json.loads(done.stdout)[0]["failure"]
    assert (done.returncode, failure["code"]) == (23, "host.fenced")
    assert "which has this host: let that one finish" in failure["cause"]
    assert "docs/operations/run-number.md" in failure["hint"]
    assert not fleet.log.exists(), "no task ran"

    fleet.environment.order_ledger.count_on(900, now=datetime.now(UTC))
    assert fleet.tenantfleet("provision", order).returncode == 0
    assert fleet.hosts["lab-a1"].record() == "901 acquired\n"


def test_a_run_that_fails_because_a_newer_one_took_its_host_says_so(fleet: Fleet) -> None:
    taken = fleet.hosts["lab-a1"].state / "number"
    newer = f"{{content: '900 acquired', dest: {taken}}}"
    playbook = fleet.project / "playbooks/tenant_provision.yml"
    playbook.write_text(
        playbook.read_text()
        + f"    - {{name: Let a newer run in, ansible.builtin.copy: {newer}}}\n"
        + "    - {name: Meet the gate, ansible.builtin.fail: {msg: MODULE FAILURE}}\n"
    )
    fleet.open_gate()
    driver = Driver(environment=fleet.environment, project=fleet.project, progress=Silence())
    failure = driver.submit([fleet.order()])[0]["failure"]
    assert failure["exit_code"] == 23
    assert "which has this host" in failure["cause"]
    assert "noticed at: Meet the gate" in failure["cause"]


def test_a_host_that_refuses_keeps_no_other_from_its_run_and_reading_asks_nobody(fleet: Fleet) -> None:
    fleet.open_gate()
    driver = Driver(environment=fleet.environment, project=fleet.project, progress=Silence())
    driver.submit([fleet.order("acme"), fleet.order("bravo")])
    machine = fleet.environment.machine_ledger.of_tenant("acme")
    assert machine is not None
    (fleet.hosts[machine.machine_id].state / "number").write_text("scratched")
    looked = detect_drift(fleet.environment, [], project=fleet.project, progress=Silence())
    assert sorted(host.state for host in looked.hosts) == ["fenced", "ok"]
    refused = looked.host(machine.machine_id)
    assert "run number is missing or unreadable: as root on its console" in refused.reason
    assert verify_tenants(fleet.environment, [], project=fleet.project, progress=Silence()).ok


def test_a_restored_ledger_counts_on_above_its_hosts_and_never_down(fleet: Fleet) -> None:
    ledger = fleet.environment.order_ledger
    ledger.count_on(42, now=datetime.now(UTC))
    with pytest.raises(InputRefusedError) as caught:
        ledger.count_on(41, now=datetime.now(UTC))
    assert caught.value.code == "run_number.counted"


@pytest.mark.parametrize(
    ("playbook", "command"),
    [
        ("tenant_provision.yml", "tenantfleet provision ORDER.yml"),
        ("tenant_decommission.yml", "tenantfleet decommission TENANT"),
        ("legacy_cleanup.yml", "tenantfleet legacy-cleanup MACHINE"),
    ],
)
def test_plain_ansible_that_would_change_a_host_is_told_the_command_before_it_connects(
    tmp_path: Path, playbook: str, command: str
) -> None:
    variables = {"ansible_host": "192.0.2.1", "machine_user": "debian", "machine_enrolled": True}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"tenants": {"hosts": {"acme": variables}}}))
    argv = [
        str(ROOT / ".venv/bin/ansible-playbook"),
        "-i",
        str(inventory),
        str(ROOT / "playbooks" / playbook),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "this playbook changes hosts" in done.stdout
    assert f"`{command}" in done.stdout
    assert "ok=0    changed=0    unreachable=0    failed=1" in done.stdout
