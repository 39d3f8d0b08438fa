"""Ansible module `redaction_probe`: ask the egress proxy, and a whole agent turn, whether they guard."""

import http.client
import json
import subprocess
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

PROBER = ("/usr/bin/python3", "-I", "-B", "/opt/tenantfleet/safety_wrapper/current/code", "canary")
ANSWER_LIMIT = 1 << 20  # bytes
ANSWER_S = 10.0
GRACE_S = 30  # the prober keeps its own deadline; this is for one that does not
TURN_PROOFS = ("passed", "before_agent_run", "before_tool_call", "tool_denied")


class DoubtError(Exception):
    """Something that is not the proof that was asked for."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Gauges and counters of the proxy; `matches`: redactions since its start by layer."""

    registry_entries: int
    selftest_ok: bool
    matches: dict[str, int]


def metrics_in(text: str) -> Metrics:
    """Read the three metrics out of Prometheus' text format; DoubtError when a gauge is not there."""
    gauges: dict[str, int] = {}
    matches: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("#") or not value.isdigit():
            continue
        metric, _, labels = name.partition("{")
        if metric == "redaction_matches_total":
            layer = labels.partition('layer="')[2].partition('"')[0]
            matches[layer] = matches.get(layer, 0) + int(value)
        else:
            gauges[name] = int(value)
    try:
        return Metrics(gauges["registry_entries"], gauges["selftest_ok"] == 1, matches)
    except KeyError as missing:
        raise DoubtError(f"the proxy's metrics lack {missing}") from missing


def ask(port: int, path: str) -> str:
    """GET from the proxy; DoubtError for anything but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(ANSWER_LIMIT).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise DoubtError(f"the proxy does not answer {path}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise DoubtError(f"the proxy answers {path} with {response.status}: {body[:300].strip()}")
    return body


def probed(port: int, minimum_entries: int) -> dict[str, Any]:
    """Readiness, self-test and registry of the proxy, each of them good."""
    try:
        ready = json.loads(ask(port, "/readyz"))
    except ValueError as error:
        raise DoubtError("the proxy's /readyz is no JSON") from error
    if not (isinstance(ready, dict) and ready.get("ready") is True):
        raise DoubtError("the proxy's /readyz does not say that it is ready")
    metrics = metrics_in(ask(port, "/metrics"))
    if not metrics.selftest_ok:
        raise DoubtError("the proxy's last redaction self-test failed")
    if metrics.registry_entries < minimum_entries:
        raise DoubtError(
            f"the registry holds {metrics.registry_entries} values, fewer than {minimum_entries}"
        )
    facts = {"registry_entries": metrics.registry_entries, "selftest_ok": True, "matches": metrics.matches}
    return {"ready": True, **facts}


def verdict_in(output: str, exit_code: int) -> dict[str, Any]:
    """Read the record of a canary turn; DoubtError unless every part of it is proved."""
    try:
        verdict = json.loads(output.strip().rpartition("\n")[2])
    except ValueError as error:
        raise DoubtError(f"the prober ended with {exit_code} and without a verdict") from error
    lacking = [
        proof for proof in TURN_PROOFS if not (isinstance(verdict, dict) and verdict.get(proof) is True)
    ]
    if exit_code != 0 or lacking:
        raise DoubtError(
            f"the canary turn proves nothing: exit {exit_code}, not proved: {lacking}: {verdict}"
        )
    return dict(verdict)


def canary(timeout_s: int) -> dict[str, Any]:
    command = [*PROBER, "--timeout", str(timeout_s)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s + GRACE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise DoubtError(f"the prober did not end within {timeout_s + GRACE_S} s") from error
    return verdict_in(done.stdout, done.returncode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "default": 18080},
            "minimum_entries": {"type": "int", "default": 1},
            "canary": {"type": "bool", "default": False},
            "timeout_s": {"type": "int", "default": 150},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = probed(params["port"], params["minimum_entries"])
        result["canary"] = canary(params["timeout_s"]) if params["canary"] else None
    except (DoubtError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
