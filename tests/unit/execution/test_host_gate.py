"""What the driver hears from a host's gate: the real scripts, behind an ssh that stays on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantfleet.execution.host_gate import Answer, Gate
from tenantfleet.model.errors import EnvironmentMissingError
from tests.unit.gate_host import GateHost, install_ssh

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "127.0.0.1"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GateHost:
    install_ssh(tmp_path, monkeypatch)
    return GateHost(tmp_path / ADDRESS)


def gate(tmp_path: Path, run_number: int) -> Gate:
    return Gate(
        address=ADDRESS,
        account="tf-deploy",
        key_file=tmp_path / "key",
        ssh_arguments=f"-F none -o SetEnv=TENANTFLEET_RUN_NUMBER={run_number}",
    )


def test_the_newest_run_has_the_host_and_an_older_one_hears_which(host: GateHost, tmp_path: Path) -> None:
    older, newer = gate(tmp_path, 4), gate(tmp_path, 7)
    assert older.take_over(4)[0] is Answer.ACCEPTED
    assert older.still_ours()[0] is Answer.ACCEPTED
    assert newer.take_over(7)[0] is Answer.ACCEPTED
    for answer, words in (older.still_ours(), older.take_over(4)):
        assert answer is Answer.REFUSED
        assert "run 4 is older than run 7, which has this host" in words
    assert host.record() == "7 acquired\n"


def test_a_host_without_a_valid_record_is_refused_and_not_taken_for_a_new_one(
    host: GateHost, tmp_path: Path
) -> None:
    (host.state / "number").write_text("nonsense")
    answer, words = gate(tmp_path, 4).take_over(4)
    assert answer is Answer.REFUSED
    assert "--repair 4 120" in words


@pytest.mark.parametrize(
    ("enrolled", "answer", "words"),
    [(True, Answer.ACCEPTED, ""), (False, Answer.ENROLMENT_TAKEN_BACK, "enrol it again by first contact")],
)
def test_a_change_that_nobody_proved_is_taken_back_and_an_enrolment_is_named(
    host: GateHost, tmp_path: Path, *, enrolled: bool, answer: Answer, words: str
) -> None:
    host.arm(enrolled=enrolled, guard=f"[ $1 = revert ] && rm {host.root}/lockout/armed.json")
    said, why = gate(tmp_path, 4).take_over(4)
    assert (said, words in why) == (answer, True), why
    assert not (host.root / "lockout/armed.json").exists()
    assert host.record() == "4 acquired\n"


def test_a_change_that_cannot_be_taken_back_keeps_the_gate_shut(host: GateHost, tmp_path: Path) -> None:
    host.arm(enrolled=True, guard="echo no room >&2; exit 1")
    answer, words = gate(tmp_path, 4).take_over(4)
    assert answer is Answer.REFUSED
    assert "cannot be taken back (no room): reboot the host" in words
    assert host.record() == "4 acquiring\n"


def test_a_machine_without_an_ssh_program_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMissingError) as caught:
        gate(tmp_path, 1).take_over(1)
    assert caught.value.code == "ssh.missing"
