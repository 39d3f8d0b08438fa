"""One lab host on which a test calls a module of library/ as the driver does: ansible-runner over SSH."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab_hosts import LAB, ROOT
from tests.waiting import wait_until

PROGRAMS = ROOT / "roles/release_store/files"


@dataclass(frozen=True, slots=True)
class Result:
    """What the one task of a run returned, and everything that the run left on the controller."""

    task: dict[str, Any]
    stdout: str
    folder: Path
    failed: bool

    @property
    def changed(self) -> bool:
        assert not self.failed, self.stdout
        return bool(self.task["changed"])

    @property
    def message(self) -> str:
        return str(self.task["msg"])


@dataclass(frozen=True, slots=True)
class ModuleHost:
    name: str
    folder: Path

    def ssh(self, command: str, *, check: bool = True, stdin: bytes = b"") -> str:
        argv = ["ssh", "-F", str(LAB / "ssh_config"), self.name, f"sudo -n sh -c {quoted(command)}"]
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=120)
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode(errors="replace").strip()

    def write(self, path: str, content: str, mode: str = "0755") -> None:
        self.ssh(f"mkdir -p {Path(path).parent}; cat > {path}; chmod {mode} {path}", stdin=content.encode())

    def install_programs(self) -> None:
        for program in sorted(PROGRAMS.iterdir()):
            if program.suffix == ".service":
                self.write(f"/etc/systemd/system/{program.name}", program.read_text(), "0644")
                self.ssh(f"systemctl enable --quiet {program.name}")
            elif program.is_file():
                self.write(f"/usr/local/lib/tenantfleet/{program.name}", program.read_text())

    def play(self, task: dict[str, Any], *options: str) -> list[str]:
        """Lay out a run of one task; the command that runs it leaves its traces below its third word."""
        run = self.folder / uuid.uuid4().hex
        for part in ("project", "inventory"):
            (run / part).mkdir(parents=True)
        play = [{"hosts": "all", "gather_facts": False, "become": True, "tasks": [{"name": "call", **task}]}]
        (self.folder / "ansible.cfg").touch()
        (run / "project/play.yml").write_text(json.dumps(play))
        connection = {
            "ansible_ssh_common_args": f"-F {LAB / 'ssh_config'}",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        (run / "inventory/hosts.json").write_text(json.dumps({"all": {"hosts": {self.name: connection}}}))
        runner = str(Path(sys.executable).parent / "ansible-runner")
        command = [runner, "run", str(run), "-p", "play.yml", "-i", "run"]
        return [*command, f"--cmdline={' '.join(options)}"] if options else command

    def environment(self, pipelining: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"ANSIBLE_LIBRARY": str(ROOT / "library"), "ANSIBLE_PIPELINING": pipelining, "PATH": path}
        settings["ANSIBLE_INJECT_INVOCATION"] = (
            "1"  # the arguments in every result: the worst place for a secret
        )
        return {**os.environ, **settings, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")}

    def call(self, task: dict[str, Any], *options: str, pipelining: str = "1") -> Result:
        """Run one task to its end."""
        command = self.play(task, *options)
        environment = self.environment(pipelining)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        return self.result(Path(command[2]), done.stdout + done.stderr)

    def result(self, run: Path, stdout: str) -> Result:
        events = [json.loads(path.read_text()) for path in (run / "artifacts/run/job_events").glob("*.json")]
        ends = {"runner_on_ok", "runner_on_failed", "runner_on_unreachable"}
        found = [event for event in events if event["event"] in ends]
        assert len(found) == 1, stdout
        failed = found[0]["event"] != "runner_on_ok"
        return Result(task=found[0]["event_data"]["res"], stdout=stdout, folder=run, failed=failed)

    def wait_for(self, condition: Callable[[], object], what: str, deadline_s: float = 60) -> None:
        wait_until(
            condition,
            what=what,
            within_s=deadline_s,
            story=lambda: self.ssh("journalctl -n 60 --no-pager", check=False),
        )


def quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"
