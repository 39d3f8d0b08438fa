"""redaction_probe against a proxy that speaks HTTP: whatever is not the proof is a doubt."""

import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[3] / "library/redaction_probe.py"
READY = json.dumps({"ready": True, "registry_entries": 4})
METRICS = """# TYPE redaction_matches_total counter
redaction_matches_total{layer="exact",rule="provider.openai"} 3
redaction_matches_total{layer="exact",rule="gateway_token"} 2
redaction_matches_total{layer="entropy",rule="entropy"} 1
# TYPE requests_total counter
requests_total{outcome="answered"} 7
# TYPE registry_entries gauge
registry_entries 4
# TYPE selftest_ok gauge
selftest_ok 1
"""
PASSED = {
    "passed": True,
    "before_agent_run": True,
    "before_tool_call": True,
    "tool_denied": True,
    "admitted": 2,
}


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("redaction_probe", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


redaction_probe = loaded()


class Proxy(http.server.BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    Proxy.answers = {"/readyz": (200, READY), "/metrics": (200, METRICS)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_proxy_that_guards_is_told_in_figures(port: int) -> None:
    assert redaction_probe.probed(port, 4) == {
        "ready": True,
        "registry_entries": 4,
        "selftest_ok": True,
        "matches": {"exact": 5, "entropy": 1},
    }


@pytest.mark.parametrize(
    ("path", "status", "body", "words"),
    [
        ("/readyz", 503, '{"ready": false, "reason": "registry not loaded"}', "registry not loaded"),
        ("/readyz", 200, '{"ready": "yes"}', "does not say"),
        ("/readyz", 200, "[]", "does not say"),
        ("/readyz", 200, "ok", "no JSON"),
        ("/metrics", 500, "", "500"),
        ("/metrics", 200, METRICS.replace("selftest_ok 1", "selftest_ok 0"), "self-test failed"),
        ("/metrics", 200, METRICS.replace("selftest_ok 1", ""), "lack 'selftest_ok'"),
        ("/metrics", 200, METRICS.replace("registry_entries 4", "registry_entries 3"), "fewer than 4"),
        ("/metrics", 200, "", "lack"),
    ],
)
def test_any_doubt_about_the_proxy_is_a_failure(
    port: int, path: str, status: int, body: str, words: str
) -> None:
    Proxy.answers[path] = (status, body)
    with pytest.raises(redaction_probe.DoubtError, match=words):
        redaction_probe.probed(port, 4)


def test_a_proxy_that_is_down_is_a_failure() -> None:
    with pytest.raises(redaction_probe.DoubtError, match="does not answer"):
        redaction_probe.probed(1, 0)


def test_a_canary_turn_counts_when_each_part_of_it_is_proved() -> None:
    assert redaction_probe.verdict_in("warming up\n" + json.dumps(PASSED) + "\n", 0) == PASSED


@pytest.mark.parametrize("lacking", ["passed", "before_agent_run", "before_tool_call", "tool_denied"])
def test_a_canary_turn_that_lacks_a_proof_is_a_failure(lacking: str) -> None:
    with pytest.raises(redaction_probe.DoubtError, match=lacking):
        redaction_probe.verdict_in(json.dumps({**PASSED, lacking: False}), 0)


@pytest.mark.parametrize(
    ("output", "code"), [("", 1), ("null", 0), (json.dumps(PASSED), 1), ("Traceback", 1)]
)
def test_a_prober_without_a_good_end_is_a_failure(output: str, code: int) -> None:
    with pytest.raises(redaction_probe.DoubtError):
        redaction_probe.verdict_in(output, code)
