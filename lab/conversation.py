"""Speaking with a tenant's agent on a lab host, and reading what its model was sent."""

import json
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.fleet import ROOT
from lab.state import Lab

_OPENCLAW = ("/opt/node/bin/node", "/opt/openclaw/node_modules/openclaw/openclaw.mjs")
_TURN_TIMEOUT_S = 240


@dataclass(frozen=True)
class Turn:
    """One agent turn: how its command ended, and everything that it printed."""

    exit_code: int
    output: str


@dataclass(frozen=True)
class Agent:
    """The agent of the tenant on a host."""

    lab: Lab
    host: str

    def say(self, message: str, *, script: Sequence[Mapping[str, Any]] | None = None) -> Turn:
        """Send a user's message through the real gateway and wait for the agent's answer.

        `script` is what the lab's model will answer, step by step: {"tool", "arguments"} or {"text"}.
        """
        if script is not None:
            message = f"{message} [[script: {json.dumps(script)}]]"
        session = f"agent:main:lab-{secrets.token_hex(4)}"
        argv = [
            "agent",
            "--agent",
            "main",
            "--session-key",
            session,
            "--json",
            "--timeout",
            str(_TURN_TIMEOUT_S),
        ]
        done = self.inside(*_OPENCLAW, *argv, "--message", message, timeout_s=_TURN_TIMEOUT_S + 60)
        return Turn(exit_code=done.returncode, output=done.stdout + done.stderr)

    def inside(self, *argv: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the gateway's container, as the agent's own account."""
        return self.on_host(
            "/usr/bin/podman", "exec", "--user", "openclaw", "openclaw", *argv, timeout_s=timeout_s
        )

    def on_host(
        self, *argv: str, timeout_s: float = 120, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the host's root, without SSH."""
        command = [str(ROOT / ".venv/bin/lab"), "exec", self.host, "--", *argv]
        return subprocess.run(
            command, input=stdin, check=False, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT
        )


@dataclass(frozen=True)
class ModelRecord:
    """Every byte that the lab's model server was sent, a file a request."""

    folder: Path

    def requests(self) -> list[Path]:
        return sorted(self.folder.glob("*.http"))

    def since(self, before: int) -> list[bytes]:
        """The requests that came after the first `before` ones."""
        return [path.read_bytes() for path in self.requests()[before:]]
