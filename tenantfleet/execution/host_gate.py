"""Words with a host's run gate: give the host to a run, and ask whether it still is that run's."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tenantfleet.model.errors import EnvironmentMissingError

if TYPE_CHECKING:
    from pathlib import Path

OLDER_TASKS_GET_S = 120  # then the host kills them: a package or an image takes less
_KILL_TAKES_S = 60
_NOT_ENROLLED = 73  # run-acquire, docs/contracts/host.md
_SSH_ITSELF = 255  # ssh(1): exit status of the remote command, or 255 if an error occurred
_REFUSALS = frozenset({74, 75, 76, 77, 78, 79})  # run-gate and run-acquire, docs/contracts/host.md
_DIES_WITH_DRIVER = ("setpriv", "--pdeathsig", "KILL", "--", "ssh")
_PACKAGES = {"ssh": "openssh-client", "setpriv": "util-linux"}


class Answer(StrEnum):
    """What became of a command that was sent through the gate."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    ENROLMENT_TAKEN_BACK = "enrolment_taken_back"
    LOGIN_REFUSED = "login_refused"
    WRONG_HOST_KEY = "wrong_host_key"
    UNREACHABLE = "unreachable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The way to one host's gate.

    Attributes:
        address: IP address.
        account: the deployment account.
        key_file: private key, its certificate beside it.
        ssh_arguments: what to believe and what to present, as Ansible is told it too.
    """

    address: str
    account: str
    key_file: Path
    ssh_arguments: str

    def take_over(self, run_number: int) -> tuple[Answer, str]:
        """Give the host to a run: from then on older runs are refused, and none of their tasks is alive.

        Waits for tasks of older runs, at most `OLDER_TASKS_GET_S`. Asking again changes nothing.

        Returns:
            the answer, and why not in the host's or ssh's own words.

        Raises:
            EnvironmentMissingError: `ssh.missing`.
        """
        command = f"run-acquire {run_number} {OLDER_TASKS_GET_S}"
        answer, words = self._send(command, timeout_s=OLDER_TASKS_GET_S + _KILL_TAKES_S)
        if answer is Answer.UNREACHABLE:  # also when a run that came in between ended our session
            answer, words = self._send(command, timeout_s=OLDER_TASKS_GET_S + _KILL_TAKES_S)
        return answer, words

    def still_ours(self) -> tuple[Answer, str]:
        """Pass the gate and do nothing; errors as of `take_over`."""
        return self._send("true", timeout_s=30)

    def _send(self, command: str, *, timeout_s: int) -> tuple[Answer, str]:
        for program, package in _PACKAGES.items():
            if shutil.which(program) is None:
                raise EnvironmentMissingError(
                    f"this machine has no {program} program",
                    code="ssh.missing",
                    hint=f"apt-get install {package}",
                )
        words = [*shlex.split(self.ssh_arguments), "-o", "BatchMode=yes", "-o", "ControlPath=none"]
        where = ["-i", str(self.key_file), "-l", self.account, self.address]
        try:
            done = subprocess.run(
                [*_DIES_WITH_DRIVER, *words, *where, command],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return Answer.UNREACHABLE, f"no answer within {timeout_s} s"
        said = (done.stderr.strip().splitlines() or [""])[-1]
        return _answer(done.returncode, done.stderr), said


def _answer(exit_code: int, stderr: str) -> Answer:
    if exit_code == 0:
        return Answer.ACCEPTED
    if exit_code == _NOT_ENROLLED:
        return Answer.ENROLMENT_TAKEN_BACK
    if exit_code in _REFUSALS:
        return Answer.REFUSED
    if "Host key verification failed" in stderr:
        return Answer.WRONG_HOST_KEY
    if "Permission denied" in stderr:
        return Answer.LOGIN_REFUSED
    return Answer.UNREACHABLE if exit_code == _SSH_ITSELF else Answer.FAILED
