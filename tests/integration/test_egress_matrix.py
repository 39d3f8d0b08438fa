"""Who may speak to whom: every account times every destination, exactly as the published table says."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import threading
from collections import Counter
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.integration.baselined_host import BaselinedHost
from tests.lab_hosts import fresh_host, lab
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NAME = "egress-matrix"
PROBE = Path(__file__).with_name("egress_probe.py").read_text()
CONTRACT = ["openclaw", "tf-egress", "tf-wrapper", "tf-link", "tf-deploy", "tf-ops"]
ACCOUNTS = [*CONTRACT, "root", "_apt", "systemd-timesync", "nobody", "debian"]
CONTROL_PLANE, NOBODYS = 19443, 19444  # ports that this test opens on the gateway
POLICY_PORT, OTHER_STACK = 18900, 18901
METADATA = ["169.254.169.254", "169.254.0.1", "fd00:ec2::254", "fe80::a9fe:a9fe%eth0"]


class Destination(NamedTuple):
    protocol: str
    address: str
    port: int


class Converged(NamedTuple):
    host: BaselinedHost
    rows: list[dict[str, Any]]
    gateways: tuple[str, str]
    own: tuple[str, str]


def answer(listener: socket.socket) -> None:
    """Answer each datagram until the socket is closed, so that silence means a refusal."""
    with contextlib.suppress(OSError):
        while True:
            question, sender = listener.recvfrom(512)
            listener.sendto(question, sender)


@contextlib.contextmanager
def open_ports(addresses: tuple[str, ...]) -> Iterator[None]:
    """Listen on the gateway: without the firewall, everything below would get through."""
    with contextlib.ExitStack() as held:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for port in (CONTROL_PLANE, NOBODYS):
                held.enter_context(socket.create_server((address, port), family=family, backlog=512))
            datagram = held.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            datagram.bind((address, NOBODYS))
            threading.Thread(target=answer, args=(datagram,), daemon=True).start()
        yield


def destinations(gateways: tuple[str, str], own: tuple[str, str]) -> list[Destination]:
    outside = [("tcp", port) for port in (53, 3142, 5000, 8443, 9443, CONTROL_PLANE, NOBODYS)]
    outside += [("udp", 53), ("udp", 123), ("udp", NOBODYS), ("icmp", 0)]
    inside = [("tcp", port) for port in (18080, 18789, POLICY_PORT, OTHER_STACK, 19999)] + [("icmp", 0)]
    return [
        *(Destination(protocol, address, port) for address in gateways for protocol, port in outside),
        *(
            Destination(protocol, address, port)
            for address in ("127.0.0.1", "::1")
            for protocol, port in inside
        ),
        *(Destination("tcp", address, 18080) for address in own),
        *(
            Destination(protocol, address, port)
            for address in METADATA
            for protocol, port in (("tcp", 80), ("udp", 53))
        ),
    ]


def is_allowed(account: str, to: Destination, rows: list[dict[str, Any]], own: tuple[str, str]) -> bool:
    """The published table in words of its own: an independent reading of the rows."""
    if to.address in METADATA:
        return False
    mine = [row for row in rows if row["user"] == account]
    mine = [row for row in mine if to.protocol in row["protocols"] and to.port in row["ports"]]
    if account == "openclaw":
        return to.address in ("127.0.0.1", "::1") and any(row["addresses"] == "loopback" for row in mine)
    if to.address in own or ip_address(to.address).is_loopback:
        return True
    networks = (network for row in mine for network in row["addresses"])
    return any(ip_address(to.address) in ip_network(network) for network in networks)


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converged]:
    fresh_host(NAME)
    info = json.loads(lab("info", "--json"))
    machine = lab("up", NAME).split()  # NAME IPV4 IPV6
    gateways = (str(info["gateway"]), str(info["gateway6"]))
    both = list(gateways)
    host = BaselinedHost(name=NAME, directory=tmp_path_factory.mktemp("baseline"))
    host.variables.update(
        baseline_ssh_user_ca=[host.make_authority()],
        baseline_admin_networks=[info["subnet"], info["subnet6"]],
        baseline_ntp_servers=[info["ntp"]],
        baseline_destinations={
            "mirrors": {"addresses": both, "ports": [3142]},
            "resolvers": {"addresses": both, "ports": [53]},
            "time": {"addresses": both, "ports": [123]},
            "release": {"addresses": both, "ports": [5000, 8443]},
            "providers": {"addresses": both, "ports": [9443]},
            "control_plane": {"addresses": both, "ports": [CONTROL_PLANE]},
        },
        baseline_egress=[
            {
                "name": "openclaw to crm",
                "user": "openclaw",
                "protocols": ["tcp"],
                "ports": [POLICY_PORT],
                "addresses": "loopback",
            }
        ],
    )
    host.certify()
    run = host.converge(user="debian")
    assert run.returncode == 0, run.output
    rows = json.loads((host.directory / "rows.json").read_text())["rows"]
    yield Converged(host=host, rows=rows, gateways=gateways, own=(machine[1], machine[2]))
    lab("down", NAME)


def test_every_account_reaches_exactly_what_the_table_says(converged: Converged) -> None:
    tried = destinations(converged.gateways, converged.own)
    task = {
        "accounts": ACCOUNTS,
        "destinations": tried,
        "listen": [["tcp", port] for port in (18080, 18789, POLICY_PORT, OTHER_STACK, 19999)],
    }
    with open_ports(converged.gateways):
        found = converged.host.python(PROBE, shlex.quote(json.dumps(task)))
    wrong = [
        f"{account} → {to.protocol} {to.address} {to.port}: {verdict}"
        for account in ACCOUNTS
        for to, verdict in zip(tried, found[account], strict=True)
        if (verdict == "out") != is_allowed(account, to, converged.rows, converged.own)
        # the kernel answers at once, so that no program waits; only to a link-local address can it not answer
        or (verdict == "refused: silence" and not to.address.startswith("fe80:"))
    ]
    assert not wrong, f"{len(wrong)} of {len(ACCOUNTS) * len(tried)} cells differ:\n" + "\n".join(wrong)


def test_every_row_of_the_table_admits_somebody(converged: Converged) -> None:
    """Guards the test above: a table in which nothing is allowed would agree with itself, too."""
    tried = destinations(converged.gateways, converged.own)
    allowed = {
        account: sum(is_allowed(account, to, converged.rows, converged.own) for to in tried)
        for account in ACCOUNTS
    }
    assert allowed["openclaw"] == 6  # proxy, itself and one stack, on both loopbacks
    assert allowed["tf-egress"] > allowed["nobody"] > allowed["openclaw"]
    assert all(allowed[row["user"]] for row in converged.rows if row["user"] in ACCOUNTS)


def test_refusals_are_counted_and_rows_too(converged: Converged) -> None:
    def counters() -> Counter[str]:
        done = converged.host.ssh("sudo -n nft -j list table inet tenantfleet")
        assert done.returncode == 0, done.stderr
        rules = [item["rule"] for item in json.loads(done.stdout)["nftables"] if "rule" in item]
        found: Counter[str] = Counter()  # a row is a rule for each family
        for rule in rules:
            for part in rule["expr"]:
                if "counter" in part and "comment" in rule:
                    found[rule["comment"]] += part["counter"]["packets"]
        return found

    before = counters()
    task = {
        "accounts": ["openclaw", "tf-egress", "nobody"],
        "destinations": [("tcp", converged.gateways[0], 9443), ("tcp", METADATA[0], 80)],
        "listen": [],
    }
    converged.host.python(PROBE, shlex.quote(json.dumps(task)))
    after = counters()
    for name in ("agent refused", "egress refused", "metadata refused", "tf-egress to providers"):
        assert after[name] > before[name], f"{name}: {before} → {after}"


def test_packages_names_and_time_work_under_it(converged: Converged) -> None:
    update = converged.host.ssh("sudo -n apt-get -q update -o APT::Update::Error-Mode=any")
    assert update.returncode == 0, update.stdout + update.stderr
    for account in ("root", "tf-egress", "tf-link"):
        lookup = converged.host.ssh(f"sudo -n -u {account} getent ahosts registry.lab.test")
        assert lookup.returncode == 0, f"{account}: {lookup.stdout}{lookup.stderr}"
    forbidden = converged.host.ssh("sudo -n -u openclaw getent ahosts registry.lab.test")
    assert forbidden.returncode != 0, forbidden.stdout


def test_the_second_run_changes_nothing_and_says_so(converged: Converged) -> None:
    run = converged.host.converge()
    assert (run.returncode, run.count("changed")) == (0, 0), run.output


def test_check_mode_is_exact_on_a_converged_host(converged: Converged) -> None:
    assert converged.host.converge(check=True).count("changed") == 0
    drifted = "printf '# drift\\n' | sudo -n tee -a /etc/ssh/sshd_config /etc/sysctl.d/99-zz-tenantfleet.conf"
    assert converged.host.ssh(drifted).returncode == 0
    check = converged.host.converge(check=True)
    assert (check.returncode, check.count("changed")) == (0, 2), check.output
    repair = converged.host.converge()
    assert repair.returncode == 0, repair.output
    assert converged.host.converge().count("changed") == 0


def test_the_table_is_there_again_after_a_reboot(converged: Converged) -> None:
    boot = converged.host.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    converged.host.ssh("sudo -n systemctl reboot")

    def rebooted() -> bool:
        again = converged.host.ssh("cat /proc/sys/kernel/random/boot_id")
        return again.returncode == 0 and again.stdout != boot

    wait_until(rebooted, what="a login after the reboot")
    run = converged.host.converge()
    assert (run.returncode, run.count("changed")) == (0, 0), run.output
