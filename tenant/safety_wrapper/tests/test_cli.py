"""The tree as a host runs it: isolated, and but for the daemon without any library."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safety_wrapper import cli
from safety_wrapper.config import parse_config
from safety_wrapper.measurement import hash_plugin
from safety_wrapper.notify import notify
from safety_wrapper.strict import InvalidDocumentError

TREE = Path(__file__).resolve().parents[1]
POLICY = TREE.parent / "policy" / "policy.json"


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    # -S keeps the libraries of the tests' environment away.
    command = [sys.executable, "-I", "-B", "-S", str(TREE), *argv]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_hash_plugin_needs_no_library() -> None:
    done = run("hash-plugin", str(TREE / "plugin"))
    assert (done.stdout.strip(), done.stderr) == (hash_plugin(TREE / "plugin"), "")


def test_the_stock_policy_is_valid_and_an_invalid_one_is_refused_in_words(tmp_path: Path) -> None:
    assert json.loads(run("check-policy", str(POLICY)).stdout)["revision"] >= 1
    (tmp_path / "policy.json").write_text('{"version": 1}')
    done = run("check-policy", str(tmp_path / "policy.json"))
    assert (done.returncode, done.stdout) == (78, "")
    assert "policy lacks ask_timeout_s, default" in done.stderr


def test_a_canary_without_a_daemon_or_gateway_fails_and_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])  # accepts and says nothing: no gateway
        missing = str(tmp_path / "status.sock")
        done = run("canary", "--timeout", "1", "--gateway-port", port, "--status-socket", missing)
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False
    assert json.loads(done.stdout)["error"]


def test_a_probe_without_a_daemon_fails(tmp_path: Path) -> None:
    assert run("probe", "--timeout", "1", "--status-socket", str(tmp_path / "none")).returncode == 1


@pytest.mark.parametrize(
    ("state", "running"),
    [
        ("active", True),
        ("activating", True),
        ("reloading", True),
        ("inactive", False),
        ("failed", False),
        ("", False),
    ],
)
def test_a_gateway_on_its_way_up_is_probed_like_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, *, running: bool
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {state}\n[ '{state}' = active ] || exit 3\n")
    systemctl.chmod(0o755)
    monkeypatch.setattr(cli, "SYSTEMCTL", str(systemctl))
    assert cli.runs("openclaw.service") is running


def test_the_daemon_without_its_configuration_does_not_start(tmp_path: Path) -> None:
    assert "needs --config" in run().stderr
    assert run("--config", str(tmp_path / "none")).returncode == 78


def test_a_minimal_configuration_is_the_contracts() -> None:
    config = parse_config({"version": 1, "plugin_sha256": "0" * 64})
    assert (config.gateway_uid, config.egress_uid, config.link_uid) == (2101, 2102, 2104)
    assert config.sockets.plugin == Path("/run/tf-wrapper/plugin/plugin.sock")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"plugin_sha256": "0" * 63},
        {"plugin_sha256": "G" * 64},
        {"surprise": 1},
        {"gateway_uid": 0},
        {"gateway_uid": "2101"},
        {"policy": "relative"},
        {"policy": "/a/../b"},
        {"sockets": {"plugin": "/a"}},
        {"sockets": None},
    ],
)
def test_a_configuration_that_breaks_the_contract_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidDocumentError):
        parse_config({"version": 1, "plugin_sha256": "0" * 64, **change})


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_that_the_daemon_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1", "STATUS=up")
        assert listener.recv(100) == b"READY=1\nSTATUS=up"
