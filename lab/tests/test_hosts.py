"""Hosts that boot: what a provider's machine does, a lab host does."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from lab.tests.conftest import Bench
from tests.waiting import wait_until

pytestmark = pytest.mark.lab

# FS_IOC_SETFLAGS with FS_IMMUTABLE_FL, as chattr +i does.
MAKE_IMMUTABLE = "import fcntl; fcntl.ioctl(open('/marker'), 0x40086602, bytes([0x10, 0, 0, 0]))"


def test_a_host_boots_without_a_failed_unit(pair: Bench) -> None:
    assert pair.ssh("a1", "systemctl is-system-running --wait") == "running"


def test_the_first_boot_is_configured_by_cloud_init_without_complaint(pair: Bench) -> None:
    pair.ssh("a1", "cloud-init status --wait")
    status = json.loads(pair.ssh("a1", "cloud-init status --format json"))
    assert (status["extended_status"], status["recoverable_errors"]) == ("done", {})


def test_the_first_account_is_debian_with_sudo(pair: Bench) -> None:
    assert pair.ssh("a1", "whoami; sudo -n whoami; hostname").split() == ["debian", "root", "a1"]


def test_a_host_key_of_another_authority_is_refused(pair: Bench, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    public = (tmp_path / "other.pub").read_text()
    (tmp_path / "known").write_text(f"@cert-authority * {public}")
    option = f"UserKnownHostsFile={tmp_path}/known"
    argv = ["ssh", "-F", str(pair.lab.root / "ssh_config"), "-o", option, "a1", "true"]
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_hosts_reach_each_other_and_the_gateway_by_name(pair: Bench, family: str) -> None:
    pair.ssh("a1", f"ping {family} -c1 -w10 a2.lab.test && ping {family} -c1 -w10 registry.lab.test")


def test_ipv6_beyond_the_lab_is_refused_at_once(pair: Bench) -> None:
    began = time.monotonic()
    pair.ssh("a1", "curl -sS -m 20 http://[2001:db8::1]/", status=7)
    assert time.monotonic() - began < 10


def test_a_reboot_keeps_the_disk_and_renews_the_boot(pair: Bench) -> None:
    look = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; sudo nft list ruleset"
    pair.ssh("a1", "sudo nft add table inet left_over; sudo touch /var/kept")
    boot, machine = pair.ssh("a1", look).split()[:2]
    subprocess.run(["ssh", "-F", pair.lab.root / "ssh_config", "a1", "sudo reboot"], check=False)
    wait_until(
        lambda: _answers(pair, "a1", f"! grep -q {boot} /proc/sys/kernel/random/boot_id"), what="reboot"
    )
    after, machine_after, *ruleset = pair.ssh("a1", look).split()
    assert (after != boot, machine_after == machine, ruleset) == (True, True, [])
    pair.ssh("a1", "test -e /var/kept && systemctl is-system-running --wait")


def _answers(bench: Bench, name: str, command: str) -> bool:
    argv = ["ssh", "-F", str(bench.lab.root / "ssh_config"), "-o", "ConnectTimeout=2", name, command]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_a_reset_host_is_pristine_at_the_same_address(pair: Bench) -> None:
    look = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
    before, address = pair.ssh("a2", look), pair.host("a2").address
    pair.ssh("a2", "sudo touch /marker /var/lib/containers/marker")
    pair.ssh("a2", "sudo python3 -", stdin=MAKE_IMMUTABLE)
    pair.run("reset", "a2")
    pair.ssh("a2", "test ! -e /marker && test ! -e /var/lib/containers/marker")
    after = pair.ssh("a2", look)
    assert set(before.split()[:3:2]) & set(after.split()[:3:2]) == set()
    assert pair.host("a2").address == address


def test_a_stopped_host_boots_the_same_disk(pair: Bench) -> None:
    pair.ssh("a2", "sudo touch /var/kept && sync")
    pair.run("stop", "a2")
    assert {row["name"]: row["state"] for row in json.loads(pair.run("list", "--json"))}["a2"] == "off"
    pair.run("up", "a2")
    pair.ssh("a2", "test -e /var/kept")


def test_a_kernel_setting_of_a_host_is_read_back_there_and_nowhere_else(pair: Bench) -> None:
    machine = Path("/proc/sys/vm/swappiness").read_text().strip()
    pair.ssh("a1", "sudo sysctl -w vm.swappiness=7 net.ipv4.ip_forward=1")
    assert pair.ssh("a1", "sudo sysctl -n vm.swappiness net.ipv4.ip_forward").split() == ["7", "1"]
    assert Path("/proc/sys/vm/swappiness").read_text().strip() == machine
    assert pair.ssh("a2", "sudo sysctl -n vm.swappiness net.ipv4.ip_forward").split() == [machine, "0"]


@pytest.mark.parametrize("attempt", ["date -s 2001-01-01", "swapon /swap"])
def test_root_in_a_host_cannot_change_the_machine(pair: Bench, attempt: str) -> None:
    before = time.time()
    prepare = "truncate -s 1M /swap; chmod 600 /swap; mkswap -q /swap"
    pair.run("exec", "a1", "--", "sh", "-c", f"{prepare}; if {attempt}; then exit 9; fi")
    assert time.time() >= before


def test_the_machine_s_kernel_is_not_within_reach_by_proc(pair: Bench) -> None:
    for name in {"sysrq-trigger", "kcore", "kmsg"} & {path.name for path in Path("/proc").iterdir()}:
        assert "1, 3" in pair.run("exec", "a1", "ls", "-l", f"/proc/{name}")  # the host's own /dev/null


def test_exec_is_as_restricted_as_everything_in_the_host(pair: Bench) -> None:
    limits = ["grep", "-E", "^(CapBnd|Seccomp):"]
    inside = pair.run("exec", "a1", *limits, "/proc/self/status")
    assert inside == pair.run("exec", "a1", *limits, "/proc/1/status")
    machine = subprocess.run([*limits, "/proc/self/status"], text=True, capture_output=True, check=True)
    assert inside != machine.stdout


def test_exec_gives_back_the_status_of_its_command(pair: Bench) -> None:
    pair.run("exec", "a1", "--", "sh", "-c", "exit 42", status=42)
    pair.run("exec", "a1", "no-such-program", status=127)


def test_a_sized_disk_fills_up(bench: Bench) -> None:
    bench.run("up", "small", "--disk", "400M")
    bench.ssh("small", "systemctl is-system-running --wait")
    said = bench.ssh(
        "small", "sudo fallocate -l 500M /var/big 2>&1 || true; df --output=size -BM / | tail -1"
    )
    assert "No space left" in said
    assert int(said.split()[-1].rstrip("M")) < 420
    bench.run("down", "small")
    assert bench.traces()["loops"] == []
