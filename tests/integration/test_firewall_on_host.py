"""A table that a hand altered is named to whoever may only read, and put back by the next run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab_hosts import cut_the_power

if TYPE_CHECKING:
    from tests.integration.baselined_host import BaselinedHost

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

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


@pytest.fixture
def host(enrolled: BaselinedHost) -> BaselinedHost:
    return enrolled


def altered(host: BaselinedHost) -> list[str]:
    done = host.ssh("/usr/local/lib/tenantfleet/firewall-check --ask", user="tf-ops")
    assert done.stdout, done.stderr
    names: list[str] = json.loads(done.stdout)["altered"]
    assert done.returncode == bool(names)
    return names


@pytest.mark.drawn("altered by hand")
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
    cut_the_power(host.name)
    assert altered(host) == []
