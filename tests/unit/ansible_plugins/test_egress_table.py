from __future__ import annotations

from typing import Any

import pytest

from tenantfleet.ansible_plugins.egress_table import forward_rules, of_family, output_rules, with_uids

ROW: dict[str, Any] = {
    "name": "a to b",
    "uid": 2103,
    "protocols": ["tcp"],
    "ports": [443],
    "addresses": ["192.0.2.1", "2001:db8::1", "198.51.100.0/24"],
}


def test_a_row_becomes_one_rule_for_each_family_that_it_has_addresses_of() -> None:
    tail = 'meta l4proto { tcp } th dport { 443 } counter accept comment "a to b"'
    assert output_rules(ROW) == [
        f"meta skuid 2103 ip daddr {{ 192.0.2.1, 198.51.100.0/24 }} {tail}",
        f"meta skuid 2103 ip6 daddr {{ 2001:db8::1 }} {tail}",
    ]
    assert [rule.split(" meta l4")[0] for rule in output_rules({**ROW, "addresses": ["::1"]})] == [
        "meta skuid 2103 ip6 daddr { ::1 }"
    ]


def test_loopback_is_bound_to_its_device_and_public_leaves_the_private_ranges_out() -> None:
    assert [rule.split(" meta l4")[0] for rule in output_rules({**ROW, "addresses": "loopback"})] == [
        'meta skuid 2103 oifname "lo" ip daddr 127.0.0.1',
        'meta skuid 2103 oifname "lo" ip6 daddr ::1',
    ]
    assert all("daddr != @not_public_" in rule for rule in output_rules({**ROW, "addresses": "any-public"}))


def test_a_row_may_be_bound_to_one_interface() -> None:
    bound = output_rules({**ROW, "interface": "tf-1", "addresses": ["10.210.1.2"]})
    assert [rule.split(" meta l4")[0] for rule in bound] == [
        'meta skuid 2103 oifname "tf-1" ip daddr { 10.210.1.2 }'
    ]
    with pytest.raises(ValueError, match="no name of an interface"):
        output_rules({**ROW, "interface": 'x" accept'})


def test_a_forward_needs_a_source_of_the_same_family() -> None:
    row = {**ROW, "sources": ["10.89.0.0/24"]}
    assert [rule.split(" meta l4")[0] for rule in forward_rules(row)] == [
        "ip saddr { 10.89.0.0/24 } ip daddr { 192.0.2.1, 198.51.100.0/24 }"
    ]


def test_an_account_that_the_host_does_not_have_leaves_its_rows_out() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "one", "user": "here"},
        {"name": "two", "user": "gone"},
        {"name": "three", "uid": 0},
    ]
    assert [(row["name"], row["uid"]) for row in with_uids(rows, {"here": 7})] == [("one", 7), ("three", 0)]


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ["0.0.0.0/0 } accept; ip daddr { 192.0.2.1"]},
        {"addresses": ["mirror.example"]},
        {"addresses": "everywhere"},
        {"name": 'a" accept comment "b'},
        {"protocols": ["tcp } accept #"]},
        {"protocols": []},
        {"ports": ["443 } accept #"]},
        {"ports": []},
        {"uid": "0-65535"},
    ],
    ids=str,
)
def test_nothing_but_what_a_field_may_hold_gets_into_the_kernels_table(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        output_rules({**ROW, **change})


def test_a_network_with_host_bits_is_the_network_that_it_lies_in() -> None:
    assert of_family(["192.0.2.9/24", "::1"], "ip") == ["192.0.2.9/24"]
