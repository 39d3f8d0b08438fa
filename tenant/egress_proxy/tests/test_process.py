"""The program as systemd runs it: command line, credentials directory, signals, log."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress_world import BEARER, DEADLINE_S, PATH, SECRET, configuration, leaks, write_credentials

TREE = Path(__file__).resolve().parents[1]


@dataclass
class Process:
    popen: "subprocess.Popen[bytes]"
    url: str
    log: Path
    config_file: Path

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=DEADLINE_S) as response:  # noqa: S310 -- loopback
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.popen.poll() is None, self.log.read_text()
            time.sleep(0.02)


def start(tmp_path: Path, **changes: object) -> "subprocess.Popen[bytes]":
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(configuration(tmp_path, "http://127.0.0.1:1/v1", **changes)))
    write_credentials(tmp_path / "credentials")
    with (tmp_path / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-B", str(TREE), "--config", str(config_file)],
            env={**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")},
            stderr=log,
        )


@contextlib.contextmanager
def running(tmp_path: Path) -> Iterator[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    popen = start(tmp_path, listen=f"127.0.0.1:{port}")
    process = Process(popen, f"http://127.0.0.1:{port}", tmp_path / "log", tmp_path / "config.json")
    try:
        process.until(lambda: process.get("/readyz")[0] != 0)
        yield process
    finally:
        popen.kill()
        popen.wait()


def test_it_is_ready_reloads_closes_on_a_bad_file_and_stops(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        assert process.get("/readyz") == (200, {"ready": True, "registry_entries": 2})
        good = process.config_file.read_text()
        process.config_file.write_text(good.replace('"version": 1', '"version": 2'))
        process.popen.send_signal(signal.SIGHUP)
        process.until(lambda: process.get("/readyz")[0] == 503)
        assert "version 1 is required" in process.get("/readyz")[1]["reason"]
        process.config_file.write_text(good.replace('"upstream_timeout_s": 10', '"upstream_timeout_s": 11'))
        process.popen.send_signal(signal.SIGHUP)
        process.until(lambda: "restart" in str(process.get("/readyz")[1].get("reason")))
        process.config_file.write_text(good)
        process.popen.send_signal(signal.SIGHUP)
        process.until(lambda: process.get("/readyz")[0] == 200)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(DEADLINE_S) == 0


def test_its_log_holds_no_word_of_a_request(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        address = process.url.removeprefix("http://").split(":")
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": SECRET}]}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        for request in (
            f"{head}Authorization: Bearer {BEARER}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body,
            f"GET /gateway-token-of-the-test-77 HTTP/9.9\r\n\x00{SECRET}\r\n\r\n".encode(),
            f"{head}Authorization: Bearer {BEARER}\r\nContent-Length: {len(SECRET.encode())}\r\n\r\n".encode()
            + SECRET.encode(),
        ):
            with socket.create_connection((address[0], int(address[1])), DEADLINE_S) as connection:
                connection.sendall(request)
                while connection.recv(4096):
                    pass
        process.until(lambda: "refused" in process.log.read_text())
        log = process.log.read_bytes()
        assert b"not_admitted" in log
        assert leaks(log) == []
        assert b"gateway-token" not in log
        assert BEARER.encode() not in log


def test_a_configuration_that_is_not_understood_stops_the_start(tmp_path: Path) -> None:
    popen = start(tmp_path, listen="0.0.0.0:18080")
    assert popen.wait(DEADLINE_S) == 78, "systemd would try again and again"
    assert (tmp_path / "log").read_text().startswith("egress_proxy: listen: refused")
