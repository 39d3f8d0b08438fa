"""The canary turn, from outside: one agent turn through the real gateway that must be seen and denied."""

import http.client
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OPENCLAW = ("/opt/node/bin/node", "/opt/openclaw/node_modules/openclaw/openclaw.mjs")
SHORT_S = 10.0
READY_S = 3.0
RETRY_S = 1.0
KILL_AFTER_S = 5.0
TEXT_KEPT = 300


class ProbeError(Exception):
    """The daemon or the gateway is not there in time."""


@dataclass(frozen=True)
class Verdict:
    """What the daemon saw of one canary, and how the turn's command ended."""

    passed: bool
    before_agent_run: bool = False
    before_tool_call: bool = False
    tool_denied: bool = False
    admitted: int = 0
    exit_code: int | None = None
    error: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SHORT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SHORT_S)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Prober:
    """Speaks to the daemon as root; ``enter`` is the prefix that runs a command in the container."""

    status_socket: Path
    enter: Sequence[str]
    gateway_port: int = 18789

    def probe(self, *, timeout_s: float) -> Verdict:
        """Run canary turns until one reached the daemon or the time is over."""
        begun = time.monotonic()
        deadline = begun + timeout_s
        try:
            self._wait_for_gateway(deadline)
            verdict = self._turn(deadline)
            while not verdict.passed and verdict.admitted == 0 and time.monotonic() + RETRY_S < deadline:
                time.sleep(RETRY_S)
                verdict = self._turn(deadline)
        except (ProbeError, OSError, http.client.HTTPException) as error:
            verdict = Verdict(passed=False, error=str(error))
        return Verdict(**{**asdict(verdict), "seconds": round(time.monotonic() - begun, 1)})

    def status(self) -> Mapping[str, Any]:
        """Return the daemon's status document.

        Raises:
            ProbeError: the daemon answers with something else.
            OSError: there is no daemon.
        """
        return self._ask("GET", "/v1/status", expected=200)

    def _turn(self, deadline: float) -> Verdict:
        canary = self._ask("POST", "/v1/canaries", expected=201)["canary"]
        remaining = max(1, int(deadline - time.monotonic()))
        session = f"agent:main:canary-{secrets.token_hex(4)}"
        turn = ("agent", "--agent", "main", "--session-key", session, "--json", "--timeout", str(remaining))
        argv = [*self.enter, *OPENCLAW, *turn, "--message", canary]
        exit_code, error = _run(argv, timeout_s=remaining + KILL_AFTER_S)
        record = self._ask("GET", f"/v1/canaries/{canary}", expected=200)
        return Verdict(exit_code=exit_code, error="" if record["passed"] else error, **record)

    def _wait_for_gateway(self, deadline: float) -> None:
        """Readiness proves nothing about the guard; it only says when a turn is worth its time."""
        while not self._gateway_ready():
            if time.monotonic() + RETRY_S >= deadline:
                raise ProbeError("the gateway is not ready")
            time.sleep(RETRY_S)

    def _gateway_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway_port, timeout=READY_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ask(self, method: str, target: str, *, expected: int) -> dict[str, Any]:
        connection = _UnixConnection(self.status_socket)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != expected:
            raise ProbeError(f"{method} {target.partition('?')[0]}: {response.status} {body[:TEXT_KEPT]!r}")
        answer: dict[str, Any] = json.loads(body)
        return answer


def _run(argv: Sequence[str], *, timeout_s: float) -> tuple[int | None, str]:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return None, f"the turn took longer than {timeout_s:.0f} s"
    text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return done.returncode, text[-TEXT_KEPT:]
