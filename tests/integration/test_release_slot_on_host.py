"""A switch on a real host: what is proved stays, what is not goes back, whoever dies meanwhile."""

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.module_host import ModuleHost
from tests.lab_hosts import cut_the_power, lab

pytestmark = pytest.mark.lab

SERVICE = """[Unit]
Description={description}
[Service]
ExecStart={command}
[Install]
WantedBy=multi-user.target
"""
RUNS_FOREVER = "/usr/bin/sleep infinity"
TREE = "ab" * 32


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> ModuleHost:
    lab("up", "slots")
    host = ModuleHost("slots", tmp_path_factory.mktemp("slots"))
    host.install_programs()
    return host


@pytest.fixture
def host(booted: ModuleHost) -> ModuleHost:
    """A host without any trace of an earlier test's units."""
    for unit in ("echo", "rules"):
        booted.ssh(f"systemctl stop tf-activate-{unit}.service", check=False)
        booted.ssh(f"/usr/local/lib/tenantfleet/activate {unit} --remove")
    booted.ssh(f"rm -rf /opt/tenantfleet /run/tf-test; mkdir -p /run/tf-test /opt/tenantfleet/store/{TREE}")
    return booted


def slot(
    *,
    description: str = "one",
    command: str = RUNS_FOREVER,
    probe: tuple[str, ...] = ("/bin/true",),
    **more: Any,  # noqa: ANN401 - any parameter of the module
) -> dict[str, Any]:
    unit = SERVICE.format(description=description, command=command)
    files: list[dict[str, str]] = [
        {"path": "units/tf-echo.service", "content": unit},
        {"path": "config/echo.json", "content": json.dumps({"description": description}), "mode": "0640"},
    ]
    given: dict[str, Any] = {
        "unit": "echo",
        "code": TREE,
        "files": files,
        "services": ["tf-echo.service"],
        "probe": {"argv": list(probe), "timeout_s": 3},
        "timeout_s": 60,
        **more,
    }
    return {"release_slot": given}


def running(host: ModuleHost) -> str:
    return host.ssh("systemctl show -p Description --value tf-echo.service")


def verdict(host: ModuleHost) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(host.ssh("cat /var/lib/tenantfleet/activations/echo.json"))
    return document


def traces(host: ModuleHost) -> str:
    places = "/etc/systemd/system /etc/containers/systemd /opt/tenantfleet/echo"
    return host.ssh(
        f"find {places} /var/lib/tenantfleet/activations -lname '*/echo/current/*' -o -name 'tf-echo*' -o "
        "-path '/opt/tenantfleet/echo*' -o -name 'echo*.json'",
        check=False,
    )


def test_the_ladder_from_missing_arguments_to_absent_again(host: ModuleHost) -> None:
    assert "unit" in host.call({"release_slot": {}}).message
    foreseen = host.call(slot(), "--check")
    assert foreseen.changed
    assert traces(host) == ""

    made = host.call(slot())
    assert made.changed
    assert made.task["verdict"] == "confirmed"
    assert made.task["activation"] == foreseen.task["activation"]
    assert running(host) == "one"
    assert host.ssh("systemctl is-enabled tf-echo.service") == "enabled"
    for link in ("tf-echo.service", "multi-user.target.wants/tf-echo.service"):
        through_current = "/opt/tenantfleet/echo/current/units/tf-echo.service"
        assert host.ssh(f"readlink /etc/systemd/system/{link}") == through_current
    assert host.ssh("readlink -f /opt/tenantfleet/echo/current/code") == f"/opt/tenantfleet/store/{TREE}"
    assert not host.call(slot()).changed

    update = host.call(slot(description="two"), "--check", "--diff")
    assert update.changed
    headers = {entry["before_header"].split()[0] for entry in update.task["diff"]}
    assert headers == {"config/echo.json", "units/tf-echo.service"}
    assert running(host) == "one"
    assert host.call(slot(description="two")).changed
    assert running(host) == "two"
    assert not host.call(slot(description="two")).changed
    assert verdict(host)["previous"] == made.task["activation"]

    absent: dict[str, Any] = {"release_slot": {"unit": "echo", "state": "absent"}}
    assert host.call(absent, "--check").changed
    assert running(host) == "two"
    assert host.call(absent).changed
    assert traces(host) == ""
    assert host.ssh("systemctl is-active tf-echo.service", check=False) == "inactive"
    assert not host.call(absent).changed


@pytest.mark.drawn("a probe that fails")
def test_a_release_that_fails_its_probe_leaves_the_previous_one_running(host: ModuleHost) -> None:
    good = host.call(slot()).task["activation"]
    bad = host.call(slot(description="bad", probe=("/bin/sh", "-c", "echo no agent turn >&2; exit 1")))
    assert bad.failed
    assert "no agent turn" in bad.message
    assert bad.task["verdict"] == "reverted"
    assert running(host) == "one"
    assert host.ssh("readlink /opt/tenantfleet/echo/current") == good
    assert host.ssh("systemctl is-active tf-echo.service") == "active"
    assert verdict(host)["in_force"] == good
    assert not host.call(slot()).changed, "what was restored has been proved again"


@pytest.mark.drawn("a probe that fails")
def test_a_release_whose_service_dies_reports_what_its_journal_says(host: ModuleHost) -> None:
    host.call(slot())
    dies = host.call(slot(description="dies", command="/bin/sh -c 'echo port taken; exit 3'"))
    assert dies.failed
    assert any("port taken" in line for line in dies.task["journal"]), dies.task
    assert running(host) == "one"


@pytest.mark.drawn("a probe that fails")
def test_a_first_activation_that_fails_leaves_nothing_half_started(host: ModuleHost) -> None:
    failed = host.call(slot(probe=("/bin/false",)))
    assert failed.task["verdict"] == "failed"
    assert host.ssh("systemctl is-active tf-echo.service", check=False) == "inactive"
    links = host.ssh("find /etc/systemd -lname '*/echo/*'; ls /opt/tenantfleet/echo")
    assert links == failed.task["activation"], "only the folder that was tried may be left"
    assert verdict(host)["in_force"] is None


@pytest.mark.drawn("a killed job")
def test_a_job_that_is_killed_after_the_switch_goes_back_by_itself(host: ModuleHost) -> None:
    good = host.call(slot()).task["activation"]
    hangs = ("/bin/sh", "-c", "touch /run/tf-test/probing; exec sleep 60")
    command = host.play(slot(description="bad", probe=hangs, timeout_s=120) | {"name": "killed"})
    run = subprocess.Popen(command, env=host.environment("1"), stdout=subprocess.PIPE, text=True)
    host.wait_for(lambda: host.ssh("ls /run/tf-test") == "probing", "the probe runs")
    assert running(host) == "bad"
    host.ssh("kill -9 $(systemctl show -p MainPID --value tf-activate-echo.service)")
    stdout = run.communicate(timeout=120)[0]
    told = host.result(Path(command[2]), stdout)
    assert told.failed
    assert told.task["verdict"] == "reverted"
    assert "killed" in told.message
    assert running(host) == "one"
    assert host.ssh("readlink /opt/tenantfleet/echo/current") == good


def interrupt(host: ModuleHost, activation: str) -> None:
    """Kill a switch while it probes, without a systemd that would notice: what a power cut leaves behind."""
    host.ssh(
        f"setsid /usr/local/lib/tenantfleet/activate echo {activation} >/dev/null 2>&1 & job=$!;"
        "while ! [ -e /run/tf-test/probing ]; do sleep 0.1; done; kill -9 $job; pkill -9 -x -f 'sleep 61'"
    )
    assert host.ssh("readlink /opt/tenantfleet/echo/current") == activation


def laid_down(host: ModuleHost, *, description: str, probe: tuple[str, ...]) -> str:
    """The id of an activation that stands in its folder but was never confirmed."""
    failed = host.call(slot(description=description, probe=probe))
    assert failed.failed
    host.ssh("rm -f /run/tf-test/probing")
    return str(failed.task["activation"])


@pytest.mark.drawn("a killed job")
def test_the_next_call_takes_back_a_switch_that_nobody_proved(host: ModuleHost) -> None:
    host.call(slot())
    hangs = ("/bin/sh", "-c", "touch /run/tf-test/probing; exec sleep 61")
    bad = laid_down(host, description="bad", probe=hangs)
    interrupt(host, bad)
    assert running(host) == "bad"
    foreseen = host.call(slot(), "--check")
    assert foreseen.changed, "a switch without a verdict is never unchanged"
    third = host.call(slot(description="third", probe=("/bin/false",)))
    assert third.task["verdict"] == "reverted"
    assert running(host) == "one", "the way back leads to what was proved, not to what was running"
    assert not host.call(slot()).changed


@pytest.mark.drawn("a killed job")
def test_a_first_activation_that_died_unproved_is_removed_before_the_next(host: ModuleHost) -> None:
    hangs = ("/bin/sh", "-c", "touch /run/tf-test/probing; exec sleep 61")
    bad = laid_down(host, description="bad", probe=hangs)
    interrupt(host, bad)
    host.ssh("/usr/local/lib/tenantfleet/activate echo --recover")
    assert host.ssh("systemctl is-active tf-echo.service", check=False) == "inactive"
    assert host.ssh("find /etc/systemd -lname '*/echo/*'; ls /opt/tenantfleet/echo") == bad
    assert verdict(host)["verdict"] == "failed"


def starts_in_this_boot(host: ModuleHost) -> list[str]:
    return host.ssh(
        "journalctl -b -o cat _PID=1 UNIT=tf-echo.service | grep '^Started'", check=False
    ).splitlines()


def recovered_in_this_boot(host: ModuleHost) -> bool:
    show = "systemctl show -p ExecMainExitTimestampMonotonic --value tf-recover-prove.service"
    return host.ssh(show, check=False) not in {"", "0"}


@pytest.mark.drawn("a power cut")
def test_a_machine_that_went_down_in_a_switch_never_starts_what_nobody_proved(host: ModuleHost) -> None:
    good = host.call(slot()).task["activation"]
    hangs = ("/bin/sh", "-c", "touch /run/tf-test/probing; exec sleep 61")
    bad = laid_down(host, description="bad", probe=hangs)
    interrupt(host, bad)
    assert running(host) == "bad"
    cut_the_power(host.name)
    host.wait_for(lambda: recovered_in_this_boot(host), "the boot's recovery has ended")
    ended = verdict(host)
    assert (ended["verdict"], ended["activation"], ended["in_force"]) == ("reverted", bad, good)
    assert running(host) == "one"
    assert not [line for line in starts_in_this_boot(host) if "bad" in line]
    assert host.ssh("readlink /opt/tenantfleet/echo/current") == good
    assert not host.call(slot()).changed


@pytest.mark.drawn("a power cut")
def test_a_first_activation_that_nobody_proved_is_not_there_after_the_boot(host: ModuleHost) -> None:
    hangs = ("/bin/sh", "-c", "touch /run/tf-test/probing; exec sleep 61")
    bad = laid_down(host, description="bad", probe=hangs)
    interrupt(host, bad)
    host.ssh("rm -f /var/lib/tenantfleet/activations/echo.json; sync")
    cut_the_power(host.name)
    host.wait_for(lambda: host.ssh("ls /var/lib/tenantfleet/activations") == "echo.json", "a verdict")
    assert verdict(host)["verdict"] == "failed"
    assert starts_in_this_boot(host) == []
    assert host.ssh("find /etc/systemd -lname '*/echo/*'", check=False) == ""


@pytest.mark.drawn("a lost connection")
def test_a_switch_outlives_the_ssh_connection_that_asked_for_it(host: ModuleHost) -> None:
    host.call(slot())
    waits = ("/bin/sh", "-c", "touch /run/tf-test/probing; [ -e /run/tf-test/go ]")
    given = slot(description="two", probe=waits, timeout_s=120)
    given["release_slot"]["probe"]["timeout_s"] = 60
    command = host.play(given)
    run = subprocess.Popen(
        command, env=host.environment("1"), stdout=subprocess.DEVNULL, start_new_session=True
    )
    host.wait_for(lambda: host.ssh("ls /run/tf-test") == "probing", "the probe runs")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    host.ssh("pkill -9 -f '[A]nsiballZ|ansible_module|python3 && sleep 0' ; true", check=False)
    host.ssh("touch /run/tf-test/go")
    host.wait_for(
        lambda: verdict(host)["verdict"] == "confirmed" and running(host) == "two", "confirmed alone"
    )
    assert not host.call(given).changed


@pytest.mark.drawn("a slot that differs")
def test_a_service_that_was_stopped_is_activated_again(host: ModuleHost) -> None:
    host.call(slot())
    host.ssh("systemctl stop tf-echo.service")
    assert host.call(slot()).changed
    assert host.ssh("systemctl is-active tf-echo.service") == "active"


BY_HAND = (
    "echo '{}' > /opt/tenantfleet/echo/current/config/echo.json",
    "chmod 0666 /opt/tenantfleet/echo/current/config/echo.json",
    "rm /etc/systemd/system/tf-echo.service",
    "rm /etc/systemd/system/multi-user.target.wants/tf-echo.service",
)


@pytest.mark.drawn("a slot that differs")
def test_what_was_changed_by_hand_is_put_back(host: ModuleHost) -> None:
    host.call(slot())
    for by_hand in BY_HAND:
        host.ssh(by_hand)
        assert host.call(slot()).changed, by_hand
        assert host.ssh("stat -c %a /opt/tenantfleet/echo/current/config/echo.json") == "640"
        assert host.ssh("cat /opt/tenantfleet/echo/current/config/echo.json") == '{"description": "one"}'
        assert host.ssh("systemctl is-enabled tf-echo.service") == "enabled", by_hand
    assert not host.call(slot()).changed


@pytest.mark.drawn("a slot that differs")
def test_files_that_the_new_activation_lacks_lose_their_links_and_get_them_back(host: ModuleHost) -> None:
    first = slot()
    drop_in = {"path": "units/tf-echo.service.d/50-nice.conf", "content": "[Service]\nNice=5\n"}
    first["release_slot"]["files"].append(drop_in)
    host.call(first)
    assert host.ssh("systemctl show -p Nice --value tf-echo.service") == "5"
    failed = host.call(slot(description="bad", probe=("/bin/false",)))
    assert failed.task["verdict"] == "reverted"
    assert host.ssh("systemctl show -p Nice --value tf-echo.service") == "5"
    assert host.call(slot(description="two")).changed
    assert host.ssh("systemctl show -p Nice --value tf-echo.service") == "0"
    assert host.ssh("ls -d /etc/systemd/system/tf-echo.service.d", check=False) == ""


@pytest.mark.drawn("a slot that differs")
def test_a_unit_without_services_reloads_those_of_others(host: ModuleHost) -> None:
    reloads = SERVICE.format(description="one", command=RUNS_FOREVER).replace(
        "[Install]", "ExecReload=/usr/bin/touch /run/tf-test/reloaded\n[Install]"
    )
    given = slot()
    given["release_slot"]["files"][0]["content"] = reloads
    host.call(given)
    pid = host.ssh("systemctl show -p MainPID --value tf-echo.service")
    rules: dict[str, Any] = {
        "unit": "rules",
        "reloads": ["tf-echo.service"],
        "probe": {"argv": ["/bin/true"], "timeout_s": 5},
    }
    rules["files"] = [{"path": "config/policy.json", "content": "{}"}]
    assert host.call({"release_slot": rules}).changed
    assert host.ssh("ls /run/tf-test") == "reloaded"
    assert host.ssh("systemctl show -p MainPID --value tf-echo.service") == pid
    assert not host.call({"release_slot": rules}).changed


@pytest.mark.drawn("a slot that differs")
def test_a_dependent_that_ran_runs_again_with_the_new_activation(host: ModuleHost) -> None:
    host.write(
        "/run/systemd/system/tf-dependent.service",
        f"[Unit]\nRequires=tf-echo.service\n[Service]\nExecStart={RUNS_FOREVER}\n",
        "0644",
    )
    given = slot(dependents=["tf-dependent.service"])
    host.call(given)
    assert host.ssh("systemctl is-active tf-dependent.service", check=False) == "inactive"
    host.ssh("systemctl daemon-reload; systemctl start tf-dependent.service")
    pid = host.ssh("systemctl show -p MainPID --value tf-dependent.service")
    host.call(slot(description="two", dependents=["tf-dependent.service"]))
    assert host.ssh("systemctl is-active tf-dependent.service") == "active"
    assert host.ssh("systemctl show -p MainPID --value tf-dependent.service") != pid
    failed = host.call(slot(probe=("/bin/false",), dependents=["tf-dependent.service"]))
    assert failed.task["verdict"] == "reverted"
    assert host.ssh("systemctl is-active tf-dependent.service") == "active"


def test_old_activations_and_trees_that_nothing_names_are_swept(host: ModuleHost) -> None:
    for n in range(5):
        host.ssh(
            f"mkdir -p /opt/tenantfleet/store/{n:064x}; touch -d '2 days ago' /opt/tenantfleet/store/{n:064x}"
        )
        assert host.call(slot(description=f"{n}", code=f"{n:064x}")).changed
    assert (
        len(host.ssh("find /opt/tenantfleet/echo -mindepth 1 -maxdepth 1 -type d -name '[0-9a-f]*'").split())
        == 3
    )
    assert host.ssh("ls /opt/tenantfleet/store").split() == [f"{n:064x}" for n in (2, 3, 4)] + [TREE]


BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"unit": "../etc"}, "not a name"),
    ({"code": "cd" * 32}, "not in the store"),
    ({"files": [{"path": "config/a", "content": "", "owner": "nobody-here"}]}, "no account"),
    ({"files": [{"path": "units/ssh.service", "content": "[Service]"}]}, "stands in the way"),
    ({"inputs": ["/nowhere"]}, "/nowhere cannot be read"),
)


def test_bad_input_is_refused_before_anything_stops(host: ModuleHost) -> None:
    host.call(slot())
    start = host.ssh("systemctl show -p InvocationID --value tf-echo.service")
    host.ssh("ln -sf /usr/lib/systemd/system/ssh.service /etc/systemd/system/ssh.service")
    for change, words in BAD:
        refused = host.call(slot(**change))
        assert refused.failed, words
        assert words in refused.message, refused.stdout
        assert host.ssh("systemctl show -p InvocationID --value tf-echo.service") == start, words
    assert not host.call(slot()).changed


@pytest.mark.drawn("a slot that differs")
def test_an_input_that_changed_is_a_new_activation(host: ModuleHost) -> None:
    host.write("/run/tf-test/input", "one")
    assert host.call(slot(inputs=["/run/tf-test/input"])).changed
    assert not host.call(slot(inputs=["/run/tf-test/input"])).changed
    host.write("/run/tf-test/input", "two")
    assert host.call(slot(inputs=["/run/tf-test/input"])).changed


def test_an_unchanged_activation_keeps_its_name_across_hosts(host: ModuleHost) -> None:
    activation = host.call(slot()).task["activation"]
    document = host.ssh("cat /opt/tenantfleet/echo/current/activation.json")
    assert hashlib.sha256(document.encode()).hexdigest()[:16] == activation
