#!/usr/bin/python3
"""Read what `baseline` must know of a host, in one round trip; changes nothing.

Arguments:
    accounts: names whose uid (or null) is wanted.
    packages: Debian packages that ought to be installed.
    admin_networks: networks (CIDR) that the new rules admit to SSH.
    ports: TCP ports of the platform, each {port, user}: the account that may listen there.

Result: `os` {id, version_id}; `uids` {name: uid or null}; `groups` {name: [group]}; `missing_packages`;
`peer` (address at the other end of this SSH connection, or null) and `peer_admitted` (null without a peer);
`free_mib` {folder: MiB left, of / and of /var/lib}; `ports_taken` [text], a listener of another account each;
`host_certificate`; `guard_armed`; `run_number` (of the run that has the host, or null);
`sshd` (effective settings, keys in lower case);
`firewall` (comments of the live table's rules in order, or null when there is no table).
"""

# Lets Ansible send this file as it is, without its wrapper: <<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>

from __future__ import annotations

import grp
import ipaddress
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

TABLE = ("inet", "tenantfleet")
HOST_CERTIFICATE = Path("/etc/ssh/ssh_host_ed25519_key-cert.pub")
RUN_NUMBER = Path("/var/lib/tenantfleet/run/number")
GUARD = Path("/var/lib/tenantfleet/lockout/armed.json")
ROOMS = ("/", "/var/lib")
TCP_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
TCP_LISTEN = "0A"
SBIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def output_of(*argv: str) -> str | None:
    """Return the standard output of a command, or None when it is missing or failed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=SBIN, timeout=30)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def groups_of(name: str) -> list[str]:
    try:
        primary = pwd.getpwnam(name).pw_gid
    except KeyError:
        return []
    return sorted(grp.getgrgid(gid).gr_name for gid in os.getgrouplist(name, primary))


def missing_packages(wanted: list[str]) -> list[str]:
    """Return those of `wanted` that dpkg does not hold as fully installed."""
    listing = subprocess.run(  # exits 1 when a name is unknown, and lists the others
        ["/usr/bin/dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
        env=SBIN,
    ).stdout
    installed = {line[3:] for line in listing.splitlines() if line.startswith("ii ")}
    return [name for name in wanted if name not in installed]


def ssh_peer() -> str | None:
    """Return the client's address of the SSH session above us: sudo has cleaned our own environment."""
    pid = os.getpid()
    while pid > 1:
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"SSH_CONNECTION="):
                return entry.partition(b"=")[2].split()[0].decode()
        # the command's name may hold blanks and brackets: fields are counted from the last bracket
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def is_admitted(peer: str | None, networks: list[str]) -> bool | None:
    if peer is None:
        return None
    address = ipaddress.ip_address(peer.partition("%")[0])
    return any(address in ipaddress.ip_network(network) for network in networks)


def free_mib() -> dict[str, int]:
    """Return the room of each folder that a tenant grows in; often they are one file system."""
    return {folder: shutil.disk_usage(folder).free >> 20 for folder in ROOMS}


def listeners(table: str) -> set[tuple[int, int]]:
    """Return port and uid of each TCP listener, whatever its address, from one of /proc/net's tables."""
    rows = [row.split() for row in table.splitlines()[1:]]
    return {(int(row[1].rpartition(":")[2], 16), int(row[7])) for row in rows if row[3] == TCP_LISTEN}


def ports_taken(ports: list[dict[str, Any]]) -> list[str]:
    """Return a text for each listener on a port that belongs to another account."""
    tables = [path.read_text() for path in TCP_TABLES if path.exists()]  # without IPv6 there is one
    found = set().union(*map(listeners, tables))
    owners = {place["port"]: uid_of(place["user"]) for place in ports}
    taken = sorted((port, uid) for port, uid in found if port in owners and owners[port] != uid)
    return [f"{port} (uid {uid})" for port, uid in taken]


def sshd_settings() -> dict[str, str]:
    """Return what the configuration on disk means to sshd; empty when it refuses the file."""
    text = output_of("sshd", "-T", "-C", "user=tf-deploy,host=localhost,addr=127.0.0.1") or ""
    return {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}


def firewall_comments() -> list[str] | None:
    text = output_of("nft", "-j", "list", "table", *TABLE)
    if text is None:
        return None
    rules = (item["rule"] for item in json.loads(text)["nftables"] if "rule" in item)
    return [rule["comment"] for rule in rules if "comment" in rule]


def run_number() -> int | None:
    """Return the number of the run that has the host; null while one takes it over, or without a record."""
    try:
        found = re.fullmatch(r"([1-9][0-9]{0,14}) acquired\n?", RUN_NUMBER.read_text())
    except (OSError, UnicodeDecodeError):
        return None
    return int(found[1]) if found else None


def survey(arguments: dict[str, Any]) -> dict[str, Any]:
    release = platform.freedesktop_os_release()
    peer = ssh_peer()
    accounts: list[str] = arguments.get("accounts", [])
    return {
        "changed": False,
        "os": {"id": release.get("ID", ""), "version_id": release.get("VERSION_ID", "")},
        "uids": {name: uid_of(name) for name in accounts},
        "groups": {name: groups_of(name) for name in accounts},
        "missing_packages": missing_packages(arguments.get("packages", [])),
        "peer": peer,
        "peer_admitted": is_admitted(peer, arguments.get("admin_networks", [])),
        "free_mib": free_mib(),
        "ports_taken": ports_taken(arguments.get("ports", [])),
        "host_certificate": HOST_CERTIFICATE.exists(),
        "guard_armed": GUARD.exists(),
        "run_number": run_number(),
        "sshd": sshd_settings(),
        "firewall": firewall_comments(),
    }


def main() -> None:
    arguments = json.loads("<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>")
    json.dump(survey(arguments), sys.stdout)


if __name__ == "__main__":
    main()
