"""A host takes tasks of one run only: the newest that took it over, once no older task is left."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.integration.baselined_host import BaselinedHost, enrolled_host, present
from tests.lab_hosts import LAB, ROOT, lab
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NAME = "run-number"
PATIENCE_S = 60
RECORD = "/var/lib/tenantfleet/run/number"
ACQUIRE = "/usr/local/lib/tenantfleet/run-acquire"
SSH_ITSELF = 255  # its exit code when there is no login
# As root, in a session and a process group of its own, without the lock's descriptor: what no lock shows.
ROOT_CHILD = (
    "sudo -n setsid --fork sh -c 'exec <&- >&- 2>&- 9>&-; while :; do date +%s.%N >> {0}; sleep 0.05; done'"
)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaselinedHost]:
    """A host of its own: here it is given from run to run."""
    with enrolled_host(NAME, tmp_path_factory.mktemp("run")) as host:
        yield host


class Runs:
    """A host, and numbers of runs in their order: each test goes on where the one before it stopped."""

    def __init__(self, host: BaselinedHost) -> None:
        self.host = host
        self.latest = int(self.as_root(f"cut -d' ' -f1 {RECORD}"))

    def as_root(self, command: str) -> str:
        """Run something without passing the gate."""
        return lab("exec", NAME, "--", "sh", "-c", command)

    def next(self) -> int:
        self.latest += 1
        return self.latest

    def take_over(self, run: int, seconds: int = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return self.host.ssh(f"run-acquire {run} {seconds}", run=None)

    def taken(self) -> int:
        """Give the host to the next run."""
        done = self.take_over(self.next())
        assert done.returncode == 0, done.stderr
        return self.latest

    def start(self, run: int, command: str) -> subprocess.Popen[str]:
        """Start a task that goes on while the test does."""
        key = self.host.directory / "login"
        argv = ["ssh", "-F", str(LAB / "ssh_config"), "-o", "ControlPath=none", "-o", "BatchMode=yes"]
        argv += ["-o", present(run), "-i", str(key), f"tf-deploy@{NAME}", command]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        story = "journalctl --no-pager -n 80; ps -ef"
        wait_until(condition, what=what, within_s=PATIENCE_S, story=lambda: self.as_root(story))

    def lines(self, path: str) -> list[str]:
        return self.as_root(f"cat {path} 2>/dev/null || true").splitlines()


@pytest.fixture
def runs(enrolled: BaselinedHost) -> Iterator[Runs]:
    made = Runs(enrolled)
    made.as_root("rm -rf /tmp/run-test && mkdir -m 1777 /tmp/run-test")
    yield made
    made.as_root("systemctl kill -s KILL user-2105.slice 2>/dev/null; systemctl stop 'tf-test-*' || true")


def test_enrolment_gave_the_host_to_its_run_and_the_same_run_changes_nothing(enrolled: BaselinedHost) -> None:
    assert enrolled.ssh("cat", RECORD).stdout == "1 acquired\n"
    again = enrolled.converge()
    assert (again.returncode, again.count("changed")) == (0, 0), again.output


def test_only_the_run_that_took_the_host_over_runs_tasks(runs: Runs) -> None:
    run = runs.taken()
    assert runs.host.ssh("echo done", run=run).stdout == "done\n"
    answers = {
        "none": runs.host.ssh("echo done", run=None),
        "older": runs.host.ssh("echo done", run=run - 1),
        "newer": runs.host.ssh("echo done", run=run + 1),
    }
    assert {name: done.returncode for name, done in answers.items()} == {"none": 76, "older": 77, "newer": 78}
    assert {done.stdout for done in answers.values()} == {""}
    assert "no run number was presented" in answers["none"].stderr
    assert f"run {run - 1} is older than run {run}, which has this host" in answers["older"].stderr
    assert f"run {run + 1} has not taken this host over (it is at {run})" in answers["newer"].stderr
    assert runs.take_over(run - 1).returncode == 77
    assert runs.take_over(run).returncode == 0, "the same run may ask again"


GUARD = "/usr/local/lib/tenantfleet/lockout-guard"
SUDOERS = "/etc/sudoers.d/tenantfleet"


def test_a_change_that_an_older_run_did_not_prove_is_taken_back_before_the_next_task(runs: Runs) -> None:
    runs.taken()
    before = runs.as_root("cat /etc/ssh/sshd_config")
    runs.as_root(f"{GUARD} arm 600 /etc/ssh/sshd_config && echo '# half a change' >> /etc/ssh/sshd_config")
    run = runs.taken()
    # sshd reads its old file anew meanwhile, and for a moment hears nobody; Ansible tries again as well
    runs.wait_for(lambda: runs.host.ssh("true", run=run).returncode != SSH_ITSELF, "sshd answers")
    assert runs.host.ssh("echo done", run=run).stdout == "done\n"
    assert runs.as_root("cat /etc/ssh/sshd_config") == before
    assert runs.as_root("ls /var/lib/tenantfleet/lockout").split() == ["lock"]
    assert runs.as_root("systemctl list-timers --all --no-legend tf-lockout-revert.timer") == ""


def test_an_enrolment_that_nobody_proved_is_taken_back_and_said(runs: Runs) -> None:
    """As a driver leaves a host that dies between the change of sudo and the login that proves it."""
    runs.taken()
    runs.as_root(
        f"cp -a {SUDOERS} /run/kept && rm {SUDOERS} && {GUARD} arm 600 {SUDOERS} && cp -a /run/kept {SUDOERS}"
    )
    try:
        done = runs.take_over(runs.next())
        assert done.returncode == 73, done.stderr
        assert "never proved and is taken back" in done.stderr
        assert runs.as_root(f"ls {SUDOERS} 2>/dev/null || true") == ""
    finally:
        runs.as_root(f"cp -a /run/kept {SUDOERS}")
    assert runs.take_over(runs.next()).returncode == 0


def test_reading_needs_no_number(runs: Runs) -> None:
    assert runs.host.ssh("cat", RECORD, user="tf-ops", run=None).returncode == 0


def test_copying_a_file_passes_the_gate_and_forwarding_is_refused(runs: Runs) -> None:
    run = runs.taken()
    for number, code in ((run, 0), (run - 1, 255)):
        argv = ["scp", "-F", str(LAB / "ssh_config"), "-o", "ControlPath=none", "-o", present(number)]
        argv += [
            "-i",
            str(runs.host.directory / "login"),
            "/etc/hostname",
            f"tf-deploy@{NAME}:/tmp/run-test/{number}",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert runs.as_root("ls /tmp/run-test").split() == [str(run)]
    forwarded = runs.host.ssh("-o", "ExitOnForwardFailure=yes", "-W", "127.0.0.1:22", run=run)
    assert forwarded.returncode != 0


def test_a_takeover_waits_for_an_older_task_and_lets_nobody_in_before_its_end(runs: Runs) -> None:
    old = runs.taken()
    task = runs.start(
        old, "touch /tmp/run-test/began; until test -e /tmp/run-test/go; do sleep 0.1; done; echo whole"
    )
    runs.wait_for(lambda: "began" in runs.as_root("ls /tmp/run-test"), "the older task began")
    answer: list[subprocess.CompletedProcess[str]] = []
    new = runs.next()
    asking = threading.Thread(target=lambda: answer.append(runs.take_over(new)))
    asking.start()
    runs.wait_for(lambda: runs.lines(RECORD) == [f"{new} acquiring"], "the newer run is recorded")
    assert runs.host.ssh("true", run=old).returncode == 77, "the older run starts nothing more"
    assert runs.host.ssh("true", run=new).returncode == 78, "the newer one nothing yet"
    assert task.poll() is None
    runs.as_root("touch /tmp/run-test/go")
    asking.join()
    assert answer[0].returncode == 0, answer[0].stderr
    assert task.communicate()[0] == "whole\n"
    assert runs.host.ssh("true", run=new).returncode == 0


def test_what_does_not_end_is_killed_with_its_children_of_root_and_no_service_is(runs: Runs) -> None:
    old = runs.taken()
    job = "sudo -n systemd-run --quiet --collect --unit=tf-test-switch sleep infinity"
    task = runs.start(old, f"{ROOT_CHILD.format('/tmp/run-test/root')}; {job}; sudo -n sleep infinity")
    runs.wait_for(lambda: len(runs.lines("/tmp/run-test/root")) > 3, "the root child writes")
    runs.wait_for(lambda: "active" in runs.as_root("systemctl is-active tf-test-switch || true"), "the job")
    assert runs.take_over(runs.next(), seconds=1).returncode == 0
    written = runs.lines("/tmp/run-test/root")
    assert task.wait(PATIENCE_S) != 0
    assert runs.host.ssh("sleep 1", run=runs.latest).returncode == 0
    assert runs.lines("/tmp/run-test/root") == written
    assert runs.as_root("systemctl is-active tf-test-switch") == "active\n"
    assert runs.as_root("systemctl is-system-running || true") == "running\n"


def test_a_child_that_hides_from_the_lock_is_gone_before_the_newer_run_begins(runs: Runs) -> None:
    old = runs.taken()
    assert runs.host.ssh(ROOT_CHILD.format("/tmp/run-test/root"), run=old).returncode == 0
    runs.wait_for(lambda: len(runs.lines("/tmp/run-test/root")) > 3, "the root child writes")
    runs.taken()
    written = runs.lines("/tmp/run-test/root")
    assert runs.host.ssh("sleep 1", run=runs.latest).returncode == 0
    assert runs.lines("/tmp/run-test/root") == written


def test_writes_of_two_runs_never_overlap(runs: Runs) -> None:
    old = runs.taken()
    writing = "while :; do echo {0} >> /tmp/run-test/log; sleep 0.01; done"
    tasks = [runs.start(old, f"sudo -n sh -c '{writing.format(old)}'") for _ in range(3)]
    runs.wait_for(lambda: len(runs.lines("/tmp/run-test/log")) > 20, "the older run writes")
    assert runs.take_over(runs.next(), seconds=2).returncode == 0
    new = runs.latest
    tasks.append(runs.start(new, f"sudo -n sh -c '{writing.format(new)}'"))
    runs.wait_for(lambda: str(new) in runs.lines("/tmp/run-test/log"), "the newer run writes")
    log = runs.lines("/tmp/run-test/log")
    assert log == sorted(log, key=int)
    for task in tasks:
        task.kill()


@pytest.mark.parametrize("record", ["", "x\n", "007 acquired\n", "12 acquired 3\n", None])
def test_without_a_valid_record_nothing_runs_until_root_repairs_it(runs: Runs, record: str | None) -> None:
    run = runs.taken()
    runs.as_root(f"rm {RECORD}" if record is None else f"printf '{record}' > {RECORD}")
    refused = runs.host.ssh("true", run=run)
    assert refused.returncode == 79, refused.stderr
    assert f"as root on its console, {ACQUIRE} --repair {run} 120" in refused.stderr
    assert runs.take_over(runs.next()).returncode == 79
    runs.as_root(f"{ACQUIRE} --repair {runs.latest} 1")
    assert runs.host.ssh("true", run=runs.latest).returncode == 0


def test_a_takeover_that_the_power_cut_short_is_finished_by_asking_again(runs: Runs) -> None:
    run = runs.taken()
    runs.as_root(f"echo {run + 1} acquiring > {RECORD}")
    assert runs.host.ssh("true", run=run).returncode == 77
    assert runs.host.ssh("true", run=run + 1).returncode == 78
    assert runs.take_over(run + 1).returncode == 0
    assert runs.host.ssh("true", run=run + 1).returncode == 0


def test_the_deployment_account_cannot_write_the_record(runs: Runs) -> None:
    run = runs.taken()
    for command in (f"echo 1 acquired > {RECORD}", f"rm -f {RECORD}", "rm -f /var/lib/tenantfleet/run/lock"):
        assert runs.host.ssh(command, run=run).returncode != 0
    inside = runs.host.ssh(f"sudo -n {ACQUIRE} {run + 1} 1", run=run)
    assert (inside.returncode, "ask through the gate" in inside.stderr) == (2, True)


def test_plain_ansible_is_told_who_has_the_host(runs: Runs) -> None:
    run = runs.taken()
    for number, words in (
        (run - 1, f"run {run - 1} is older than run {run}"),
        (None, "no run number was presented"),
    ):
        option = f" -o {present(number)}" if number else ""
        variables = {
            "ansible_user": "tf-deploy",
            "ansible_ssh_private_key_file": str(runs.host.directory / "login"),
            "ansible_ssh_common_args": f"-F {LAB}/ssh_config -o ControlPath=none{option}",
        }
        inventory = runs.host.directory / "plain.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {NAME: variables}}}))
        argv = [
            str(ROOT / ".venv/bin/ansible"),
            "-i",
            str(inventory),
            "all",
            "-b",
            "-m",
            "command",
            "-a",
            "id",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode != 0
        assert words in done.stdout + done.stderr
