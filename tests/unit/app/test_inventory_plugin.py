"""The inventory as plain Ansible sees it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantfleet.app.steps import make_plan

if TYPE_CHECKING:
    from tests.unit.app.conftest import Fleet

REPOSITORY = Path(__file__).parents[3]


def inventory(fleet: Fleet, source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / ".venv/bin/ansible-inventory", "-i", source, "--list"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(fleet.home),
            "TENANTFLEET_HOME": str(fleet.home),
            "ANSIBLE_INVENTORY_PLUGINS": str(REPOSITORY / "inventories/plugins"),
            "ANSIBLE_INVENTORY_ENABLED": "tenantfleet",
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        },
    )


def plain(value: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Ansible marks text from a plugin as not to be templated; here only the text counts."""
    return value.get("__ansible_unsafe", value)


@pytest.fixture
def source(fleet: Fleet) -> Path:
    path = fleet.home.parent / "fleet.tenantfleet.yml"
    path.write_text("plugin: tenantfleet\nenvironment: dev\nprovider: static\nmachines: machines.yml\n")
    return path


def test_claimed_machines_have_their_tenants_facts_and_free_ones_none(fleet: Fleet, source: Path) -> None:
    order, now = fleet.order(), datetime.now(UTC)
    (record,) = fleet.environment.order_ledger.submit(order, again=False, now=now)
    fleet.environment.order_ledger.record_plan(make_plan(fleet.environment, order))
    fleet.environment.machine_ledger.claim(
        tenant_id="acme", order_id=record.order_id, region="eu-lab", candidates=["lab-a1"], now=now
    )
    listed = inventory(fleet, source)
    assert listed.returncode == 0, listed.stderr
    found: dict[str, Any] = json.loads(listed.stdout, object_hook=plain)
    groups = {name: group.get("hosts") for name, group in found.items() if name != "_meta"}
    assert groups["tenants"] == groups["class_sandbox"] == ["lab-a1"]
    assert groups["unclaimed"] == ["lab-b1"]
    assert groups["region_eu_lab"] == ["lab-a1", "lab-b1"]
    acme, free = (found["_meta"]["hostvars"][name] for name in ("lab-a1", "lab-b1"))
    assert acme["tenant"]["tenant_id"] == "acme"
    assert "tenant" not in free
    assert {"ansible_user", "run_number"}.isdisjoint(acme), "the play names the account; nobody took a number"
    assert "StrictHostKeyChecking=yes" in acme["ansible_ssh_common_args"]


def test_an_unreadable_list_of_machines_is_an_error_in_words(fleet: Fleet, source: Path) -> None:
    (source.parent / "machines.yml").write_text("version: 1\nmachines: [{id: x}]\n")
    listed = inventory(fleet, source)
    assert listed.returncode != 0
    assert "the machines was refused" in listed.stderr
