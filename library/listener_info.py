"""Ansible module `listener_info`: which sockets of this host listen, and whether each one is expected."""

import ipaddress
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

TCP_LISTEN = "0A"
UDP_UNCONNECTED = "07"
WORD = 4  # /proc writes an address as 32-bit words in the machine's own byte order


def address_of(hexadecimal: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """`0100007F` → 127.0.0.1 on a little-endian machine; an IPv4 address mapped into IPv6 is that address."""
    raw = bytes.fromhex(hexadecimal)
    words = [raw[at : at + WORD] for at in range(0, len(raw), WORD)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(packed) == WORD:
        return ipaddress.IPv4Address(packed)
    six = ipaddress.IPv6Address(packed)
    return six.ipv4_mapped or six


def user_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def listeners_in(table: str, proto: str) -> list[dict[str, Any]]:
    """Listening sockets of one table of /proc/net, such as tcp6."""
    waiting = TCP_LISTEN if proto == "tcp" else UDP_UNCONNECTED
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        local, state, uid = fields[1], fields[3], int(fields[7])
        if state != waiting:
            continue
        address, _, port = local.partition(":")
        ip = address_of(address)
        about = {"proto": proto, "address": str(ip), "port": int(port, 16), "loopback": ip.is_loopback}
        found.append({**about, "uid": uid, "user": user_of(uid)})
    return found


def is_expected(listener: dict[str, Any], expected: Iterable[dict[str, Any]]) -> bool:
    """A loopback listener always is; `address` None stands for any address."""
    return listener["loopback"] or any(
        (entry["proto"], entry["port"]) == (listener["proto"], listener["port"])
        and entry["address"] in {None, listener["address"]}
        for entry in expected
    )


def all_listeners() -> list[dict[str, Any]]:
    tables = [Path(f"/proc/net/{proto}{family}") for proto in ("tcp", "udp") for family in ("", "6")]
    found = [one for table in tables for one in listeners_in(read_table(table), table.name.removesuffix("6"))]
    return sorted(found, key=lambda listener: (listener["proto"], listener["port"], listener["address"]))


def read_table(table: Path) -> str:
    """The tables of IPv6 are absent where the kernel has it switched off."""
    return table.read_text() if table.exists() or not table.name.endswith("6") else ""


def main() -> None:
    entry = {
        "proto": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
        "port": {"type": "int", "required": True},
        "address": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={"expected": {"type": "list", "elements": "dict", "options": entry}},
        supports_check_mode=True,
    )
    listeners = all_listeners()
    expected = module.params["expected"]
    unexpected = [] if expected is None else [one for one in listeners if not is_expected(one, expected)]
    if unexpected:
        names = ", ".join(
            f"{one['proto']} {one['address']}:{one['port']} ({one['user']})" for one in unexpected
        )
        module.fail_json(msg=f"unexpected listeners: {names}", listeners=listeners, unexpected=unexpected)
    module.exit_json(changed=False, listeners=listeners, unexpected=[])


if __name__ == "__main__":
    main()
