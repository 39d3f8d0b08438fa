"""The whole daemon over its real sockets: real processes as peers, a real pid namespace as the container."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gateway_world import UnixHttp, own_control_group, unified_cgroup, wait_until
from safety_wrapper import cli
from safety_wrapper.measurement import hash_plugin

TESTS = Path(__file__).resolve().parent
PLUGIN = TESTS.parent / "plugin"
OPENCLAW, EGRESS, WRAPPER, LINK, OPS, STRANGER = 2101, 2102, 2103, 2104, 2106, 2999
POLICY: dict[str, Any] = {
    "version": 1,
    "revision": 1,
    "default": "deny",
    "tools": {"read": "allow", "write": "ask"},
    "rules": [],
    "ask_timeout_s": 1,
    "limits": {"tool_calls_per_minute": 100, "llm_calls_per_minute": 100, "llm_calls_per_run": 100},
}
# A peer: obeys each line [method, path, body] on its input and answers it with one line.
PEER = """
import http.client, json, os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([int(gid) for gid in sys.argv[3:]]); os.setgid(uid); os.setuid(uid)
print("up", flush=True)
for line in sys.stdin:
    method, target, body = json.loads(line)
    try:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(path)
        connection.request(method, target, body=json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        text = answer.read()
        print(json.dumps([answer.status, json.loads(text) if text else None]), flush=True)
        connection.close()
    except OSError as error:
        print(json.dumps([0, type(error).__name__]), flush=True)
"""
CONTAINER = ("unshare", "--mount-proc", "--pid", "--fork", "--")


class Peer:
    """A process that speaks to one socket, under a uid, in a cgroup and a pid namespace of its own."""

    def __init__(
        self,
        socket_path: Path,
        uid: int,
        *groups: int,
        wrap: tuple[str, ...] = (),
        cgroup: Path | None = None,
    ) -> None:
        argv = [*wrap, "/usr/bin/python3", "-c", PEER, str(socket_path), str(uid), *map(str, groups)]
        if cgroup is not None:
            script = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
            argv = ["sh", "-c", script, "sh", *argv]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def send(self, method: str, target: str, body: object = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, target, body]) + "\n")
        self.process.stdin.flush()

    def receive(self) -> tuple[int, Any]:
        assert self.process.stdout is not None
        status, answer = json.loads(self.process.stdout.readline())
        return status, answer

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        self.send(method, target, body)
        return self.receive()

    def kill(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # the peer's loop ends; so does a namespace with it
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Host:
    """One daemon and the peers that a test starts."""

    folder: Path
    cgroup: Path
    control_group: str
    plugin: Path
    daemon: subprocess.Popen[bytes] | None = None
    peers: list[Peer] = field(default_factory=list)

    def path(self, name: str) -> Path:
        return self.folder / name / f"{name}.sock"

    def peer(self, name: str, uid: int, *groups: int, **options: Any) -> Peer:  # noqa: ANN401 -- Peer's options
        peer = Peer(self.path(name), uid, *groups, **options)
        self.peers.append(peer)
        return peer

    def gateway(self) -> Peer:
        return self.peer("plugin", OPENCLAW, OPENCLAW, wrap=CONTAINER, cgroup=self.cgroup)

    def proxy(self) -> Peer:
        return self.peer("admission", EGRESS, EGRESS)

    def root(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        connection = UnixHttp(self.path("status"))
        try:
            connection.request(method, target, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.root("GET", "/v1/status")[1]
        return answer

    def write_properties(self, *, source: Path | None = None, invocation: str = "1") -> None:
        mount = f"-v {source or self.plugin}:/opt/tenantfleet/plugin:ro"
        text = f"ExecStart={{ argv[]=podman run {mount} image ; }}\nInvocationID={invocation}\n"
        text += f"ControlGroup={self.control_group}\n"
        new = self.folder / "properties.new"
        new.write_text(text)
        new.rename(self.folder / "properties")

    def write_policy(self, **changes: object) -> None:
        (self.folder / "policy.json").write_text(json.dumps({**POLICY, **changes}))

    def start(self, **changes: object) -> None:
        config = {
            "version": 1,
            "plugin_sha256": hash_plugin(self.plugin),
            "plugin_store": str(self.folder / "store"),
            "policy": str(self.folder / "policy.json"),
            "tenant": str(self.folder / "tenant.json"),
            "sockets": {name: str(self.path(name)) for name in ("plugin", "admission", "status")},
            **changes,
        }
        (self.folder / "wrapper.json").write_text(json.dumps(config))
        users = [str(WRAPPER), str(WRAPPER), str(OPENCLAW), str(EGRESS)]
        entry = [str(TESTS / "daemon_entry.py"), str(self.folder / "wrapper.json")]
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, *entry, str(self.folder / "properties"), *users], stdout=log, stderr=log
            )
        wait_until(self._answers, seconds=60, what="an answer of the daemon")

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log()
        try:
            return self.root("GET", "/v1/status")[0] == 200
        except OSError:
            return False

    def reload(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGHUP)

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def dismiss_peers(self) -> None:
        for peer in self.peers:
            if peer.process.poll() is None:
                peer.kill()
        self.peers.clear()

    def stop(self) -> None:
        self.dismiss_peers()
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(20)


@pytest.fixture
def host() -> Iterator[Host]:
    """A host of the test's own, its daemon not started yet."""
    with new_host() as made:
        yield made


@pytest.fixture(scope="module")
def started() -> Iterator[Host]:
    with new_host() as made:
        made.start()
        yield made


@pytest.fixture
def running(started: Host) -> Iterator[Host]:
    """A host with a daemon that tests share; they leave it as they found it."""
    yield started
    started.dismiss_peers()
    wait_until(lambda: started.status()["gateway_pid"] is None, seconds=20, what="no gateway")


@contextmanager
def new_host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="tf-wrapper-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part, group in (("plugin", OPENCLAW), ("admission", EGRESS), ("status", WRAPPER)):
            (folder / part).mkdir()
            os.chown(folder / part, WRAPPER, group)
            (folder / part).chmod(0o755 if part == "status" else 0o750)
        control_group = f"{own_control_group().rstrip('/')}/{folder.name}"
        cgroup = unified_cgroup() / control_group.lstrip("/")
        cgroup.mkdir()
        made = Host(folder, cgroup, control_group, install_plugin(folder, "pinned"))
        made.write_properties()
        made.write_policy()
        (folder / "tenant.json").write_text('{"autonomy": "standard"}')
        try:
            yield made
        finally:
            made.stop()
            wait_until(lambda: not (cgroup / "cgroup.procs").read_text(), seconds=20, what="an empty cgroup")
            cgroup.rmdir()


def install_plugin(folder: Path, name: str) -> Path:
    plugin = folder / "store" / name / "plugin"
    shutil.copytree(PLUGIN, plugin)
    for path in (folder / "store", plugin.parent, plugin, *plugin.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return plugin


def run(run_id: str = "r") -> dict[str, str]:
    return {"run_id": run_id, "agent_id": "main", "session_key": "s", "trigger": "user"}


def call(tool: str, call_id: str = "c", run_id: str = "r", **params: str) -> dict[str, Any]:
    ids = {"run_id": run_id, "tool_call_id": call_id, "session_key": "s"}
    return {**ids, "tool": tool, "params": params}


def admission(*nonces: str, canaries: tuple[str, ...] = ()) -> dict[str, Any]:
    named = {"nonces": list(nonces), "canaries": list(canaries)}
    return {**named, "provider": "lab", "model": "m", "bytes": 10}


END = {
    "outcome": "completed",
    "status": 200,
    "input_tokens": 7,
    "output_tokens": None,
    "model": "m",
    "redactions": {"registry": 2},
}


def begin_run(gateway: Peer, run_id: str = "r") -> str:
    status, answer = gateway.ask("POST", "/v1/runs", run(run_id))
    assert status == 201
    assert gateway.ask("POST", f"/v1/runs/{run_id}/start", {})[1] == {"allow": True}
    assert gateway.ask("POST", f"/v1/runs/{run_id}/model-calls", {"call_id": "1"})[0] == 204
    nonce: str = answer["nonce"]
    return nonce


def test_a_run_goes_from_its_nonce_through_a_model_call_to_its_end(host: Host) -> None:
    host.start()
    gateway, proxy = host.gateway(), host.proxy()
    nonce = begin_run(gateway)
    assert len(nonce) == 43
    status, admitted = proxy.ask("POST", "/v1/admissions", admission(nonce))
    assert (status, admitted["admitted"], admitted["route"]) == (200, True, "upstream")
    end = f"/v1/admissions/{admitted['admission_id']}/end"
    assert proxy.ask("POST", end, END)[0] == 204
    assert proxy.ask("POST", end, END)[0] == 403, "a second report must not be metered"
    assert gateway.ask("POST", "/v1/tool-calls", call("read", path="x"))[1]["decision"] == "allow"
    assert gateway.ask("POST", "/v1/tool-calls/c/end", {"run_id": "r"})[0] == 204
    assert gateway.ask("POST", "/v1/runs/r/end", {})[0] == 204
    refused = {"admitted": False, "reason": "run_ended"}
    assert proxy.ask("POST", "/v1/admissions", admission(nonce))[1] == refused
    counted = host.status()
    assert [(u["calls"], u["input_tokens"], u["output_tokens"]) for u in counted["usage"]] == [(1, 7, 0)]
    assert counted["counters"]["redactions_registry"] == 2
    assert (counted["runs_live"], counted["gateway_pid"] is not None) == (0, True)


def nested(host: Host) -> Peer:
    return host.peer("plugin", OPENCLAW, OPENCLAW, wrap=CONTAINER + CONTAINER, cgroup=host.cgroup)


def child_of_first(host: Host) -> Peer:
    # The shell stays pid 1 of the namespace; the speaker is its child, as an agent's command would be.
    wrap = (*CONTAINER, "sh", "-c", '"$@"; exit', "sh")
    return host.peer("plugin", OPENCLAW, OPENCLAW, wrap=wrap, cgroup=host.cgroup)


def outside_any_namespace(host: Host) -> Peer:
    return host.peer("plugin", OPENCLAW, OPENCLAW, cgroup=host.cgroup)


def outside_the_cgroup(host: Host) -> Peer:
    return host.peer("plugin", OPENCLAW, OPENCLAW, wrap=CONTAINER)


def of_another_user(host: Host) -> Peer:
    return host.peer("plugin", EGRESS, OPENCLAW, wrap=CONTAINER, cgroup=host.cgroup)


@pytest.mark.parametrize(
    "start", [nested, child_of_first, outside_any_namespace, outside_the_cgroup, of_another_user]
)
def test_only_the_first_process_of_the_units_container_is_heard(
    running: Host, start: Callable[[Host], Peer]
) -> None:
    assert start(running).ask("POST", "/v1/runs", run()) == (403, {"error": "not_allowed"})
    assert running.status()["runs_live"] == 0


def test_the_sockets_themselves_keep_others_out(running: Host) -> None:
    assert running.peer("plugin", STRANGER).ask("POST", "/v1/runs", run())[0] == 0
    assert running.peer("admission", OPENCLAW, OPENCLAW).ask("POST", "/v1/admissions", admission())[0] == 0
    assert running.peer("admission", OPENCLAW, EGRESS).ask("POST", "/v1/admissions", admission())[0] == 403
    assert [oct(running.path(name).stat().st_mode)[-3:] for name in ("plugin", "admission", "status")] == [
        "660",
        "660",
        "666",
    ]


def test_each_reader_of_the_status_may_do_its_part_and_no_more(running: Host) -> None:
    link, ops, stranger = (running.peer("status", uid) for uid in (LINK, OPS, STRANGER))
    assert [peer.ask("GET", "/v1/status")[0] for peer in (link, ops, stranger)] == [200, 200, 403]
    assert [peer.ask("POST", "/v1/canaries")[0] for peer in (link, ops, stranger)] == [403, 403, 403]
    target, body = "/v1/approvals/x/decision", {"decision": "allow", "approver": "a"}
    assert [peer.ask("POST", target, body)[0] for peer in (link, ops, stranger)] == [404, 403, 403]


def test_the_end_of_the_gateway_ends_its_runs(host: Host) -> None:
    host.start()
    gateway, proxy = host.gateway(), host.proxy()
    nonce = begin_run(gateway)
    gateway.kill()
    wait_until(lambda: host.status()["gateway_pid"] is None, seconds=20, what="the gateway's end noticed")
    assert proxy.ask("POST", "/v1/admissions", admission(nonce))[1]["reason"] == "run_ended"
    begin_run(host.gateway(), "next")


def test_a_changed_plugin_closes_admission_and_ends_the_runs(host: Host) -> None:
    host.start()
    gateway, proxy = host.gateway(), host.proxy()
    nonce = begin_run(gateway)
    (host.plugin / "index.js").write_text("// changed\n")
    wait_until(lambda: host.status()["admission"] == "closed", seconds=40, what="closed admission")
    assert proxy.ask("POST", "/v1/admissions", admission(nonce))[1]["reason"] == "wrapper_unmeasured"
    assert gateway.ask("POST", "/v1/runs", run("again"))[0] == 403
    assert host.status()["runs_live"] == 0


def test_a_daemon_that_expects_another_plugin_admits_nothing(host: Host) -> None:
    host.start(plugin_sha256="0" * 64)
    status = host.status()
    assert (status["admission"], status["plugin"]["measured_sha256"]) == ("closed", hash_plugin(host.plugin))
    assert host.gateway().ask("POST", "/v1/runs", run())[0] == 403


def test_a_unit_that_changed_under_the_running_gateway_is_not_vouched_for(host: Host) -> None:
    host.start()
    gateway = host.gateway()
    begin_run(gateway)
    gateway.kill()
    host.write_properties(source=install_plugin(host.folder, "other"))
    assert host.gateway().ask("POST", "/v1/runs", run())[0] == 403
    assert "changed under" in host.status()["reason"]
    host.write_properties(source=host.folder / "store/other/plugin", invocation="2")
    begin_run(host.gateway(), "restarted")


def test_an_invalid_policy_stops_new_runs_and_leaves_the_old_in_force(host: Host) -> None:
    host.start()
    gateway = host.gateway()
    begin_run(gateway)
    host.write_policy(default="allow")
    host.reload()
    wait_until(lambda: host.status()["admission"] == "closed", seconds=20, what="closed admission")
    assert gateway.ask("POST", "/v1/runs", run("new"))[0] == 403
    assert gateway.ask("POST", "/v1/tool-calls", call("read"))[1]["decision"] == "allow"
    host.write_policy(revision=2)
    host.reload()
    wait_until(lambda: host.status()["admission"] == "open", seconds=20, what="open admission")
    assert host.status()["policy"]["revision"] == 2


@pytest.mark.parametrize(
    "change",
    [{"policy": {"revision": 2}}, {"autonomy": "strict"}],
    ids=["another policy", "another autonomy"],
)
def test_a_policy_is_proved_only_when_the_daemon_obeys_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    host.start()
    systemctl = host.folder / "systemctl"
    systemctl.write_text("#!/bin/sh\necho active\n")
    systemctl.chmod(0o755)
    monkeypatch.setattr(cli, "SYSTEMCTL", str(systemctl))
    ask = ["check-policy", "--in-force", "--tenant", str(host.folder / "tenant.json")]
    ask += ["--status-socket", str(host.path("status")), str(host.folder / "policy.json")]
    assert cli.main(ask) == 0
    host.write_policy(**change.get("policy", {}))
    if "autonomy" in change:
        (host.folder / "tenant.json").write_text(json.dumps(change))
    assert cli.main(ask) == 1
    assert "the daemon obeys another policy" in capsys.readouterr().err
    host.reload()
    wait_until(lambda: cli.main(ask) == 0, seconds=20, what="the new policy in force")
    host.stop()
    assert cli.main(ask) == 1, "a daemon that systemd calls active must answer"
    systemctl.write_text("#!/bin/sh\necho inactive\nexit 3\n")
    assert cli.main(ask) == 0, "one that does not run will read the policy when it starts"


def test_a_daemon_without_a_valid_policy_does_not_start(host: Host) -> None:
    host.write_policy(default="allow")
    with pytest.raises(AssertionError, match=r"policy\.default"):
        host.start()


def test_a_question_waits_with_signs_of_life_and_is_denied_when_nobody_answers(host: Host) -> None:
    host.write_policy(ask_timeout_s=4)
    host.start()
    gateway = host.gateway()
    begin_run(gateway)
    answer = gateway.ask("POST", "/v1/tool-calls", call("write"))[1]
    assert answer["decision"] == "deny"
    assert answer["reason"] == "nobody allowed it within 4 s"
    assert host.status()["approvals"]["expired"] == 1


def test_a_question_is_decided_by_a_person(host: Host) -> None:
    host.write_policy(ask_timeout_s=60)
    host.start()
    gateway = host.gateway()
    begin_run(gateway)
    for call_id, decision in (("one", "allow"), ("two", "deny")):
        gateway.send("POST", "/v1/tool-calls", call("write", call_id, path="x"))
        wait_until(lambda: host.status()["approvals"]["waiting"], seconds=20, what="a question")
        question = host.root("GET", "/v1/approvals")[1][0]
        assert (question["tool"], question["params"]) == ("write", '{"path": "x"}')
        target, body = f"/v1/approvals/{question['id']}/decision", {"decision": decision, "approver": "p"}
        assert host.root("POST", target, body)[0] == 204
        assert host.root("POST", target, body)[0] == 404
        assert gateway.receive()[1]["decision"] == decision


def test_a_question_whose_asker_hung_up_is_withdrawn(host: Host) -> None:
    host.write_policy(ask_timeout_s=300)
    host.start()
    gateway = host.gateway()
    begin_run(gateway)
    gateway.send("POST", "/v1/tool-calls", call("write"))
    wait_until(lambda: host.status()["approvals"]["waiting"], seconds=20, what="a question")
    kill_namespace_of(gateway)  # first: whoever lost its parent is nobody's child any more
    os.kill(gateway.process.pid, signal.SIGKILL)
    wait_until(lambda: not host.status()["approvals"]["waiting"], seconds=20, what="no question")
    assert host.status()["approvals"]["withdrawn"] == 1


def kill_namespace_of(peer: Peer) -> None:
    children = Path(f"/proc/{peer.process.pid}/task/{peer.process.pid}/children")
    for pid in children.read_text().split() if children.exists() else []:
        os.kill(int(pid), signal.SIGKILL)


def test_a_model_call_waits_a_moment_for_the_report_that_frees_its_run(running: Host) -> None:
    gateway, proxy = running.gateway(), running.proxy()
    nonce = begin_run(gateway)
    gateway.ask("POST", "/v1/tool-calls", call("read"))
    proxy.send("POST", "/v1/admissions", admission(nonce))
    time.sleep(0.2)  # long enough that the question has arrived; the result is the same if it has not
    gateway.ask("POST", "/v1/tool-calls/c/end", {"run_id": "r"})
    assert proxy.receive()[1]["admitted"] is True


def test_a_run_in_a_tool_is_refused_after_that_moment(running: Host) -> None:
    gateway, proxy = running.gateway(), running.proxy()
    nonce = begin_run(gateway)
    gateway.ask("POST", "/v1/tool-calls", call("read"))
    assert proxy.ask("POST", "/v1/admissions", admission(nonce))[1]["reason"] == "run_in_tool"


def test_a_canary_turn_is_denied_sunk_and_recorded(host: Host) -> None:
    host.write_policy(tools={"exec": "allow"})
    host.start()
    gateway, proxy = host.gateway(), host.proxy()
    canary = host.root("POST", "/v1/canaries")[1]["canary"]
    record = f"/v1/canaries/{canary}"
    assert host.root("GET", record)[1]["passed"] is False
    nonce = begin_run(gateway)
    admitted = proxy.ask("POST", "/v1/admissions", admission(nonce, canaries=(canary,)))[1]
    assert admitted["route"] == "sink"
    proxy.ask("POST", f"/v1/admissions/{admitted['admission_id']}/end", END)
    decision = gateway.ask("POST", "/v1/tool-calls", call("exec", command=f"true # {canary}"))[1]
    assert (decision["decision"], decision["rule"]) == ("deny", "canary")
    assert host.root("GET", record)[1]["passed"] is False, "the denial has not come back to the model yet"
    gateway.ask("POST", "/v1/runs/r/model-calls", {"call_id": "2"})
    proxy.ask("POST", "/v1/admissions", admission(nonce, canaries=(canary,)))
    whole = {"before_agent_run": True, "before_tool_call": True, "tool_denied": True, "admitted": 2}
    assert host.root("GET", record)[1] == {**whole, "passed": True}


def test_a_canary_serves_one_run_and_an_unknown_one_goes_upstream(running: Host) -> None:
    gateway, proxy = running.gateway(), running.proxy()
    canary = running.root("POST", "/v1/canaries")[1]["canary"]
    first, second = begin_run(gateway, "first"), begin_run(gateway, "second")
    ask = [admission(first, canaries=(canary,)), admission(second, canaries=(canary, "tfcanary-unknown"))]
    routes = [proxy.ask("POST", "/v1/admissions", body)[1]["route"] for body in ask]
    assert routes == ["sink", "upstream"]


def test_a_malformed_request_is_refused_and_changes_nothing(running: Host) -> None:
    gateway = running.gateway()
    changes: list[dict[str, object]] = [{"extra": 1}, {"run_id": 7}, {"run_id": ""}]
    bodies: list[object] = [None, [], {}, *({**run(), **change} for change in changes)]
    for body in bodies:
        assert gateway.ask("POST", "/v1/runs", body)[0] == 400, body
    assert running.status()["runs_live"] == 0
