"""Whatever dies in whatever moment: what is left can be used or taken away."""

import os
import signal
import subprocess

import pytest

from lab.cgroup import Group
from lab.tests.conftest import PROGRAM, Bench
from tests.waiting import wait_until

pytestmark = pytest.mark.lab

KEPT = {"images", "keys", "ca.crt", "lock", "services", "store", "subnet.json"}


def killed_half_way(bench: Bench, *names: str, seen: str) -> None:
    """Kill an `up` of these hosts as soon as it has left such a trace."""
    argv = [str(PROGRAM), "up", *names]
    up = subprocess.Popen(argv, env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: bench.traces()[seen], what=f"{seen} of a lab that comes up")
    finally:
        up.kill()
        up.wait()


@pytest.mark.parametrize("seen", ["links", "groups", "mounts"])
def test_down_after_an_up_killed_half_way_leaves_nothing(bench: Bench, seen: str) -> None:
    killed_half_way(bench, "c1", "c2", "c3", seen=seen)
    bench.run("down")
    assert not any(bench.traces().values()), bench.traces()
    assert {path.name for path in bench.lab.root.iterdir()} <= KEPT


def test_up_after_an_up_killed_half_way_completes_it(bench: Bench) -> None:
    killed_half_way(bench, "c1", "c2", seen="mounts")
    bench.run("up", "c1", "c2")
    for name in ("c1", "c2"):
        assert bench.ssh(name, "systemctl is-system-running --wait") == "running"


def test_the_death_of_a_supervisor_is_a_power_cut(pair: Bench) -> None:
    host = pair.host("a2")
    for pid in Group(host.group.path / "supervisor").pids():
        os.kill(pid, signal.SIGKILL)
        break
    wait_until(lambda: not host.running, what="the host dies with its supervisor")
    pair.run("up", "a2")
    pair.ssh("a2", "true")


def test_a_service_that_was_killed_is_started_by_the_next_up(pair: Bench) -> None:
    for pid in Group.of(pair.lab, "services", "dns").pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Group.of(pair.lab, "services", "dns").populated(), what="the end of dns")
    pair.run("up")
    pair.ssh("a1", "getent hosts registry.lab.test")


def test_down_of_a_running_lab_leaves_nothing(pair: Bench) -> None:
    kinds = ("links", "tables", "groups", "processes", "mounts")
    assert [kind for kind in kinds if not pair.traces()[kind]] == []
    pair.run("down")
    assert not any(pair.traces().values()), pair.traces()
    assert {path.name for path in pair.lab.root.iterdir()} <= KEPT
