from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantfleet.execution.events import RunEvent, TaskEnded
from tenantfleet.model.outcome import HostState
from tenantfleet.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantfleet.model.outcome import RunOutcome

    Run = Callable[..., RunOutcome]

CANARY = "canary-4f1c77-Zb9"


def test_a_host_that_came_through_the_last_play_is_ok_and_its_plays_are_named(run: Run) -> None:
    outcome = run(
        """
- {name: Enrol, hosts: all, gather_facts: false, tasks: [{name: One, ansible.builtin.debug: {msg: hello}}]}
- name: Provision
  hosts: all
  gather_facts: false
  tasks: [{name: Two, ansible.builtin.command: {argv: ["true"]}}]
""",
        "a",
        last_play="Provision",
    )
    assert outcome.ok, outcome
    assert outcome.host("a").finished_plays == ("Enrol", "Provision")
    assert outcome.host("a").changed == 1


def test_no_host_matched_is_an_error_and_nobody_was_attempted(run: Run) -> None:
    outcome = run("- {hosts: nobody, tasks: [{ansible.builtin.debug: {msg: x}}]}", "a")
    assert "no host matched" in outcome.error
    assert outcome.host("a").state is HostState.NOT_ATTEMPTED


def test_hosts_that_the_run_never_came_to_are_not_attempted(run: Run) -> None:
    outcome = run(
        """
- hosts: all
  gather_facts: false
  serial: 1
  any_errors_fatal: true
  tasks: [{name: Refuse, ansible.builtin.fail: {msg: refused}}]
""",
        "a",
        "b",
        "c",
    )
    assert [host.state for host in outcome.hosts] == [
        HostState.FAILED,
        HostState.NOT_ATTEMPTED,
        HostState.NOT_ATTEMPTED,
    ], outcome
    assert (outcome.host("a").task, outcome.host("a").reason) == ("Refuse", "refused")


def test_a_host_that_was_well_when_the_run_was_given_up_is_not_ok(run: Run) -> None:
    outcome = run(
        """
- hosts: all
  gather_facts: false
  max_fail_percentage: 0
  tasks:
    - {name: Break one, ansible.builtin.fail: {msg: no}, when: inventory_hostname == 'a'}
    - {name: Never reached, ansible.builtin.debug: {msg: x}}
""",
        "a",
        "b",
    )
    assert outcome.host("b").state is HostState.FAILED, outcome
    assert "given up" in outcome.host("b").reason


def test_an_unreachable_host_is_told_from_a_failed_one(run: Run) -> None:
    outcome = run(
        "- {hosts: all, gather_facts: false, tasks: [{ansible.builtin.command: {argv: ['true']}}]}",
        "a",
        variables={
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": 1,
            "ansible_ssh_common_args": "-F none -o ConnectTimeout=2",
        },
    )
    assert outcome.host("a").state is HostState.UNREACHABLE, outcome


def test_a_rescued_host_that_ends_in_a_failure_failed(run: Run) -> None:
    outcome = run(
        """
- hosts: all
  gather_facts: false
  tasks:
    - block: [{name: Break, ansible.builtin.fail: {msg: broken}}]
      rescue: [{name: Report, ansible.builtin.fail: {msg: was rolled back}}]
""",
        "a",
    )
    assert outcome.host("a").state is HostState.FAILED
    assert outcome.host("a").reason == "was rolled back"


def test_a_rescued_host_that_went_on_is_ok(run: Run) -> None:
    outcome = run(
        """
- hosts: all
  gather_facts: false
  tasks:
    - block: [{name: Break, ansible.builtin.fail: {msg: broken}}]
      rescue: [{name: Go on, ansible.builtin.debug: {msg: fine}}]
""",
        "a",
    )
    assert outcome.ok, outcome


def test_a_playbook_that_cannot_be_parsed_is_an_error_with_ansibles_own_words(run: Run) -> None:
    outcome = run("- {hosts: all, nonsense: true}", "a")
    assert "nonsense" in outcome.error, outcome
    assert outcome.host("a").state is HostState.NOT_ATTEMPTED


def test_a_cancelled_run_leaves_no_host_ok(run: Run) -> None:
    seen: list[RunEvent] = []
    outcome = run(
        """
- hosts: all
  gather_facts: false
  tasks:
    - {name: First, ansible.builtin.debug: {msg: x}}
    - {name: Long, ansible.builtin.command: {argv: [sleep, "300"]}}
""",
        "a",
        on_event=seen.append,
        should_cancel=lambda: any(isinstance(event, TaskEnded) for event in seen),
    )
    assert outcome.error == "the run was cancelled"
    assert outcome.host("a").state is HostState.FAILED


def test_a_listener_that_breaks_stops_the_run(run: Run) -> None:
    def refuse(event: RunEvent) -> None:
        if isinstance(event, TaskEnded):
            raise LookupError("the listener broke")  # noqa: TRY004 - no type is wrong here

    with pytest.raises(LookupError):
        run(
            """
- hosts: all
  gather_facts: false
  tasks:
    - {name: First, ansible.builtin.debug: {msg: x}}
    - {name: Long, ansible.builtin.command: {argv: [sleep, "300"]}}
""",
            "a",
            on_event=refuse,
        )


def test_a_secret_is_found_nowhere_after_a_run_that_failed_with_it(run: Run, tmp_path: Path) -> None:
    seen: list[RunEvent] = []
    outcome = run(
        """
- hosts: all
  gather_facts: false
  tasks:
    - name: Show it
      ansible.builtin.debug: {msg: "{{ lookup('ansible.builtin.file', secret_path) }}"}
    - name: Fail with it
      ansible.builtin.fail: {msg: "x{{ lookup('ansible.builtin.file', secret_path) }}x"}
""",
        "a",
        secrets=(Secret(CANARY),),
        secret_files={"secret_path": Secret(CANARY)},
        on_event=seen.append,
    )
    assert outcome.host("a").reason == "x[secret]x"
    assert CANARY not in repr(seen)
    assert CANARY not in repr(outcome)
    places = [tmp_path, Path("/dev/shm"), Path.home() / ".ansible"]
    left = [
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert not left
