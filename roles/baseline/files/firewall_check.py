#!/usr/bin/python3 -IB
"""Say whether the kernel's table is the one that the firewall's file makes.

    firewall-check          compare; only root may (tf-firewall-check.socket does it for whoever connects)
    firewall-check --ask    ask over that socket, as tf-ops may

Prints JSON: `altered`, the names of what differs. Exit: 0 nothing, 1 something, or no answer.
"""

import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SOURCE = Path("/etc/tenantfleet/nftables.d/tenantfleet.nft")
SOCKET = "/run/tf-firewall-check.sock"
LIST = "/usr/sbin/nft --json --stateless list table inet tenantfleet"
# A network namespace is born empty: what stands in it afterwards is the file's doing alone.
MAKE_AND_LIST = ("/usr/bin/unshare", "--net", "/bin/sh", "-c", f"/usr/sbin/nft -f - && exec {LIST}")
ANSWER_WITHIN_S = 20


def listing(*argv: str, stdin: str = "") -> list[dict[str, Any]]:
    """What nft lists, in order; nothing when there is no such table."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        return []
    listed: list[dict[str, Any]] = json.loads(done.stdout, object_hook=lasting)["nftables"]
    return listed


def lasting(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs from load to load: handles, and callers that a set remembers for a while."""
    passing = {"handle", "elem"} if "timeout" in item else {"handle"}
    return {key: value for key, value in item.items() if key not in passing}


def altered(now: list[dict[str, Any]], made: list[dict[str, Any]]) -> list[str]:
    """Names of what only one of two listings holds; pure."""
    texts = [Counter(json.dumps(item, sort_keys=True) for item in items) for items in (now, made)]
    odd = [json.loads(text) for text in (texts[0] - texts[1]) + (texts[1] - texts[0])]
    names = sorted({name_of(item) for item in odd})
    return names or (["the order of the rules"] if now != made else [])


def name_of(item: dict[str, Any]) -> str:
    """Words for a listed item such as `rule output: egress refused`."""
    ((kind, content),) = item.items()
    return (
        f"{kind} {content['chain']}: {content.get('comment', 'no name')}"
        if kind == "rule"
        else f"{kind} {content.get('name')}"
    )


def compare() -> str:
    made = listing(*MAKE_AND_LIST, stdin=SOURCE.read_text())
    return json.dumps(
        {"altered": altered(listing(*LIST.split()), made) if made else [f"{SOURCE} does not load"]}
    )


def ask() -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(SOCKET)
        return connection.makefile().readline()


def main() -> int:
    answer = ask() if sys.argv[1:] == ["--ask"] else compare()
    sys.stdout.write(f"{answer.strip()}\n")
    return int(json.loads(answer)["altered"] != [])


if __name__ == "__main__":
    sys.exit(main())
