"""Whatever shuts us out of a host: the host itself lets us in again, in less than 90 seconds."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.integration.baselined_host import BaselinedHost

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

WITHIN_S = 90
ARMED = "Started tf-lockout-revert.timer"
RESTORED = "nobody confirmed the change"
GUARD = "/usr/local/lib/tenantfleet/lockout-guard"
EMPTY_GROUP: dict[str, Any] = {
    "__baseline_ssh_group": "tf-empty",
    "__baseline_ssh_group_id": 2111,
    "__baseline_ssh_members": [],
}


@pytest.fixture
def host(enrolled: BaselinedHost) -> BaselinedHost:
    return enrolled


def shut_out(host: BaselinedHost, **variables: Any) -> None:  # noqa: ANN401 - the role's variables
    """Apply what shuts us out, with the refusals that would prevent it off; the run fails and says so."""
    run = host.converge(baseline_guard_checks_enabled=False, **variables)
    assert run.returncode != 0, run.output
    assert "takes the change of SSH, sudo and firewall back by itself" in run.output


def assert_let_in_again(host: BaselinedHost, *, since: str) -> None:
    """Log in afresh, and read on the host's own clock how long it took from arming to having put all back."""
    host.wait_for_login("tf-deploy", WITHIN_S)
    entries = journal(host, since)
    while not at(entries, RESTORED) and at(entries, ARMED)[0] + WITHIN_S > host_time(host):
        threading.Event().wait(2)
        entries = journal(host, since)
    armed, restored = at(entries, ARMED), at(entries, RESTORED)
    assert len(armed) == len(restored) == 1, entries
    assert restored[0] - armed[0] < WITHIN_S
    assert host.ssh("sudo -n true").returncode == 0
    repair = host.converge()
    assert repair.returncode == 0, repair.output
    assert host.converge().count("changed") == 0


def journal(host: BaselinedHost, since: str) -> list[dict[str, Any]]:
    done = host.ssh(f"sudo -n journalctl -b -o json --after-cursor='{since}' --output-fields=MESSAGE")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def at(entries: list[dict[str, Any]], words: str) -> list[float]:
    """Return when a message was written, in seconds."""
    return [int(entry["__REALTIME_TIMESTAMP"]) / 1e6 for entry in entries if words in str(entry["MESSAGE"])]


def host_time(host: BaselinedHost) -> float:
    return float(host.ssh("date +%s").stdout)


def cursor(host: BaselinedHost) -> str:
    """Return the journal's place now."""
    return host.ssh("sudo -n journalctl -b -n 0 --show-cursor").stdout.partition("cursor: ")[2].strip()


def test_a_change_that_provably_shuts_us_out_is_refused_before_it_happens(host: BaselinedHost) -> None:
    elsewhere = host.converge(baseline_admin_networks=["192.0.2.0/24", "2001:db8::/32"])
    assert elsewhere.returncode != 0
    assert "admitted to SSH False" in elsewhere.output
    nobody = host.converge(**EMPTY_GROUP)
    assert nobody.returncode != 0
    assert "tf-deploy is in tf-deploy, tf-ssh" in nobody.output
    keyless = host.converge(baseline_admin_networks=["0.0.0.0/0", "::/0"], baseline_proof_key_path="")
    assert keyless.returncode != 0
    assert "proof key missing" in keyless.output
    assert host.converge().returncode == 0


def test_a_firewall_that_admits_nobody_is_taken_back(host: BaselinedHost) -> None:
    place = cursor(host)
    shut_out(host, baseline_admin_networks=["192.0.2.0/24", "2001:db8::/32"])
    assert_let_in_again(host, since=place)


def test_an_sshd_that_trusts_another_authority_is_taken_back(host: BaselinedHost) -> None:
    place = cursor(host)
    shut_out(host, baseline_ssh_user_ca=[host.make_authority("other")], baseline_guard_seconds=30)
    assert_let_in_again(host, since=place)


def test_a_group_without_us_is_taken_back(host: BaselinedHost) -> None:
    place = cursor(host)
    shut_out(host, **EMPTY_GROUP, baseline_guard_seconds=30)
    assert_let_in_again(host, since=place)


def test_an_sshd_file_that_sshd_refuses_is_never_put_in_place(host: BaselinedHost) -> None:
    run = host.converge(__baseline_sshd_golden={"kexalgorithms": "nonsense"})
    assert run.returncode != 0
    assert "sshd_config" in run.output
    assert host.ssh("sudo -n true").returncode == 0
    assert host.converge().count("changed") == 0


def test_a_reboot_before_the_confirmation_takes_the_change_back(host: BaselinedHost) -> None:
    boot = host.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    broken = (
        f"{GUARD} arm 3600 /etc/ssh/sshd_config && echo 'AllowGroups tf-empty' > /etc/ssh/sshd_config && sync"
    )
    assert host.ssh(f"sudo -n sh -c {broken!r}").returncode == 0
    host.ssh("sudo -n systemctl reboot")

    def rebooted() -> bool:
        again = host.ssh("cat /proc/sys/kernel/random/boot_id")
        return again.returncode == 0 and again.stdout != boot

    wait_until(rebooted, what="a login after the reboot", within_s=WITHIN_S)
    run = host.converge()
    assert (run.returncode, run.count("changed")) == (0, 0), run.output
