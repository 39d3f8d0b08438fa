"""Rows of the egress table (roles/baseline, docs/adr/0002) in nftables' own words."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# nftables' keyword for each version of IP, in the order in which rules are written
_VERSIONS = {"ip": 4, "ip6": 6}
_LOOPBACK = {"ip": "127.0.0.1", "ip6": "::1"}
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_QUOTES = frozenset('"\\\n')

type Row = Mapping[str, Any]


def with_uids(rows: Iterable[Row], uids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows with the uid of their account; a row of an account that the host does not have is left out."""
    found = ({**row, "uid": row["uid"] if "uid" in row else uids.get(row["user"])} for row in rows)
    return [row for row in found if row["uid"] is not None]


def of_family(addresses: Iterable[str], family: str) -> list[str]:
    """The addresses and networks of one family, `ip` or `ip6`.

    Raises:
        ValueError: one is no address or network (CIDR); nothing else may get into the kernel's table.
    """
    version = _VERSIONS[family]
    return [
        written for written in addresses if ipaddress.ip_network(written, strict=False).version == version
    ]


def output_rules(row: Row) -> list[str]:
    """The rules that let a row's account out, one for each family that it has addresses of.

    Raises:
        ValueError: a field that nftables could read as something else than meant.
    """
    return [f"meta skuid {int(row['uid'])} {_device(row)}{place} {_tail(row)}" for _, place in _places(row)]


def forward_rules(row: Row) -> list[str]:
    """The rules that let a row's sources through this host to its addresses.

    Raises:
        ValueError: as of `output_rules`.
    """
    return [
        f"{family} saddr {_set_of(sources)} {place} {_tail(row)}"
        for family, place in _places(row)
        if (sources := of_family(row["sources"], family))
    ]


def _places(row: Row) -> Iterator[tuple[str, str]]:
    addresses = row["addresses"]
    for family in _VERSIONS:
        if addresses == "loopback":
            yield family, f'oifname "lo" {family} daddr {_LOOPBACK[family]}'
        elif addresses == "any-public":
            yield family, f"{family} daddr != @not_public_{family}"
        elif isinstance(addresses, str):
            raise ValueError(f"{addresses!r} is neither loopback, any-public nor a list of addresses")
        elif chosen := of_family(addresses, family):
            yield family, f"{family} daddr {_set_of(chosen)}"


def _device(row: Row) -> str:
    interface = row.get("interface")
    if interface is None:
        return ""
    if _INTERFACE.fullmatch(interface) is None:
        raise ValueError(f"{interface!r} is no name of an interface")
    return f'oifname "{interface}" '


def _tail(row: Row) -> str:
    name, protocols = str(row["name"]), list(row["protocols"])
    if _QUOTES & set(name):
        raise ValueError(f"the name {name!r} would end its quotation")
    if not protocols or not set(protocols) <= {"tcp", "udp"}:
        raise ValueError(f"{name}: protocols are tcp and udp, not {protocols}")
    ports = [int(port) for port in row["ports"]]
    return (
        f"meta l4proto {_set_of(protocols)} th dport {_set_of(map(str, ports))}"
        f' counter accept comment "{name}"'
    )


def _set_of(members: Iterable[str]) -> str:
    listed: Sequence[str] = list(members)
    if not listed:
        raise ValueError("an empty set lets nobody out and is refused by nftables")
    return f"{{ {', '.join(listed)} }}"
