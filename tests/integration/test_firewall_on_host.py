"""A table that a hand altered is named to whoever may only read, and put back by the next run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.baselined_host import BaselinedHost
from tests.lab_hosts import cut_the_power, fresh_host, lab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NAME = "firewall"
TABLE = "inet tenantfleet"
OLD_LISTING = f"nft -s list table {TABLE} | sed '1i delete table {TABLE}'"
ALTERATIONS = {
    f"nft insert rule {TABLE} agent counter accept": "rule agent: no name",
    f"nft add element {TABLE} admin_ip '{{ 192.0.2.9 }}'": "set admin_ip",
    f"{OLD_LISTING} | sed 's/policy drop/policy accept/' | nft -f -": "chain output",
    f"{OLD_LISTING} | sed 's/rate over 240/rate over 9999/' | nft -f -": "rule ssh: ssh too often",
    f"{OLD_LISTING} | sed 's/skuid 2102/skuid 2101/' | nft -f -": "rule output: tf-egress to providers",
    f"nft delete table {TABLE}": "rule agent: agent refused",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaselinedHost]:
    fresh_host(NAME)
    info = json.loads(lab("info", "--json"))
    gateways = [info["gateway"], info["gateway6"]]
    host = BaselinedHost(name=NAME, directory=tmp_path_factory.mktemp(NAME))
    host.variables.update(
        baseline_ssh_user_ca=[host.make_authority()],
        baseline_admin_networks=[info["subnet"], info["subnet6"]],
        baseline_destinations={"resolvers": {"addresses": gateways, "ports": [53]}},
    )
    host.certify()
    first = host.converge(user="debian")
    assert first.returncode == 0, first.output
    yield host
    lab("down", NAME)


def altered(host: BaselinedHost) -> list[str]:
    done = host.ssh("/usr/local/lib/tenantfleet/firewall-check --ask", user="tf-ops")
    assert done.stdout, done.stderr
    names: list[str] = json.loads(done.stdout)["altered"]
    assert done.returncode == bool(names)
    return names


@pytest.mark.parametrize("command", ALTERATIONS)
def test_a_table_altered_by_hand_is_named_and_put_back(host: BaselinedHost, command: str) -> None:
    assert altered(host) == []
    done = host.ssh(f"sudo -n sh -c {command!r}")
    assert done.returncode == 0, done.stderr
    assert ALTERATIONS[command] in altered(host)
    check = host.converge(check=True)
    assert check.returncode == 0, check.output
    assert check.count("changed") == 1, check.output
    run = host.converge()
    assert run.returncode == 0, run.output
    assert altered(host) == []
    assert host.converge().count("changed") == 0


def test_after_a_reboot_nothing_is_altered(host: BaselinedHost) -> None:
    cut_the_power(NAME)
    assert altered(host) == []
