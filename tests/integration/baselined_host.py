"""One lab host under `roles/baseline`, converged through ansible-playbook as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tests.lab_hosts import LAB, ROOT, fresh_host, lab
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = 1


def present(run: int) -> str:
    """What ssh is told with -o, so that the host's gate sees the run's number."""
    return f"SetEnv=TENANTFLEET_RUN_NUMBER={run}"


PLAY = """
- hosts: all
  gather_facts: false
  become: true
  roles: [baseline]
  post_tasks:
    - name: Hand the resolved table to the test
      ansible.builtin.copy:
        content: "{{ {'rows': __baseline_egress_rows, 'uids': __baseline_uids} | to_json }}"
        dest: "{{ playbook_dir }}/rows.json"
        mode: "0644"
      delegate_to: localhost
      become: false
      check_mode: false
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    returncode: int
    output: str

    def count(self, word: str) -> int:
        """Return a figure of the recap's only line, as in `changed=3`."""
        recap = self.output.rpartition("PLAY RECAP")[2]
        return int(recap.partition(f"{word}=")[2].split()[0])


@dataclass(frozen=True, kw_only=True)
class BaselinedHost:
    """A host's name in the lab, a directory of our own, and what the role is told."""

    name: str
    directory: Path
    variables: dict[str, Any] = field(default_factory=dict)

    def make_authority(self, name: str = "ca") -> str:
        """Make an SSH authority that certifies our key for tf-deploy and tf-ops; return its public line."""
        authority, key = self.directory / name, self.directory / "login"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", authority], check=True)
        return authority.with_suffix(".pub").read_text().strip()

    def certify(self, *, principals: str = "tf-deploy,tf-ops", authority: str = "ca") -> None:
        key = self.directory / "login.pub"
        subprocess.run(
            [
                "ssh-keygen",
                "-q",
                "-s",
                self.directory / authority,
                "-I",
                "test",
                "-n",
                principals,
                "-V",
                "-5m:+2h",
                key,
            ],
            check=True,
        )

    def converge(self, *, user: str = "tf-deploy", check: bool = False, **variables: object) -> Run:
        """Apply the role as `user`; further variables win over everything, as `-e` does."""
        key = LAB / "keys/client" if user == "debian" else self.directory / "login"
        inventory = {
            "all": {
                "hosts": {self.name: {}},
                "vars": {
                    "ansible_user": user,
                    "ansible_ssh_private_key_file": str(key),
                    "ansible_ssh_common_args": f"-F {LAB}/ssh_config -o {present(RUN)}",
                    "baseline_run_number": RUN,
                    "baseline_proof_key_path": str(self.directory / "login"),
                    **self.variables,
                },
            }
        }
        (self.directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
        (self.directory / "play.yml").write_text(PLAY)
        argv = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(self.directory / "inventory.yml")]
        argv += ["--check", "--diff"] if check else []
        argv += ["-e", json.dumps(variables), str(self.directory / "play.yml")]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        # a control socket of our own: its path has a limit of some hundred characters
        environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(self.directory / "cp")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        return Run(returncode=done.returncode, output=done.stdout + done.stderr)

    def ssh(
        self, *command: str, user: str = "tf-deploy", run: int | None = RUN, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Log in over a connection of its own, sharing nothing with a session that is still open."""
        key = LAB / "keys/client" if user == "debian" else self.directory / "login"
        argv = ["ssh", "-F", str(LAB / "ssh_config"), "-o", "ControlPath=none", "-o", "BatchMode=yes"]
        argv += ["-o", present(run)] if run else []
        argv += ["-o", "ConnectTimeout=5", "-i", str(key), f"{user}@{self.name}", *command]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=300)

    def python(self, program: str, *arguments: str) -> Any:  # noqa: ANN401 - what the program printed as JSON
        """Run a program as root on the host and return the JSON that it prints."""
        done = self.ssh("sudo", "-n", "/usr/bin/python3", "-", *arguments, stdin=program)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def wait_for_login(self, user: str, within_s: float) -> float:
        """Return the seconds until a fresh login and sudo work."""
        start = time.monotonic()
        wait_until(
            lambda: self.ssh("sudo -n true", user=user).returncode == 0,
            what=f"a login of {user}",
            within_s=within_s,
        )
        return time.monotonic() - start


@contextmanager
def enrolled_host(name: str, directory: Path) -> Iterator[BaselinedHost]:
    """A fresh host that this run has enrolled, and that only the lab's own network may speak to."""
    fresh_host(name)
    info = json.loads(lab("info", "--json"))
    gateways = [info["gateway"], info["gateway6"]]
    host = BaselinedHost(name=name, directory=directory)
    host.variables.update(
        baseline_ssh_user_ca=[host.make_authority()],
        baseline_admin_networks=[info["subnet"], info["subnet6"]],
        baseline_destinations={"resolvers": {"addresses": gateways, "ports": [53]}},
    )
    host.certify()
    run = host.converge(user="debian")
    assert run.returncode == 0, run.output
    yield host
    lab("down", name)
