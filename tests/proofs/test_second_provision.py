"""Proof 5: a second provision changes nothing and says so; check mode is exact where nothing is to do."""

import json

import pytest

from tests.proofs.tenants import Fleet

pytestmark = pytest.mark.lab


def test_the_first_provision_proved_each_tenant(provisioned: Fleet) -> None:
    answer = json.loads(provisioned.provisioned)
    assert len(answer) == len(provisioned.tenants)
    assert all(row["failure"] is None for row in answer), provisioned.provisioned


def test_the_same_order_again_touches_nothing(provisioned: Fleet) -> None:
    done = provisioned.control.run("provision", str(provisioned.tenants[1].order), "--json")
    (row,) = json.loads(done.stdout)
    assert row["failure"] is None, done.stdout


def test_bringing_the_host_to_its_state_again_changes_nothing(provisioned: Fleet) -> None:
    done = provisioned.control.run("provision", "--again", str(provisioned.tenants[1].order), "--json")
    (row,) = json.loads(done.stdout)
    assert row["failure"] is None, done.stdout
    assert row["changed"] == 0, done.stdout
