"""The wrapper on the real gateway: a guarded turn works, every way around the guard has no model."""

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_world import (
    EGRESS_PORT,
    ENTRY,
    GATEWAY_PORT,
    POLICY,
    World,
    ask,
    wait_until,
    world,
)
from safety_wrapper.prober import Prober

pytestmark = [pytest.mark.gateway, pytest.mark.timeout(900)]
THROWING = 'export default { id: "safety-wrapper", name: "x", register() { throw new Error("broken"); } };\n'


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    # Not below pytest's own folder: the daemon and the gateway run as users that may not look into it.
    with (
        tempfile.TemporaryDirectory(prefix="tf-wrapper-", dir="/var/tmp") as folder,
        world(Path(folder)) as prepared,
    ):
        yield prepared


@pytest.fixture(scope="module")
def started(made: World) -> Iterator[World]:
    made.start_daemon()
    made.start_gateway()
    yield made
    made.stop_gateway()


@pytest.fixture
def tenant(started: World) -> Iterator[World]:
    """A guarded tenant with the stock policy, its daemon up."""
    if started.daemon is None:
        started.start_daemon()
    wait_until(lambda: started.status()["admission"] == "open", seconds=30, what="open admission")
    yield started
    started.use_policy(POLICY)


def exec_step(command: str) -> dict[str, Any]:
    return {"tool": "exec", "arguments": {"command": command}}


def workspace(tenant: World, name: str) -> Path:
    return tenant.directory / "state" / "workspace" / name


def last_request(tenant: World) -> str:
    return tenant.model_requests()[-1].read_text(errors="replace")


def assert_model_saw_nothing(tenant: World, before: int) -> None:
    assert len(tenant.model_requests()) == before, tenant.story()


def replay(tenant: World, nonce: str) -> str:
    """Call the relay as an agent's child could, with a nonce that it has read somewhere."""
    body = {
        "model": "lab-1",
        "messages": [
            {"role": "system", "content": f"[[tenantfleet-run {nonce}]]"},
            {"role": "user", "content": "hello"},
        ],
    }
    url = f"http://127.0.0.1:{EGRESS_PORT}/lab/v1/chat/completions"
    argv = tenant.in_network("curl", "--silent", "--max-time", "30", "--json", json.dumps(body), url)
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.mark.drawn("configuration")
def test_the_hardened_configuration_validates_without_a_warning(tenant: World) -> None:
    verdict = json.loads(tenant.cli("config", "validate", "--json").stdout)
    assert verdict["valid"], verdict
    assert verdict["warnings"] == []


@pytest.mark.drawn("configuration")
def test_the_gateway_listens_on_the_loopback_only(tenant: World) -> None:
    assert tenant.listens(GATEWAY_PORT)
    rows = subprocess.run(tenant.in_network("ss", "-Hltn"), check=True, capture_output=True, text=True).stdout
    addresses = {row.split()[3].rpartition(":")[0] for row in rows.splitlines()}
    assert addresses <= {"127.0.0.1", "[::1]"}


@pytest.mark.drawn("turn")
def test_a_harmless_call_runs_and_its_result_reaches_the_model(tenant: World) -> None:
    turn = tenant.turn(exec_step("echo $((6 * 7))-is-it > harmless; cat harmless"), session="harmless")
    assert turn.returncode == 0, tenant.story()
    assert workspace(tenant, "harmless").read_text() == "42-is-it\n"
    assert "42-is-it" in last_request(tenant)
    assert "tenantfleet-run" not in last_request(tenant), "the relay must have taken the nonce out"
    assert tenant.status()["runs_live"] == 0, "the nonce must be dead once the run has ended"


def test_no_child_of_an_agent_finds_compiled_code_of_the_gateway_to_replace(tenant: World) -> None:
    search = "find / -path /proc -prune -o -path /opt -prune -o -name '*compile-cache*' -print"
    tenant.turn(exec_step(f"{search} > found"), session="code")
    assert workspace(tenant, "found").read_text() == "", tenant.story()


@pytest.mark.drawn("turn")
def test_only_the_six_tools_are_offered(tenant: World) -> None:
    tenant.say("hello", session="offer")
    body = json.loads(last_request(tenant).partition("\n\n")[2])
    names = sorted(tool["function"]["name"] for tool in body["tools"])
    assert names == ["apply_patch", "edit", "exec", "process", "read", "write"]


@pytest.mark.drawn("policy")
def test_a_denied_call_does_not_run_and_the_model_is_told_why(tenant: World) -> None:
    tenant.turn(exec_step("touch denied; rm -rf nothing"), session="denied")
    assert not workspace(tenant, "denied").exists()
    assert "safety-wrapper: recursive deletion is not allowed here" in last_request(tenant)


@pytest.mark.drawn("approval")
def test_an_ask_waits_and_is_denied_at_its_timeout(tenant: World) -> None:
    asked = threading.Thread(
        target=tenant.turn, args=(exec_step("publish it; touch asked"),), kwargs={"session": "asked"}
    )
    asked.start()
    try:
        wait_until(lambda: tenant.status()["approvals"]["waiting"], seconds=60, what="a waiting question")
        questions = ask(tenant.status_socket, "GET", "/v1/approvals")[1]
        assert "publish it" in questions[0]["params"]
    finally:
        asked.join()
    assert tenant.status()["approvals"]["expired"] == 1
    assert not workspace(tenant, "asked").exists()
    assert "nobody allowed it within 6 s" in last_request(tenant)


@pytest.mark.drawn("approval")
def test_an_ask_that_a_person_allows_runs(tenant: World) -> None:
    tenant.use_policy({**POLICY, "ask_timeout_s": 60})
    step = exec_step("publish 2>/dev/null; echo yes > allowed")
    asked = threading.Thread(target=tenant.turn, args=(step,), kwargs={"session": "allowed"})
    asked.start()
    try:
        wait_until(lambda: tenant.status()["approvals"]["waiting"], seconds=60, what="a waiting question")
        question = ask(tenant.status_socket, "GET", "/v1/approvals")[1][0]
        decision = {"decision": "allow", "approver": "test"}
        target = f"/v1/approvals/{question['id']}/decision"
        assert ask(tenant.status_socket, "POST", target, decision)[0] == 204
    finally:
        asked.join()
    assert workspace(tenant, "allowed").read_text() == "yes\n"


@pytest.mark.drawn("policy")
def test_a_policy_that_is_tightened_binds_the_running_turn(tenant: World) -> None:
    running = threading.Thread(
        target=tenant.turn,
        args=(exec_step("touch first; while ! test -e go; do sleep 0.2; done"), exec_step("touch second")),
        kwargs={"session": "tightened"},
    )
    running.start()
    try:
        wait_until(workspace(tenant, "first").exists, seconds=60, what="the first call")
        tenant.use_policy({**POLICY, "revision": 2, "tools": {}})
    finally:
        workspace(tenant, "go").touch()
        running.join()
    assert not workspace(tenant, "second").exists()


@pytest.mark.drawn("turn")
def test_parallel_and_invalid_calls_leave_the_run_free(tenant: World) -> None:
    steps = [{"tool": "exec", "arguments": {"nonsense": 1}}, {"tool": "no_such_tool", "arguments": {}}]
    turn = tenant.turn(*steps, exec_step("false"), exec_step("echo over > over"), session="invalid")
    assert turn.returncode == 0, tenant.story()
    assert workspace(tenant, "over").exists(), tenant.story()


@pytest.mark.drawn("canary")
def test_a_canary_turn_passes_and_its_call_never_runs(tenant: World) -> None:
    prober = CanaryProber(status_socket=tenant.status_socket, enter=tenant.inside(), tenant=tenant)
    before = len(tenant.model_requests())
    verdict = prober.probe(timeout_s=120)
    assert verdict.passed, (verdict, tenant.story())
    assert_model_saw_nothing(tenant, before)


class CanaryProber(Prober):
    """The product's prober; only the gateway's port is in another network namespace here."""

    def __init__(self, *, tenant: World, **fields: Any) -> None:  # noqa: ANN401 -- the base's fields
        super().__init__(**fields)
        object.__setattr__(self, "_tenant", tenant)

    def _gateway_ready(self) -> bool:
        return bool(self._tenant.gateway_ready())  # type: ignore[attr-defined]


@pytest.mark.drawn("nonce")
def test_a_nonce_replayed_after_its_run_buys_nothing(tenant: World) -> None:
    tenant.say("hello", session="replayed")
    nonce = tenant.relay_said()[-1]["ask"]["nonces"][0]
    before = len(tenant.model_requests())
    assert "run_ended" in replay(tenant, nonce)
    assert "unknown_nonce" in replay(tenant, "A" * 43)
    assert_model_saw_nothing(tenant, before)


@pytest.mark.drawn("nonce")
def test_a_nonce_replayed_while_a_call_of_its_run_is_running_buys_nothing(tenant: World) -> None:
    step = exec_step("touch stealing; while ! test -e stolen; do sleep 0.2; done")
    running = threading.Thread(target=tenant.turn, args=(step,), kwargs={"session": "stealing"})
    running.start()
    try:
        wait_until(workspace(tenant, "stealing").exists, seconds=60, what="the running call")
        nonce = tenant.relay_said()[-1]["ask"]["nonces"][0]
        before = len(tenant.model_requests())
        assert "run_in_tool" in replay(tenant, nonce)
        assert_model_saw_nothing(tenant, before)
    finally:
        workspace(tenant, "stolen").touch()
        running.join()


@pytest.mark.drawn("child")
def test_a_child_that_speaks_the_protocol_perfectly_is_refused(tenant: World) -> None:
    script = (
        "import json, socket\n"
        "body = json.dumps({'run_id': 'x', 'agent_id': 'main', 'session_key': 's', 'trigger': 'user'})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('/run/tf-wrapper/plugin/plugin.sock')\n"
        "head = f'POST /v1/runs HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n'\n"
        "s.sendall((head + body).encode())\n"
        "open('spoken', 'wb').write(s.recv(65536))\n"
    )
    workspace(tenant, "speak.py").write_text(script)
    tenant.turn(exec_step("python3 speak.py"), session="speaking")
    answer = workspace(tenant, "spoken").read_text()
    assert "403" in answer, tenant.story()
    assert "nonce" not in answer


@pytest.mark.drawn("child")
def test_a_child_cannot_switch_the_plugin_off(tenant: World) -> None:
    command = f"/opt/node/bin/node {ENTRY} plugins disable safety-wrapper > off 2>&1; echo $? >> off"
    tenant.turn(exec_step(command), session="off")
    wait_until(lambda: exit_code(tenant, "off"), seconds=120, what=f"the command's end\n{tenant.story()}")
    assert exit_code(tenant, "off") != "0", workspace(tenant, "off").read_text()
    tenant.turn(exec_step("touch after-off; rm -rf nothing"), session="after-off")
    assert not workspace(tenant, "after-off").exists()


def exit_code(tenant: World, name: str) -> str:
    """Return the last line of what a child wrote, "" until that is a number."""
    lines = workspace(tenant, name).read_text().splitlines() if workspace(tenant, name).exists() else []
    return lines[-1] if lines and lines[-1].isdecimal() else ""


@pytest.mark.drawn("own process")
def test_an_own_openclaw_process_gets_no_model(tenant: World) -> None:
    own = workspace(tenant, "own")
    own.mkdir()
    config = json.loads((tenant.directory / "config/openclaw.json").read_text())
    del config["plugins"]
    config["agents"]["defaults"]["workspace"] = "/var/lib/openclaw/workspace/own"
    (own / "openclaw.json").write_text(json.dumps(config))
    shutil.chown(own, 2101, 2101)
    before, asked = len(tenant.model_requests()), len(tenant.relay_said())
    message = f"hello [[script: {json.dumps([exec_step('touch ran')])}]]"
    turn = ("agent", "--local", "--agent", "main", "--session-key", "agent:main:own", "--message", message)
    here = "/var/lib/openclaw/workspace/own"
    argv = tenant.inside(
        "/opt/node/bin/node",
        ENTRY,
        *turn,
        "--timeout",
        "40",
        OPENCLAW_CONFIG_PATH=f"{here}/openclaw.json",
        OPENCLAW_STATE_DIR=here,
    )
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=300)
    verdicts = [said["verdict"].get("reason") for said in tenant.relay_said()[asked:]]
    assert verdicts, (done.stdout, done.stderr)
    assert set(verdicts) == {"no_nonce"}
    assert_model_saw_nothing(tenant, before)
    assert not (own / "ran").exists()


@pytest.mark.drawn("planted plugin")
def test_a_planted_plugin_of_the_same_id_does_not_replace_the_guard(tenant: World) -> None:
    planted = workspace(tenant, ".openclaw") / "extensions" / "safety-wrapper"
    plant(planted)
    tenant.cli("plugins", "reload", "safety-wrapper")
    tenant.turn(exec_step("touch planted-ran; rm -rf nothing"), session="planted")
    assert not workspace(tenant, "planted-ran").exists(), tenant.story()
    shutil.rmtree(planted.parents[1])


def plant(folder: Path) -> None:
    folder.mkdir(parents=True)
    source = Path(__file__).resolve().parents[1] / "plugin"
    for name in ("openclaw.plugin.json", "package.json"):
        shutil.copy(source / name, folder)
    (folder / "index.js").write_text('export default { id: "safety-wrapper", name: "x", register() {} };\n')
    for path in (folder.parents[1], folder.parent, folder, *folder.iterdir()):
        shutil.chown(path, 2101, 2101)


@pytest.mark.drawn("daemon")
def test_without_the_daemon_there_is_no_model(tenant: World) -> None:
    tenant.stop_daemon()
    before = len(tenant.model_requests())
    tenant.refused_turn(exec_step("touch daemonless"), session="daemonless")
    assert not workspace(tenant, "daemonless").exists()
    assert_model_saw_nothing(tenant, before)


@pytest.mark.drawn("measurement")
def test_a_plugin_of_another_digest_closes_admission(tenant: World) -> None:
    tenant.stop_daemon()
    tenant.start_daemon(plugin_sha256="0" * 64)
    before = len(tenant.model_requests())
    tenant.refused_turn(exec_step("touch other-digest"), session="other-digest")
    assert tenant.status()["admission"] == "closed"
    assert not workspace(tenant, "other-digest").exists()
    assert_model_saw_nothing(tenant, before)
    tenant.stop_daemon()


@pytest.mark.drawn("reload")
def test_a_failed_reload_leaves_no_unguarded_turn_with_a_model(tenant: World) -> None:
    index = tenant.plugin / "index.js"
    good = index.read_text()
    index.write_text("this is no JavaScript (")
    try:
        reload = tenant.cli("plugins", "reload", "safety-wrapper")
    finally:
        index.write_text(good)  # so that measurement stays content and only the nonce can help
    assert reload.returncode != 0, reload.stdout
    wait_until(lambda: tenant.status()["admission"] == "open", seconds=30, what="open admission")
    before, asked = len(tenant.model_requests()), len(tenant.relay_said())
    tenant.refused_turn(exec_step("touch after-reload"), session="after-reload")
    assert not workspace(tenant, "after-reload").exists()
    assert_model_saw_nothing(tenant, before)
    verdicts = [said["verdict"].get("reason") for said in tenant.relay_said()[asked:]]
    assert verdicts == ["no_nonce"], "a refusal that stays one ends the turn: it is not asked for again"
    assert tenant.cli("plugins", "reload", "safety-wrapper").returncode == 0
    assert tenant.say("hello", session="after-reload").returncode == 0, "the same session goes on, guarded"


@pytest.mark.drawn("no wrapper")
@pytest.mark.parametrize("fault", ["removed", "throwing", "planted"])
def test_a_gateway_without_its_wrapper_is_ready_and_has_no_model(made: World, fault: str) -> None:
    made.stop_gateway()
    if made.daemon is None:
        made.start_daemon()
    made.mounted = made.install_plugin(fault)
    (made.mounted / "index.js").write_text(THROWING)
    if fault != "throwing":
        shutil.rmtree(made.mounted)
        made.mounted.mkdir()
    if fault == "planted":
        plant(workspace(made, ".openclaw") / "extensions" / "safety-wrapper")
    try:
        made.start_gateway()
        wait_until(lambda: made.status()["admission"] == "open", seconds=30, what="open admission")
        before, asked = len(made.model_requests()), len(made.relay_said())
        made.refused_turn(exec_step(f"touch {fault}"), session=fault)
        assert made.gateway_ready()
        assert not workspace(made, fault).exists(), made.story()
        assert_model_saw_nothing(made, before)
        verdicts = {said["verdict"].get("reason") for said in made.relay_said()[asked:]}
        assert verdicts == {"no_nonce"}, "the unguarded turn must have tried"
    finally:
        made.stop_gateway()
        made.mounted = None
        shutil.rmtree(workspace(made, ".openclaw"), ignore_errors=True)
