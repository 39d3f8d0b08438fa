"""The lab's network on this machine: one bridge, one nftables table, one subnet of each family."""

import contextlib
import json
import os
from pathlib import Path

from lab.machine import raise_settings, restore_settings, run
from lab.state import Lab, LabError, write_whole


def up(lab: Lab) -> None:
    """Bring bridge, addresses and masquerading up. May be repeated."""
    _choose_number(lab)
    if not Path("/sys/class/net", lab.bridge).exists():
        run("ip", "link", "add", lab.bridge, "type", "bridge")
    uplink, mtu = _uplink()
    batch = f"""
        addr replace {lab.gateway}/24 dev {lab.bridge}
        addr replace {lab.gateway6}/64 dev {lab.bridge} nodad
        link set {lab.bridge} mtu {mtu} up
    """
    run("ip", "-batch", "-", stdin=batch)
    run("nft", "-f", "-", stdin=_ruleset(lab))
    # By interface, not by the switch for the whole machine: what comes in here is routed, and so are answers.
    forwarding = {f"net/ipv4/conf/{name}/forwarding": 1 for name in (lab.bridge, uplink) if name}
    raise_settings({"fs/inotify/max_user_instances": 8192} | forwarding)


def down(lab: Lab) -> None:
    """Take everything back that `up` made, whatever of it is there."""
    restore_settings(lab)
    for argv in (
        ("ip", "link", "del", lab.bridge),
        ("nft", "delete", "table", "ip", lab.nft_table),
        ("nft", "delete", "table", "ip6", lab.nft_table),
    ):
        with contextlib.suppress(LabError):
            run(*argv)


def _ruleset(lab: Lab) -> str:
    # One transaction, repeatable. Hosts reach by IPv4 what this machine reaches; IPv6 ends in the lab, and
    # says so at once (this machine would drop it in silence, as it is no IPv6 router).
    inside = f"{lab.subnet6}, fe80::/10, ff00::/8"
    return f"""
        table ip {lab.nft_table} {{}}
        delete table ip {lab.nft_table}
        table ip {lab.nft_table} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat
                ip saddr {lab.subnet} ip daddr != {lab.subnet} masquerade
            }}
        }}
        table ip6 {lab.nft_table} {{}}
        delete table ip6 {lab.nft_table}
        table ip6 {lab.nft_table} {{
            chain prerouting {{
                type filter hook prerouting priority filter
                iifname "{lab.bridge}" ip6 daddr != {{ {inside} }} reject with icmpv6 no-route
            }}
        }}
    """


def _choose_number(lab: Lab) -> None:
    """Pick the lab's N, the one of last time if possible, moving on while another interface has it."""
    listing = json.loads(run("ip", "-json", "addr"))
    others = [link for link in listing if link["ifname"] != lab.bridge]
    taken = {address["local"] for link in others for address in link["addr_info"]}
    wish = int(lab.id[:2], 16)
    if lab.subnet_file.exists():
        wish = json.loads(lab.subnet_file.read_text())["number"]
    for number in ((wish + step) % 256 for step in range(256)):
        if f"10.77.{number}.1" not in taken:
            write_whole(lab.subnet_file, json.dumps({"number": number}))
            return
    raise LabError("no free subnet among 10.77.0.0/16")


def _uplink() -> tuple[str | None, int]:
    """The interface of the default route and its MTU, so that nothing is ever too large on the way out."""
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "default"))
    if not routes:
        return None, 1500
    device = str(routes[0]["dev"])
    return device, int(Path(f"/sys/class/net/{device}/mtu").read_text())


def uplink_mtu() -> int:
    return _uplink()[1]


def plug_in(lab: Lab, *, number: int, machine_namespace: int, mtu: int) -> None:
    """Give this process, alone in a new network namespace, an eth0 on the bridge.

    Args:
        lab: whose bridge.
        number: the last part of the host's addresses.
        machine_namespace: open descriptor of the namespace in which the bridge is.
        mtu: bytes.
    """
    inside = os.open("/proc/self/ns/net", os.O_RDONLY)
    port = f"tl{lab.id}-{number}"
    os.setns(machine_namespace, os.CLONE_NEWNET)
    with contextlib.suppress(LabError):
        run("ip", "link", "del", port)  # one whose host is just dying
    batch = f"""
        link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns /proc/{os.getpid()}/fd/{inside}
        link set {port} master {lab.bridge} up
    """
    run("ip", "-batch", "-", stdin=batch)
    os.setns(inside, os.CLONE_NEWNET)
    # The kernel copies this from the machine, which may be a router; a new machine is none.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    run("ip", "-batch", "-", stdin=_inside(lab, number))
    os.close(inside)


def _inside(lab: Lab, number: int) -> str:
    return f"""
        link set lo up
        addr add {lab.address(number)}/24 dev eth0
        addr add {lab.address6(number)}/64 dev eth0 nodad
        link set eth0 up
        route add default via {lab.gateway}
        route add default via {lab.gateway6}
    """
