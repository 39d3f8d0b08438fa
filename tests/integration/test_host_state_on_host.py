"""host_state over SSH on real hosts: ladder, refusals, repairs, and stock modules as its oracle."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.module_host import ModuleHost, Result
from tests.lab_hosts import fresh_host

pytestmark = pytest.mark.lab

Document = dict[str, Any]
NASTY = (
    'true null """ \'\'\' \\ \\" \\n \U0001f600 \t <<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>> syslog.LOG_USER\n'
)
SYSUSERS = 'u! probe 2301 "Probe" /nonexistent /usr/sbin/nologin\ng probe-ssh 2302\nm probe probe-ssh\n'
RULES = """# flush ruleset would end podman's rules too
table inet probe
delete table inet probe
table inet probe {
  chain output {
    type filter hook output priority 0; policy accept;
    meta skuid 2301 counter reject comment "a # } b"
  }
}
"""
SERVICE = """[Service]
ExecStart=/bin/sleep infinity
ExecReload=/bin/true
[Install]
WantedBy=multi-user.target
"""


def directory(path: str, mode: str = "0755", owner: str = "root") -> dict[str, str]:
    return {"path": path, "owner": owner, "group": owner, "mode": mode}


def file(path: str, content: str, mode: str = "0644", owner: str = "root") -> dict[str, str]:
    return {"path": path, "owner": owner, "group": owner, "mode": mode, "content": content}


DOCUMENT: Document = {
    "version": 1,
    "directories": [
        directory("/etc/sysusers.d"),
        directory("/etc/tenantfleet"),
        directory("/etc/tenantfleet/nftables.d"),
        directory("/var/lib/probe", "0700", "probe"),
    ],
    "files": [
        file("/var/lib/probe/nasty", NASTY, "0640", "probe"),
        file("/etc/sysusers.d/probe.conf", SYSUSERS),
        file("/etc/tmpfiles.d/probe.conf", "d /run/probe 0750 probe probe-ssh -\n"),
        file("/etc/sysctl.d/60-probe.conf", "net.core.somaxconn = 1234\n-net.no.such = 1\n"),
        file("/etc/sudoers.d/probe", "probe ALL=(root) NOPASSWD: /bin/true\n", "0440"),
        file("/etc/tenantfleet/nftables.d/probe.nft", RULES),
        file("/etc/systemd/system/probe.service", SERVICE),
    ],
    "links": [{"path": "/etc/probe.link", "target": "sysusers.d/probe.conf"}],
    "units": [
        {
            "name": "probe.service",
            "enabled": True,
            "state": "started",
            "restart_on": ["/etc/systemd/system/probe.service"],
            "reload_on": ["/var/lib/probe/nasty"],
        }
    ],
}
CREATED = {
    "account probe created",
    "account probe-ssh created",
    "account probe updated",
    "directory /etc/sysusers.d created",
    "directory /etc/tenantfleet created",
    "directory /etc/tenantfleet/nftables.d created",
    "directory /run/probe created",
    "directory /var/lib/probe created",
    *(f"file {entry['path']} created" for entry in DOCUMENT["files"]),
    "link /etc/probe.link created",
    "sysctl net/core/somaxconn set",
    "systemd unit files reloaded",
    "unit probe.service enabled",
    "unit probe.service started",
}
# What the document describes, as an outsider sees it.
PATHS = [
    *(entry["path"] for key in ("directories", "files", "links") for entry in DOCUMENT[key]),
    "/run/probe",
]
STATE = f"""
for path in {" ".join(sorted(PATHS))}; do
  stat -c '%n %F %a %U %G %N' $path
  test -f $path && sha256sum < $path
done
getent passwd probe; getent group probe probe-ssh
sysctl net.core.somaxconn; sudo -l -U probe | tail -1
nft -s list table inet probe
systemctl show -p LoadState,ActiveState,SubState,UnitFileState,WantedBy,FragmentPath,ExecStart probe.service |
  sed 's/start_time=.*//'
true
"""


def fresh(name: str, folder: Path) -> ModuleHost:
    fresh_host(name)
    return ModuleHost(name, folder)


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> ModuleHost:
    """A host that each test leaves as the document says."""
    host = fresh("hs-1", tmp_path_factory.mktemp("hs-1"))
    call(host, DOCUMENT)
    return host


def run(host: ModuleHost, document: Document, *options: str, **how: str) -> Result:
    return host.call({"host_state": document}, *options, **how)


def call(host: ModuleHost, document: Document, *options: str, **how: str) -> set[str]:
    """Run to the end; what it did, in words."""
    result = run(host, document, *options, **how)
    assert not result.failed, result.stdout
    assert result.changed == bool(result.task["resources"])
    return {" ".join((entry["kind"], entry["name"], entry["action"])) for entry in result.task["resources"]}


def only(**parts: list[Any]) -> Document:
    return {"version": 1, **parts}


def with_file(path: str, content: str) -> Document:
    document = copy.deepcopy(DOCUMENT)
    for entry in document["files"]:
        if entry["path"] == path:
            entry["content"] = content
    return document


def test_the_ladder_from_a_fresh_host_to_nothing(tmp_path: Path) -> None:
    host = fresh("hs-1", tmp_path)
    before = host.ssh(f"ls -laR --time-style=full-iso /etc; {STATE}", check=False)
    assert call(host, DOCUMENT, "--check") == CREATED
    assert host.ssh(f"ls -laR --time-style=full-iso /etc; {STATE}", check=False) == before

    assert call(host, DOCUMENT) == CREATED
    assert host.ssh("cat /var/lib/probe/nasty") == NASTY.strip()
    state = host.ssh(STATE)
    assert call(host, DOCUMENT) == set()
    assert call(host, DOCUMENT, "--check") == set()

    update = with_file("/etc/systemd/system/probe.service", SERVICE.replace("infinity", "1000000"))
    update["directories"][-1]["mode"] = "0750"
    update["links"][0]["target"] = "/etc/hostname"
    updated = {
        "directory /var/lib/probe updated",
        "file /etc/systemd/system/probe.service updated",
        "link /etc/probe.link updated",
        "systemd unit files reloaded",
        "unit probe.service restarted",
    }
    assert call(host, update, "--check", "--diff") == updated
    assert host.ssh(STATE) == state
    assert call(host, update) == updated
    assert "1000000" in host.ssh("systemctl show -p ExecStart probe.service")
    assert call(host, update) == set()

    units = [{"name": "probe.service", "state": "stopped", "enabled": False}]
    gone = only(absent=[*PATHS[4:]], units=units)
    removed = {
        "unit probe.service stopped",
        "unit probe.service disabled",
        *(f"file {entry['path']} removed" for entry in DOCUMENT["files"]),
        "link /etc/probe.link removed",
        "directory /run/probe removed",
        "systemd unit files reloaded",
    }
    assert call(host, gone, "--check") == removed
    assert call(host, gone) == removed
    assert call(host, gone) == set()
    assert host.ssh("systemctl is-active probe.service", check=False) == "inactive"


def test_it_works_without_pipelining(converged: ModuleHost) -> None:
    assert call(converged, DOCUMENT, pipelining="0") == set()


DRIFT = {
    "userdel probe": {"account probe created", "account probe updated"},
    "chmod 0666 /etc/sysctl.d/60-probe.conf": {"file /etc/sysctl.d/60-probe.conf updated"},
    "chown daemon /var/lib/probe": {"directory /var/lib/probe updated"},
    "rm /etc/probe.link": {"link /etc/probe.link created"},
    "chmod 0700 /run/probe": {"directory /run/probe updated"},
    "sysctl -qw net.core.somaxconn=77": {"sysctl net/core/somaxconn set"},
    "nft flush ruleset": {"nftables table inet probe loaded"},
    "systemctl kill -s KILL probe": {"unit probe.service started"},
    "systemctl disable probe": {"unit probe.service enabled"},
}


def test_drift_without_a_change_of_files_is_named_repaired_and_gone(converged: ModuleHost) -> None:
    state = converged.ssh(STATE)
    for damage in DRIFT:
        converged.ssh(damage)
    expected = set().union(*DRIFT.values())
    assert call(converged, DOCUMENT, "--check") == expected
    assert call(converged, DOCUMENT) == expected
    assert converged.ssh(STATE) == state
    assert call(converged, DOCUMENT) == set()


@pytest.mark.parametrize(
    "damage",
    [
        "nft insert rule inet probe output accept",
        "nft add chain inet probe extra",
        "nft add set inet probe extra '{ type ipv4_addr; }'",
        "nft flush chain inet probe output",
        """nft -s list table inet probe | sed '1i delete table inet probe' | sed s/2301/2302/ | nft -f -""",
    ],
)
def test_a_table_that_was_altered_by_hand_is_loaded_again(converged: ModuleHost, damage: str) -> None:
    state = converged.ssh(STATE)
    converged.ssh(damage)
    assert converged.ssh(STATE) != state
    assert call(converged, DOCUMENT, "--check") == {"nftables table inet probe loaded"}
    assert call(converged, DOCUMENT) == {"nftables table inet probe loaded"}
    assert converged.ssh(STATE) == state
    assert call(converged, DOCUMENT) == set()


def test_callers_that_a_set_remembers_for_a_while_are_no_drift(converged: ModuleHost) -> None:
    callers = "set callers { type ipv4_addr; size 9; flags dynamic, timeout; timeout 2m; }\n"
    document = with_file(
        "/etc/tenantfleet/nftables.d/probe.nft", RULES.replace("chain output", f"{callers}chain output")
    )
    assert call(converged, document) == {"file /etc/tenantfleet/nftables.d/probe.nft updated"}
    converged.ssh("nft add element inet probe callers '{ 192.0.2.1 }'")
    assert call(converged, document) == set()
    assert call(converged, DOCUMENT) == {"file /etc/tenantfleet/nftables.d/probe.nft updated"}


def test_a_lost_membership_and_directory_come_back(converged: ModuleHost) -> None:
    converged.ssh("gpasswd -d probe probe-ssh; rmdir /run/probe")
    assert call(converged, DOCUMENT) == {"account probe updated", "directory /run/probe created"}


@pytest.mark.parametrize(
    ("died", "resumed"),
    [
        (
            "touch /etc/systemd/system/probe.service",
            {"systemd unit files reloaded", "unit probe.service restarted"},
        ),
        (
            "touch /etc/systemd/system/probe.service; systemctl daemon-reload",
            {"unit probe.service restarted"},
        ),
        ("touch /var/lib/probe/nasty", {"unit probe.service reloaded"}),
    ],
)
def test_what_a_call_that_died_left_undone_the_next_one_does(
    converged: ModuleHost, died: str, resumed: set[str]
) -> None:
    converged.ssh(died)
    assert call(converged, DOCUMENT) == resumed
    assert call(converged, DOCUMENT) == set()


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("/etc/ssh/sshd_config", "PermitRootLogin no\nNope yes\n", "Bad configuration option: Nope"),
        ("/etc/sudoers.d/probe", "probe ALL=(ALL NOPASSWD: ALL\n", "syntax error"),
        ("/etc/tenantfleet/nftables.d/probe.nft", RULES.replace("reject", "rejekt"), "rejekt"),
        ("/etc/tenantfleet/nftables.d/probe.nft", f"flush ruleset\n{RULES}", "may only name its own table"),
        ("/etc/sysusers.d/probe.conf", "u 77bad:x -\n", "is not a valid user or group name"),
        ("/etc/tmpfiles.d/probe.conf", "d relative 0755\n", "not absolute"),
    ],
)
def test_a_file_that_its_program_refuses_is_never_put_in_place(
    converged: ModuleHost, path: str, content: str, words: str
) -> None:
    before = converged.ssh(f"cat {path}; {STATE}")
    result = run(converged, only(files=[file(path, content, "0440")]))
    assert result.failed
    assert words in result.message
    assert not result.task["changed"]
    assert converged.ssh(f"cat {path}; {STATE}") == before
    assert converged.ssh(f"ls -A {Path(path).parent} | grep host_state", check=False) == ""


def test_a_check_of_a_converged_host_fails_as_the_run_would(converged: ModuleHost) -> None:
    document = only(files=[file("/etc/ssh/sshd_config", "Nope yes\n")])
    assert "Bad configuration option: Nope" in run(converged, document, "--check").message


def test_an_account_that_exists_with_another_id_is_a_failure(converged: ModuleHost) -> None:
    document = with_file("/etc/sysusers.d/probe.conf", SYSUSERS.replace("2301", "2399"))
    assert "probe exists with 2301, not 2399" in run(converged, document).message
    assert call(converged, DOCUMENT) == {"file /etc/sysusers.d/probe.conf updated"}


def test_an_account_whose_id_is_taken_is_a_failure(converged: ModuleHost) -> None:
    """systemd-sysusers takes another id then, and exits with 0."""
    document = only(files=[file("/etc/sysusers.d/rival.conf", "u rival 2301\n")])
    assert "rival exists with" in run(converged, document).message
    converged.ssh("rm /etc/sysusers.d/rival.conf; userdel rival; groupdel rival 2>&1 || true")


def test_a_kernel_setting_that_does_not_hold_is_named(converged: ModuleHost) -> None:
    document = only(files=[file("/etc/sysctl.d/61-probe.conf", "net.no.such = 1\n")])
    result = run(converged, document)
    assert result.failed
    assert "net/no/such" in result.message
    converged.ssh("rm /etc/sysctl.d/61-probe.conf")


def test_a_unit_that_does_not_start_fails_with_its_last_words(converged: ModuleHost) -> None:
    service = "[Service]\nType=exec\nExecStart=/bin/sh -c 'echo my last words; exit 3'\nType=notify\n"
    unit = {"name": "broken.service", "state": "started"}
    document = only(files=[file("/etc/systemd/system/broken.service", service)], units=[unit])
    result = run(converged, document)
    assert result.failed
    assert "my last words" in result.message
    assert {"kind": "file", "name": "/etc/systemd/system/broken.service", "action": "created"} in result.task[
        "resources"
    ]
    mended = only(files=[file("/etc/systemd/system/broken.service", SERVICE)], units=[unit])
    assert "unit broken.service started" in call(converged, mended)
    stopped = only(absent=["/etc/systemd/system/broken.service"], units=[{**unit, "state": "stopped"}])
    assert "unit broken.service stopped" in call(converged, stopped)


def test_a_unit_that_does_not_exist_fails_in_words(converged: ModuleHost) -> None:
    result = run(converged, only(units=[{"name": "never-was.service", "state": "started"}]))
    assert "never-was.service not found" in result.message
    assert (
        call(converged, only(units=[{"name": "never-was.service", "state": "stopped", "enabled": False}]))
        == set()
    )


def test_a_file_in_a_directory_of_an_agents_own_follows_no_link_of_its(converged: ModuleHost) -> None:
    converged.ssh("ln -sfn /etc /var/lib/probe/way")
    result = run(converged, only(files=[file("/var/lib/probe/way/shadow2", "x")]))
    assert "a link that not only root can make" in result.message
    assert converged.ssh("ls /etc/shadow2 2>&1", check=False).endswith("No such file or directory")
    converged.ssh("rm /var/lib/probe/way")


def test_the_diff_names_what_changes(converged: ModuleHost) -> None:
    document = with_file("/etc/sysctl.d/60-probe.conf", "net.core.somaxconn = 1235\n")
    result = run(converged, document, "--check", "--diff")
    assert "-net.core.somaxconn = 1234" in result.stdout
    assert "+net.core.somaxconn = 1235" in result.stdout
    assert "sysctl.d/60-probe.conf" in result.stdout


def stock_tasks() -> list[dict[str, Any]]:
    """The same resources by the modules that a user would pick instead."""
    user = {"name": "probe", "uid": 2301, "group": "probe", "groups": ["probe-ssh"], "comment": "Probe"}
    home = {"home": "/nonexistent", "create_home": False, "shell": "/usr/sbin/nologin"}
    files = [{"dest" if key == "path" else key: entry[key] for key in entry} for entry in DOCUMENT["files"]]
    run_directory = {"path": "/run/probe", "mode": "0750", "owner": "probe", "group": "probe-ssh"}
    links = [{"src": entry["target"], "path": entry["path"]} for entry in DOCUMENT["links"]]
    unit = {"name": "probe.service", "enabled": True, "state": "started", "daemon_reload": True}
    tasks: list[tuple[str, dict[str, Any]]] = [
        ("group", {"name": "probe", "gid": 2301}),
        ("group", {"name": "probe-ssh", "gid": 2302}),
        ("user", user | home),
        *(("file", {"state": "directory", **entry}) for entry in [*DOCUMENT["directories"], run_directory]),
        *(("copy", entry) for entry in files),
        *(("file", {"state": "link", **entry}) for entry in links),
        ("command", {"argv": ["sysctl", "-w", "net.core.somaxconn=1234"]}),
        ("command", {"argv": ["nft", "-f", "/etc/tenantfleet/nftables.d/probe.nft"]}),
        ("systemd_service", unit),
    ]
    return [{f"ansible.builtin.{module}": arguments} for module, arguments in tasks]


@pytest.mark.soak
def test_stock_modules_lead_a_second_fresh_host_to_the_same_state(
    converged: ModuleHost, tmp_path: Path
) -> None:
    stock = fresh("hs-2", tmp_path)
    play = Path(stock.play({})[2]) / "project/play.yml"
    play.write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "become": True, "tasks": stock_tasks()}])
    )
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "../inventory/hosts.json",
        "play.yml",
    ]
    done = subprocess.run(
        command, cwd=play.parent, env=stock.environment("1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert converged.ssh(STATE) == stock.ssh(STATE)
    assert call(stock, DOCUMENT) == set()
