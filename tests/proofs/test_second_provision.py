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
    tenant = provisioned.tenants[1]
    before = provisioned.control.status(tenant.id)
    done = provisioned.control.run("provision", str(tenant.order), "--json")
    (row,) = json.loads(done.stdout)
    assert row["failure"] is None, done.stdout
    assert provisioned.control.status(tenant.id) == before, "steps were done again"


def test_bringing_the_host_to_its_state_again_changes_nothing(provisioned: Fleet) -> None:
    done = provisioned.control.run("provision", "--again", str(provisioned.tenants[1].order), "--json")
    (row,) = json.loads(done.stdout)
    assert row["failure"] is None, done.stdout
    assert row["changed"] == 0, done.stdout


def test_check_mode_finds_nothing_to_do_on_a_converged_host(provisioned: Fleet) -> None:
    done = provisioned.control.run("drift", provisioned.tenants[1].id, "--json")
    (host,) = json.loads(done.stdout)["hosts"]
    assert host["changed"] == 0, done.stdout + done.stderr


def test_check_mode_names_what_drifted_and_leaves_it_as_it_is(provisioned: Fleet) -> None:
    tenant = provisioned.tenants[1]
    path = "/etc/containers/registries.conf.d/50-tenantfleet.conf"
    tenant.agent.on_host("sh", "-c", f"cp -a {path} /run/kept && echo '# by hand' >> {path}")
    done = provisioned.control.run("drift", tenant.id, "--json", check=False)
    still = tenant.agent.on_host("tail", "-n1", path).stdout
    tenant.agent.on_host("cp", "-a", "/run/kept", path)
    (host,) = json.loads(done.stdout)["hosts"]
    assert (done.returncode, host["changed"]) == (20, 1), done.stdout + done.stderr
    assert "container_host : configure | Deliver the engine's configuration" in done.stderr
    assert still == "# by hand\n"
