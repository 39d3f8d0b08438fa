"""The link beside real neighbours: unix sockets, HTTP servers, files, processes."""

import base64
import contextlib
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from link.command import verified
from link.config import Config, ConfigError, config_of
from link.envelope import EnvelopeError, Json, canonical, opened, private_key, public_pem, seal
from link.health import complaints
from link.observation import figures_of
from link.service import Link
from link.spool import write_whole

TREE = Path(__file__).resolve().parents[1]
STATUS = {"admission": "open", "reason": "", "runs_live": 1, "ratio": 0.5, "counters": {"runs": 7}}
METRICS = '# TYPE x gauge\nselftest_ok 1\nredaction_matches_total{layer="exact",rule="a b"} 3\nbroken nan\n'


class Neighbour(http.server.BaseHTTPRequestHandler):
    """Answers as the wrapper, the proxy and the gateway do."""

    def do_GET(self) -> None:
        answers = {"/v1/status": json.dumps(STATUS), "/metrics": METRICS, "/readyz": "{}"}
        body = answers.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "neighbour"  # a unix socket's client has no address

    def log_message(self, *_: object) -> None:
        """Keep the test's output to what explains a failure."""


@contextlib.contextmanager
def serving(server: socketserver.ThreadingMixIn) -> Iterator[None]:
    server.daemon_threads = True  # an answer that nobody reads must not hold up the end of a test
    assert isinstance(server, socketserver.BaseServer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def lonely(tmp_path: Path) -> Config:
    """A host on which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    (tmp_path / "state/spool").mkdir(parents=True)
    return Config(
        tenant_id="acme",
        interval_s=5,
        state_dir=tmp_path / "state",
        activations_dir=tmp_path / "opt",
        status_socket=tmp_path / "status.sock",
        egress_url=f"http://127.0.0.1:{port}",
        openclaw_url=f"http://127.0.0.1:{port}/readyz",
        clock_file=tmp_path / "synchronized",
    )


def beat(config: Config, key: Ed25519PrivateKey) -> dict[str, object]:
    Link(config, key).beat()
    return dict(opened((config.spool / "heartbeat.json").read_bytes(), key.public_key()))


def test_a_lonely_host_beats_and_says_that_everything_is_down(lonely: Config, key: Ed25519PrivateKey) -> None:
    document = beat(lonely, key)
    assert document["parts"] == {"egress": "down", "wrapper": "down", "openclaw": "down"}
    assert document["admission"] == {"admission": "unknown", "reason": "wrapper: FileNotFoundError"}
    assert (document["self_tests"], document["clock"]) == ({"redaction": False}, {"synchronized": False})
    assert (document["version"], document["tenant_id"], document["sequence"]) == (1, "acme", 1)


def test_a_whole_host_reports_its_parts(lonely: Config, key: Ed25519PrivateKey, tmp_path: Path) -> None:
    current = tmp_path / "opt/egress_proxy/0123456789abcdef"
    current.mkdir(parents=True)
    (current / "code").symlink_to("../../store/" + "a" * 64)
    (tmp_path / "opt/egress_proxy/current").symlink_to("0123456789abcdef")
    lonely.clock_file.touch()
    wrapper = socketserver.ThreadingUnixStreamServer(str(lonely.status_socket), Neighbour)
    proxy = http.server.ThreadingHTTPServer(
        ("127.0.0.1", int(lonely.egress_url.rpartition(":")[2])), Neighbour
    )
    with serving(wrapper), serving(proxy):
        document = beat(lonely, key)
    assert document["parts"] == {"egress": "up", "wrapper": "up", "openclaw": "up"}
    assert document["admission"] == {**STATUS, "ratio": "0.5"}  # no floats in canonical JSON
    assert (document["self_tests"], document["clock"]) == ({"redaction": True}, {"synchronized": True})
    assert document["activations"] == {"egress_proxy": "0123456789abcdef"}
    assert document["digests"] == {"egress_proxy": "a" * 64}
    assert document["counters"] == {
        "wrapper": {"runs": 7},
        "egress": {"selftest_ok": 1, 'redaction_matches_total{layer="exact",rule="a b"}': 3},
    }


@pytest.mark.parametrize(
    "nonsense", [b"", b"[" + b"9" * (1 << 19), b"[1]", b'{"reason":"\\ud800"}', b"[" * 100_000, b'{"n":NaN']
)
def test_a_wrapper_that_talks_nonsense_is_down_and_the_beat_goes_on(
    lonely: Config, key: Ed25519PrivateKey, nonsense: bytes
) -> None:
    class Nonsense(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            with contextlib.suppress(OSError):  # the reader leaves when it has had enough
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + nonsense)

    with serving(socketserver.ThreadingUnixStreamServer(str(lonely.status_socket), Nonsense)):
        document = beat(lonely, key)
    assert document["parts"] == {"egress": "down", "wrapper": "down", "openclaw": "down"}


def test_no_sequence_number_comes_twice_even_after_a_restart(lonely: Config, key: Ed25519PrivateKey) -> None:
    assert [beat(lonely, key)["sequence"] for _ in range(3)] == [1, 2, 3]
    (lonely.state_dir / "sequence").write_text("17\n")
    assert beat(lonely, key)["sequence"] == 18
    (lonely.state_dir / "sequence").write_text("1x\n")
    with pytest.raises(ValueError, match="not a number"):
        Link(lonely, key).beat()


def test_a_full_disk_leaves_the_old_heartbeat_whole(lonely: Config, key: Ed25519PrivateKey) -> None:
    beat(lonely, key)
    before = (lonely.spool / "heartbeat.json").read_bytes()
    (lonely.spool / ".heartbeat.json.new").mkdir()  # root writes past modes, but not over a directory
    with pytest.raises(OSError, match="heartbeat"):
        Link(lonely, key).beat()
    assert (lonely.spool / "heartbeat.json").read_bytes() == before


def test_a_heartbeat_of_another_key_or_another_payload_is_refused(key: Ed25519PrivateKey) -> None:
    envelope = json.loads(seal({"version": 1}, key))
    with pytest.raises(EnvelopeError, match="another key"):
        opened(json.dumps(envelope).encode(), Ed25519PrivateKey.generate().public_key())
    forged = envelope | {"payload": base64.b64encode(b'{"version":2}').decode()}
    with pytest.raises(EnvelopeError, match="does not belong"):
        opened(json.dumps(forged).encode(), key.public_key())
    for broken in (b"", b"[]", b"{}", b'{"payload":"%","signature":"","key_id":""}'):
        with pytest.raises(EnvelopeError, match="not an envelope"):
            opened(broken, key.public_key())


def test_a_signed_payload_that_is_not_canonical_is_refused(key: Ed25519PrivateKey) -> None:
    payload = b'{"b":1, "a":2}'
    envelope = json.loads(seal({}, key)) | {
        "payload": base64.b64encode(payload).decode(),
        "signature": base64.b64encode(key.sign(payload)).decode(),
    }
    with pytest.raises(EnvelopeError, match="canonical"):
        opened(json.dumps(envelope).encode(), key.public_key())


def test_canonical_json_sorts_and_refuses_floats() -> None:
    assert canonical({"b": [1, True, None], "a": "ü"}) == '{"a":"ü","b":[1,true,null]}'.encode()
    with pytest.raises(TypeError, match="float"):
        canonical({"a": [{"b": 0.5}]})  # type: ignore[dict-item]  # the point of the test


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "tenant_id: is missing"),
        ({"tenant_id": ""}, "must not be empty"),
        ({"tenant_id": "acme", "interval_s": 4}, "5 to 300"),
        ({"tenant_id": "acme", "interval_s": 301}, "5 to 300"),
        ({"tenant_id": "acme", "interval_s": True}, "whole number"),
        ({"tenant_id": "acme", "intervals": 30}, "unknown: intervals"),
        ({"tenant_id": "acme", "state_dir": 1}, "must be a text"),
    ],
)
def test_a_configuration_is_judged_before_anything_starts(document: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config_of(document)


def test_only_whole_samples_are_taken_from_metrics() -> None:
    assert figures_of(b'# HELP x 1\na 1\nb{c="d e"} 22\nc 1.5\nd\n \n') == {"a": 1, 'b{c="d e"}': 22}


def test_another_kind_of_key_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="not a private key"):
        private_key(b"-----BEGIN NONSENSE-----")


def test_an_old_heartbeat_is_not_fresh(lonely: Config, key: Ed25519PrivateKey, tmp_path: Path) -> None:
    process_key(tmp_path, key)
    link = Link(lonely, key)
    link.stopping.set()
    link.run()  # writes the public key, and beats no more
    file = lonely.spool / "old.json"
    file.write_bytes(seal({"at": "2026-01-01T00:00:00Z"}, key))
    assert verified(file, lonely.spool / "node_key.pub", fresh=False)
    with pytest.raises(EnvelopeError, match="s old"):
        verified(file, lonely.spool / "node_key.pub", fresh=True)


WELL: dict[str, Json] = {
    "tenant_id": "acme",
    "sequence": 7,
    "admission": {"admission": "open", "reason": ""},
    "parts": {"egress": "up", "wrapper": "up"},
    "self_tests": {"redaction": True},
}


@pytest.mark.parametrize(
    ("ill", "complaint"),
    [
        ({"tenant_id": "other"}, "it is the heartbeat of other, not of acme"),
        ({"admission": {"admission": "closed", "reason": "r"}}, "the wrapper's admission is closed: r"),
        ({"admission": {}}, "the wrapper's admission is unknown: no reason given"),
        ({"parts": {"egress": "up", "openclaw": "down"}}, "openclaw is down"),
        ({"parts": {}}, "it names no part"),
        ({"self_tests": {"redaction": 1}}, "the redaction's self-test is not green"),
        ({"self_tests": None}, "the redaction's self-test is not green"),
    ],
)
def test_each_thing_that_is_not_well_is_said(ill: dict[str, Any], complaint: str) -> None:
    assert complaints(WELL, tenant_id="acme") == []
    assert complaints({**WELL, **ill}, tenant_id="acme") == [complaint]


def test_a_check_waits_for_the_beat_that_says_that_it_is_over(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    file = tmp_path / "heartbeat.json"
    (tmp_path / "node_key.pub").write_bytes(public_pem(key))
    ill = seal({**WELL, "admission": {"admission": "closed", "reason": "digest"}}, key)
    file.write_bytes(ill)
    command = [sys.executable, "-B", str(TREE), "verify", "--well=acme", str(file)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "tf-link: heartbeat 7: the wrapper's admission is closed: digest\n"
    os.mkfifo(file.with_name("looked"))
    file.unlink()
    file.symlink_to("looked")
    with subprocess.Popen([*command, "--within=120"], stdout=subprocess.PIPE, text=True) as waiting:
        file.with_name("looked").write_bytes(ill)  # returns when the check has opened it
        write_whole(file, seal(WELL, key))
        said, _ = waiting.communicate(timeout=120)
    assert (waiting.returncode, json.loads(said)["sequence"]) == (0, 7)


def process_key(directory: Path, key: Ed25519PrivateKey) -> None:
    (directory / "node_key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_the_program_beats_tells_systemd_stops_and_verifies(
    lonely: Config, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    process_key(tmp_path, key)
    config = {
        "tenant_id": "acme",
        "state_dir": str(lonely.state_dir),
        "activations_dir": str(lonely.activations_dir),
        "status_socket": str(lonely.status_socket),
        "egress_url": lonely.egress_url,
        "openclaw_url": lonely.openclaw_url,
    }
    (tmp_path / "link.json").write_text(json.dumps(config))
    command = [sys.executable, "-B", str(TREE)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(60)
        systemd.bind(str(tmp_path / "notify"))
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "CREDENTIALS_DIRECTORY": str(tmp_path),
        }
        with subprocess.Popen(
            [*command, "--config", str(tmp_path / "link.json")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert systemd.recv(256).decode().splitlines()[0] == "READY=1"
            process.terminate()
            assert process.wait(60) == 0, process.communicate()[1]
    heartbeat = lonely.spool / "heartbeat.json"
    assert heartbeat.stat().st_mode & 0o777 == 0o640
    check = subprocess.run(
        [*command, "verify", "--fresh", str(heartbeat)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
    assert json.loads(check.stdout)["sequence"] == 1
    heartbeat.write_bytes(heartbeat.read_bytes().replace(b"a", b"b"))
    refused = subprocess.run(
        [*command, "verify", str(heartbeat)], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
