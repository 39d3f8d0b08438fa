"""Proof 3: whatever becomes of the wrapper, the model hears no agent that it does not guard.

The gateway may say that it is ready meanwhile; what counts is that the model server sees no request. More
ways to lose the wrapper are tried on the real gateway in tenant/safety_wrapper/tests.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.conversation import Agent, ModelRecord
from tests.proofs.tenants import Fleet, Tenant

pytestmark = pytest.mark.lab

DROP_IN = "/etc/containers/systemd/openclaw.container.d/50-safety-wrapper.conf"
CANARY = (
    "/usr/bin/python3",
    "-I",
    "-B",
    "/opt/tenantfleet/safety_wrapper/current/code",
    "canary",
    "--timeout",
    "150",
)
NODE = "/opt/node/bin/node"
DEADLINE_S = 180


@pytest.fixture
def guarded(provisioned: Fleet) -> Iterator[Tenant]:
    """A tenant that is broken and mended; a canary turn proves that it is guarded before and after."""
    chosen = provisioned.tenants[2]
    yield chosen
    canary = chosen.agent.on_host(*CANARY, timeout_s=DEADLINE_S)
    assert canary.returncode == 0, canary.stdout + canary.stderr + chosen.journal()


@contextmanager
def silence(record: ModelRecord) -> Iterator[None]:
    before = len(record.requests())
    yield
    heard = record.since(before)
    assert not heard, heard[0][:2000]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def ready(agent: Agent) -> bool:
    return agent.on_host("curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:18789/readyz").returncode == 0


def admission(agent: Agent) -> str:
    path = "/run/tf-wrapper/status/status.sock"
    said = agent.on_host("curl", "-s", "--unix-socket", path, "http://daemon/v1/status").stdout
    return str(json.loads(said)["admission"])


def shell(agent: Agent, script: str) -> None:
    done = agent.on_host("sh", "-euc", script)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.drawn("the daemon")
def test_nothing_is_heard_while_the_daemon_is_stopped(guarded: Tenant, record: ModelRecord) -> None:
    shell(guarded.agent, "systemctl stop tf-wrapper.service")
    try:
        assert ready(guarded.agent)
        with silence(record):
            guarded.agent.say("anybody there?")
    finally:
        shell(guarded.agent, "systemctl start tf-wrapper.service")


@pytest.mark.drawn("the plugin")
def test_nothing_is_heard_without_the_plugin_in_the_gateway(guarded: Tenant, record: ModelRecord) -> None:
    agent = guarded.agent
    restart = "systemctl daemon-reload; systemctl restart openclaw.service"
    shell(agent, f"mv {DROP_IN} /run/kept.conf; {restart}")
    try:
        until(lambda: ready(agent), "the gateway did not start without its plugin")
        with silence(record):
            agent.say("anybody there?")
    finally:
        shell(agent, f"mv /run/kept.conf {DROP_IN}; {restart}")


@pytest.mark.drawn("the plugin")
def test_nothing_is_heard_through_a_plugin_of_another_digest(guarded: Tenant, record: ModelRecord) -> None:
    agent = guarded.agent
    plugin = "$(readlink -f /opt/tenantfleet/safety_wrapper/current/code)/plugin/index.js"
    shell(agent, f"cp -a {plugin} /run/kept.js; echo '// changed' >> {plugin}")
    try:
        until(lambda: admission(agent) == "closed", "the daemon did not notice the change")
        with silence(record):
            agent.say("anybody there?")
    finally:
        shell(agent, f"cp -a /run/kept.js {plugin}")
    until(lambda: admission(agent) == "open", "the daemon did not notice that all is well again")


@pytest.mark.drawn("an agent's own")
def test_an_openclaw_process_of_the_agents_own_is_not_heard(guarded: Tenant, record: ModelRecord) -> None:
    """It has the bearer, the proxy's address and a configuration without the wrapper."""
    agent = guarded.agent
    strip = (
        "const c = JSON.parse(require('fs').readFileSync('/etc/openclaw/openclaw.json'));"
        "delete c.plugins; c.agents.defaults.workspace = '/tmp/own/ws'; c.logging.file = '/tmp/own/log';"
        "require('fs').mkdirSync('/tmp/own/state', {recursive: true});"
        "require('fs').writeFileSync('/tmp/own/openclaw.json', JSON.stringify(c))"
    )
    assert agent.inside(NODE, "-e", strip).returncode == 0
    own = ("env", "OPENCLAW_CONFIG_PATH=/tmp/own/openclaw.json", "OPENCLAW_STATE_DIR=/tmp/own/state")
    main = "/opt/openclaw/node_modules/openclaw/openclaw.mjs"
    turn = (
        "agent",
        "--local",
        "--agent",
        "main",
        "--session-key",
        "agent:main:own",
        "--message",
        "hello",
        "--timeout",
        "20",
    )
    with silence(record):
        done = agent.inside(*own, NODE, main, *turn, timeout_s=DEADLINE_S)
    assert "400" in done.stdout + done.stderr or done.returncode != 0, done.stdout + done.stderr


@pytest.mark.drawn("an agent's own")
def test_a_child_that_speaks_the_daemons_protocol_gets_no_nonce(guarded: Tenant) -> None:
    ask = (
        "const r = require('http').request({socketPath: '/run/tf-wrapper/plugin/plugin.sock', method: 'POST',"
        " path: '/v1/runs', headers: {'content-type': 'application/json'}}, a => {"
        " console.log(a.statusCode); a.resume(); });"
        "r.on('error', e => console.log(e.code));"
        "r.end(JSON.stringify("
        "{run_id: 'r1', agent_id: 'main', session_key: 'agent:main:x', trigger: 'user'}))"
    )
    answer = guarded.agent.inside(NODE, "-e", ask).stdout.strip()
    assert answer in {"403", "ECONNRESET", "EPIPE"}, answer


@pytest.mark.drawn("an agent's own")
def test_the_bearer_alone_and_an_invented_nonce_are_worth_nothing(
    guarded: Tenant, record: ModelRecord
) -> None:
    nonce = "A" * 43
    body = {
        "model": "default",
        "messages": [
            {"role": "system", "content": f"[[tenantfleet-run {nonce}]]"},
            {"role": "user", "content": "hello"},
        ],
    }
    call = (
        "const t = require('fs').readFileSync('/run/openclaw/egress_bearer', 'utf8').trim();"
        "fetch('http://127.0.0.1:18080/openai/v1/chat/completions', {method: 'POST', headers:"
        " {authorization: `Bearer ${t}`, 'content-type': 'application/json'},"
        f" body: {json.dumps(json.dumps(body))}}})"
        ".then(a => console.log(a.status), e => console.log(String(e)))"
    )
    with silence(record):
        answer = guarded.agent.inside(NODE, "-e", call).stdout.strip()
    assert answer == "400", answer
