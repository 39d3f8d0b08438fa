"""A guarded tenant without its host: real gateway, daemon and plugin, scripted model, own namespaces."""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from safety_wrapper.measurement import hash_plugin

TESTS = Path(__file__).resolve().parent
TREE = TESTS.parent
REPOSITORY = TREE.parents[1]
TEMPLATE = REPOSITORY / "roles" / "openclaw" / "templates" / "openclaw.json.j2"
OPENCLAW, EGRESS, WRAPPER = 2101, 2102, 2103
GATEWAY_PORT, EGRESS_PORT, MODEL_PORT = 18789, 18080, 9443
READY_S = 240.0
TURN_S = 240.0
ENTRY = "/opt/openclaw/node_modules/openclaw/openclaw.mjs"
UNIT = TEMPLATE.with_name("openclaw.container.j2")
# the unit's own: what is tested is what a host gets
ENVIRONMENT = {"PATH": "/opt/node/bin:/usr/bin:/bin"} | dict(
    line.removeprefix("Environment=").split("=", 1)
    for line in UNIT.read_text().splitlines()
    if line.startswith("Environment=")
)
POLICY: dict[str, Any] = {
    "version": 1,
    "revision": 1,
    "default": "deny",
    "tools": {
        "read": "allow",
        "write": "allow",
        "edit": "allow",
        "apply_patch": "allow",
        "process": "allow",
        "exec": "rules",
    },
    "rules": [
        {
            "id": "no-recursive-delete",
            "tool": "exec",
            "match": {"param": "command", "contains": ["rm -rf"]},
            "decision": "deny",
            "reason": "recursive deletion is not allowed here",
        },
        {
            "id": "ask-publish",
            "tool": "exec",
            "match": {"param": "command", "prefix": ["publish "]},
            "decision": "ask",
        },
        {"id": "exec-otherwise", "tool": "exec", "decision": "allow"},
    ],
    "ask_timeout_s": 6,
    "external_communication": "ask",
    "limits": {"tool_calls_per_minute": 600, "llm_calls_per_minute": 600, "llm_calls_per_run": 50},
    "loopback_ports": [],
}
LAUNCH = """
set -eu
echo $$ > "$CGROUP/cgroup.procs"
mount -t tmpfs -o mode=0755 none "$ROOT"
cd "$ROOT"
mkdir -p usr etc/openclaw opt/node opt/openclaw opt/tenantfleet/plugin run/openclaw run/tf-wrapper/plugin \
  var/lib/openclaw tmp proc dev
ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64; ln -s usr/sbin sbin
mount --bind /usr usr; mount --rbind /dev dev
mount -t proc proc proc
mount --bind "$OPENCLAW_TREE/node" opt/node
mount --bind "$OPENCLAW_TREE/openclaw" opt/openclaw
mount --bind "$PLUGIN" opt/tenantfleet/plugin
mount --bind "$WORLD/config" etc/openclaw
mount --bind "$WORLD/secrets" run/openclaw
mount --bind "$WORLD/sockets/plugin" run/tf-wrapper/plugin
mount --bind "$WORLD/state" var/lib/openclaw
mount -t tmpfs -o mode=1777 none tmp
echo 'root:x:0:0::/:/bin/sh' > etc/passwd
echo 'openclaw:x:2101:2101::/var/lib/openclaw:/bin/sh' >> etc/passwd
printf 'root:x:0:\\nopenclaw:x:2101:\\n' > etc/group
printf '127.0.0.1 localhost\\n' > etc/hosts
mount -o remount,ro "$ROOT"
exec chroot "$ROOT" setpriv --reuid=2101 --regid=2101 --clear-groups --no-new-privs --bounding-set=-all \
  -- "$@"
"""


def openclaw_tree() -> Path:
    """Return the folder with ``node/`` and ``openclaw/``, from OPENCLAW_TREE or the build's usual place."""
    tree = Path(os.environ.get("OPENCLAW_TREE", "/var/tmp/openclaw-tree"))
    if not (tree / "openclaw/node_modules/openclaw/openclaw.mjs").is_file():
        raise FileNotFoundError(
            f"{tree} holds no OpenClaw: build the release's tree first, or name one in OPENCLAW_TREE"
        )
    return tree


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:  # noqa: ANN401 -- the condition's
    """Return the first true value of ``condition``; fail with ``what`` when time is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return value


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str, body: object = None) -> tuple[int, Any]:
    """Send one request to a unix socket; return status and parsed body."""
    connection = UnixHttp(path)
    try:
        connection.request(method, target, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None
    finally:
        connection.close()


@dataclass
class World:
    """Starts and stops the parts; everything is below ``directory`` and dies with the block."""

    directory: Path
    tree: Path
    cgroup: Path
    control_group: str
    plugin: Path = field(init=False)  # what the unit says it mounts
    mounted: Path | None = None  # what is mounted in truth, where a case makes that something else
    daemon: subprocess.Popen[bytes] | None = None
    gateway: subprocess.Popen[bytes] | None = None
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    holder: subprocess.Popen[bytes] | None = None
    expected_sha256: str = ""
    starts: int = 0

    # -- preparation

    def prepare(self) -> None:
        self.directory.chmod(0o755)
        for name, uid, gid, mode in (
            ("config", 0, OPENCLAW, 0o750),
            ("secrets", 0, 0, 0o755),
            ("state", OPENCLAW, OPENCLAW, 0o700),
            ("state/workspace", OPENCLAW, OPENCLAW, 0o700),
            ("sockets", 0, 0, 0o755),
            ("sockets/plugin", WRAPPER, OPENCLAW, 0o750),
            ("sockets/admission", WRAPPER, EGRESS, 0o750),
            ("sockets/status", WRAPPER, WRAPPER, 0o755),
            ("root", 0, 0, 0o755),
            ("store", 0, 0, 0o755),
            ("logs", 0, 0, 0o755),
        ):
            path = self.directory / name
            path.mkdir()
            os.chown(path, uid, gid)
            path.chmod(mode)
        for name, value in (("gateway_token", "lab-gateway-token"), ("egress_bearer", "lab-egress-bearer")):
            path = self.directory / "secrets" / name
            path.write_text(value)
            os.chown(path, OPENCLAW, OPENCLAW)
            path.chmod(0o400)
        self.plugin = self.install_plugin("pinned")
        self.expected_sha256 = hash_plugin(self.plugin)
        self.write_config()
        self.write_policy(POLICY)
        (self.directory / "tenant.json").write_text(json.dumps({"autonomy": "standard"}))

    def install_plugin(self, name: str) -> Path:
        plugin = self.directory / "store" / name / "plugin"
        shutil.copytree(TREE / "plugin", plugin)
        for path in (plugin, *plugin.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.chown(path, 0, 0)
        plugin.parent.chmod(0o755)
        return plugin

    def write_config(self) -> None:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 -- JSON
        environment.filters["to_json"] = json.dumps
        # the role's own defaults: what is tested is what a host gets
        variables = yaml.safe_load((TEMPLATE.parents[1] / "defaults/main.yml").read_text()) | {
            "openclaw_gateway_port": GATEWAY_PORT,
            "openclaw_egress_base_url": f"http://127.0.0.1:{EGRESS_PORT}/lab/v1",
            "openclaw_model": "lab-1",
        }
        text = environment.from_string(TEMPLATE.read_text()).render(variables)
        path = self.directory / "config" / "openclaw.json"
        path.write_text(json.dumps(json.loads(text), indent=1))
        os.chown(path, 0, OPENCLAW)
        path.chmod(0o640)

    def write_policy(self, policy: dict[str, Any]) -> None:
        (self.directory / "policy.json").write_text(json.dumps(policy))

    def use_policy(self, policy: dict[str, Any]) -> None:
        """Put a policy in force as an operator's reload does."""
        self.write_policy(policy)
        if self.daemon is None:
            return
        self.daemon.send_signal(signal.SIGHUP)
        digest = hashlib.sha256((self.directory / "policy.json").read_bytes()).hexdigest()
        wait_until(lambda: self.status()["policy"]["sha256"] == digest, seconds=20, what="the new policy")

    def relay_said(self) -> list[dict[str, Any]]:
        """All questions that the relay asked, with the nonces it saw and the daemon's answers."""
        return [json.loads(line) for line in self.log("relay.log", last=10**7).splitlines()]

    def write_properties(self) -> None:
        """Say what systemd would say about the gateway's unit."""
        volume = f"-v {self.plugin}:/opt/tenantfleet/plugin:ro"
        start = f"{{ path=/usr/bin/podman ; argv[]=/usr/bin/podman run {volume} image ; }}"
        (self.directory / "properties").write_text(
            f"ExecStart={start}\nInvocationID={self.starts:032x}\nControlGroup={self.control_group}\n"
        )

    # -- parts

    def _spawn(self, argv: list[str], log: str, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 -- Popen's
        with (self.directory / "logs" / log).open("ab") as output:
            return subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, **options)

    def in_network(self, *argv: str) -> list[str]:
        assert self.holder is not None
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--", *argv]

    def start_network(self) -> None:
        self.holder = self._spawn(["unshare", "--net", "--", "sleep", "infinity"], "holder.log")
        mine = Path("/proc/self/ns/net").stat().st_ino
        theirs = Path(f"/proc/{self.holder.pid}/ns/net")
        wait_until(lambda: theirs.stat().st_ino != mine, seconds=20, what="a network namespace")
        subprocess.run(self.in_network("ip", "link", "set", "lo", "up"), check=True)

    def start_services(self) -> None:
        record = str(self.directory / "record")
        model = ["-m", "lab.model_server", "--listen", f"127.0.0.1:{MODEL_PORT}", "--record-dir", record]
        self.others.append(self._spawn(self.in_network(sys.executable, *model), "model.log", cwd=REPOSITORY))
        admission = str(self.directory / "sockets/admission/admission.sock")
        relay = [str(TESTS / "relay.py"), str(EGRESS_PORT), f"http://127.0.0.1:{MODEL_PORT}/v1", admission]
        self.others.append(
            self._spawn(self.in_network(sys.executable, *relay, str(EGRESS), str(EGRESS)), "relay.log")
        )
        for port in (MODEL_PORT, EGRESS_PORT):
            wait_until(partial(self.listens, port), seconds=60, what=f"port {port}")

    def listens(self, port: int) -> bool:
        assert self.holder is not None
        rows = Path(f"/proc/{self.holder.pid}/net/tcp").read_text().splitlines()[1:]
        return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)

    def start_daemon(self, *, plugin_sha256: str | None = None) -> None:
        sockets = self.directory / "sockets"
        config = {
            "version": 1,
            "plugin_sha256": plugin_sha256 or self.expected_sha256,
            "plugin_store": str(self.directory / "store"),
            "policy": str(self.directory / "policy.json"),
            "tenant": str(self.directory / "tenant.json"),
            "sockets": {
                name: str(sockets / name / f"{name}.sock") for name in ("plugin", "admission", "status")
            },
        }
        self.write_properties()
        (self.directory / "wrapper.json").write_text(json.dumps(config))
        entry = [str(TESTS / "daemon_entry.py"), str(self.directory / "wrapper.json")]
        users = [str(WRAPPER), str(WRAPPER), str(OPENCLAW), str(EGRESS)]
        argv = [sys.executable, *entry, str(self.directory / "properties"), *users]
        self.daemon = self._spawn(argv, "daemon.log")
        wait_until(self.daemon_answers, seconds=30, what=f"the daemon\n{self.log('daemon.log')}")

    def daemon_answers(self) -> bool:
        with contextlib.suppress(OSError):
            return ask(self.status_socket, "GET", "/v1/status")[0] == 200
        return False

    @property
    def status_socket(self) -> Path:
        return self.directory / "sockets/status/status.sock"

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = ask(self.status_socket, "GET", "/v1/status")[1]
        return answer

    def start_gateway(self) -> None:
        self.starts += 1
        self.write_properties()
        environment = {
            "PATH": os.environ["PATH"],
            "CGROUP": str(self.cgroup),
            "ROOT": str(self.directory / "root"),
            "WORLD": str(self.directory),
            "OPENCLAW_TREE": str(self.tree),
            "PLUGIN": str(self.mounted or self.plugin),
        }
        run = ["env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items())]
        run += ["/opt/node/bin/node", ENTRY, "gateway", "run"]
        namespaces = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        argv = self.in_network(*namespaces, "--", "sh", "-c", LAUNCH, "launch", *run)
        self.gateway = self._spawn(argv, "gateway.log", env=environment)
        wait_until(self.gateway_ready, seconds=READY_S, what="the gateway's /readyz")

    def gateway_ready(self) -> bool:
        assert self.gateway is not None
        if self.gateway.poll() is not None:
            raise AssertionError(f"the gateway ended\n{self.log('gateway.log')}")
        probe = f"http://127.0.0.1:{GATEWAY_PORT}/readyz"
        argv = self.in_network(
            "curl", "--silent", "--fail", "--max-time", "5", "--output", "/dev/null", probe
        )
        return subprocess.run(argv, check=False).returncode == 0

    @property
    def gateway_pid(self) -> int:
        """The gateway's process id on the machine: the only child of ``unshare``, which nsenter became."""
        assert self.gateway is not None
        children = Path(f"/proc/{self.gateway.pid}/task/{self.gateway.pid}/children").read_text().split()
        return int(children[0])

    def inside(self, *argv: str, **environment: str) -> list[str]:
        """Return the command that runs ``argv`` as the agent beside the gateway, like ``podman exec``."""
        variables = [f"{key}={value}" for key, value in {**ENVIRONMENT, **environment}.items()]
        enter = ["nsenter", "-t", str(self.gateway_pid), "--net", "--mount", "--pid", "--root", "--wd"]
        drop = ["setpriv", "--reuid=2101", "--regid=2101", "--clear-groups", "--no-new-privs", "--"]
        return [*enter, "--", *drop, "env", "-i", *variables, *argv]

    def cli(self, *argv: str, seconds: float = TURN_S) -> subprocess.CompletedProcess[str]:
        command = self.inside("/opt/node/bin/node", ENTRY, *argv)
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)

    def turn(
        self, *steps: dict[str, Any], session: str, timeout_s: int = 120
    ) -> subprocess.CompletedProcess[str]:
        """Let an agent turn play ``steps``; the model's script travels in the user's message."""
        message = f"Please go on. [[script: {json.dumps(list(steps))}]]"
        return self.say(message, session=session, timeout_s=timeout_s)

    def refused_turn(self, *steps: dict[str, Any], session: str) -> None:
        """A turn that must get no model; the gateway may repeat its call for a while."""
        self.turn(*steps, session=session, timeout_s=40)

    def say(self, message: str, *, session: str, timeout_s: int = 120) -> subprocess.CompletedProcess[str]:
        options = ["--agent", "main", "--session-key", f"agent:main:{session}", "--json"]
        options += ["--timeout", str(timeout_s)]
        return self.cli("agent", *options, "--message", message)

    # -- ends

    def stop_daemon(self) -> None:
        self._stop(self.daemon)
        self.daemon = None

    def stop_gateway(self) -> None:
        if self.gateway is not None:
            # Pid 1 takes its namespace along. (--kill-child does not survive the change of user.)
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self.gateway_pid, signal.SIGKILL)
            self.gateway.wait(30)
        self.gateway = None

    def _stop(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        self.stop_gateway()
        self.stop_daemon()
        for process in (*self.others, self.holder):
            self._stop(process)
        with contextlib.suppress(FileNotFoundError):
            wait_until(self._cgroup_empty, seconds=20, what="an empty cgroup")
            self.cgroup.rmdir()

    def _cgroup_empty(self) -> bool:
        return not (self.cgroup / "cgroup.procs").read_text().strip()

    # -- evidence

    def log(self, name: str, last: int = 6000) -> str:
        path = self.directory / "logs" / name
        return path.read_text(errors="replace")[-last:] if path.exists() else "(no log)"

    def story(self) -> str:
        """All logs' ends: what a failed test prints."""
        names = ("daemon.log", "relay.log", "gateway.log")
        return "\n".join(f"--- {name}\n{self.log(name)}" for name in names)

    def model_requests(self) -> list[Path]:
        return sorted((self.directory / "record").glob("*.http"))


def unified_cgroup() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(mount)
    raise RuntimeError("this machine mounts no cgroup2, which the peer rule needs")


def own_control_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


@contextlib.contextmanager
def world(directory: Path) -> Iterator[World]:
    """Yield a prepared world with its network and services; nothing of it is left afterwards."""
    name = f"tf-wrapper-test-{os.getpid()}"
    control_group = f"{own_control_group().rstrip('/')}/{name}"
    cgroup = unified_cgroup() / control_group.lstrip("/")
    cgroup.mkdir()
    made = World(directory=directory, tree=openclaw_tree(), cgroup=cgroup, control_group=control_group)
    try:
        made.prepare()
        made.start_network()
        made.start_services()
        yield made
    finally:
        made.stop()
