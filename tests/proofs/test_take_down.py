"""A tenant is taken off its machine: nothing of it runs, no secret and no state is left, the baseline stays.

The last file of the proofs, for its tenant is gone afterwards.
"""

import pytest

from tests.proofs.tenants import Fleet

pytestmark = pytest.mark.lab


def test_a_decommissioned_tenant_leaves_nothing_that_runs_and_no_secret(provisioned: Fleet) -> None:
    tenant = provisioned.tenants[1]
    provisioned.control.run("decommission", tenant.id, "--yes")
    look = tenant.agent.on_host
    units = look("systemctl", "list-units", "--no-legend", "--plain", "tf-*", "openclaw*").stdout
    left = {line.split()[0] for line in units.splitlines()}
    assert left == {"tf-firewall.service", "tf-firewall-check.socket"}, "the baseline's"
    assert look("podman", "ps", "--quiet").stdout == ""
    for path in ("/var/lib/tenantfleet/vault", "/var/lib/openclaw", "/opt/tenantfleet/openclaw"):
        assert look("test", "-e", path).returncode == 1, f"{path} is still there"
    listed = provisioned.control.run("inventory", "list", "--json").stdout
    assert tenant.id not in listed, "the ledger still gives it a machine"
