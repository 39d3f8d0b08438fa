"""Proof 11: an agent reaches a tool on the port that policy names, through nginx; past it the kernel refuses.

The stacks are the lab's: `notes` with PostgreSQL, which policy names, and `pages`, which it does not.
"""

import base64
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import endpoints, fleet
from lab.conversation import Agent
from tests.proofs.tenants import Fleet, Tenant
from tests.proofs.test_secrets_left_behind import HOST_FOLDERS, SEARCH
from tests.waiting import wait_until

pytestmark = pytest.mark.lab

NOTES, PAGES, UNNAMED = 18901, 18902, 18950
NOTES_API, NOTES_DB, PAGES_WEB = "10.210.1.2", "10.210.1.3", "10.210.2.2"
CONTAINERS = ("tf-notes_api_1", "tf-notes_db_1", "tf-pages_web_1")
REFUSED = {"EHOSTUNREACH", "EACCES"}
# Tried inside a container, all at once; a packet that the host drops is a timeout, and nobody's answer.
PROBE = """
import concurrent.futures, json, os, socket, sys
def attempt(place):
    try:
        socket.create_connection(tuple(place), timeout=4).close()
    except TimeoutError:
        return "dropped"
    except OSError as error:
        return os.strerror(error.errno)
    return "open"
places = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps(list(pool.map(attempt, places))))
"""
LISTEN = (
    "import socket, time; s = socket.create_server(('', {port})); print('ready', flush=True); time.sleep(600)"
)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """A tenant with both stacks, and what its last payload brought."""

    tenant: Tenant
    fleet: Fleet
    canary: str

    @property
    def agent(self) -> Agent:
        return self.tenant.agent

    def http(self, port: int, path: str, *argv: str) -> Any:  # noqa: ANN401 - what JSON holds
        """Ask a tool from the host itself, through nginx."""
        done = self.agent.on_host("curl", "-sS", "--fail", *argv, f"http://127.0.0.1:{port}{path}")
        assert done.returncode == 0, done.stderr + journal(self.agent)
        return json.loads(done.stdout)

    def order(self, *tools: str, release: str | None = None) -> None:
        """Bring the tenant to these tools, and wait."""
        payload = {
            "provider.openai": self.tenant.secrets["provider.openai"],
            "tools.notes.db_password": self.canary,
        }
        control = self.fleet.control
        path = control.order(
            self.tenant.id, release=release or self.fleet.release, secrets=payload, tools=tools
        )
        done = control.run("provision", str(path), "--json", check=False)
        assert done.returncode == 0, done.stdout + done.stderr + journal(self.agent)


def journal(agent: Agent) -> str:
    units = ("nginx", "tf-tool-notes", "tf-tool-pages", "tf-activate-tool_notes", "tf-activate-tool_pages")
    argv = [word for unit in units for word in ("--unit", unit)]
    return agent.on_host("journalctl", "--no-pager", "--lines=80", *argv).stdout


@pytest.fixture(scope="module")
def tools(provisioned: Fleet) -> Tools:
    """The last tenant, ordered again with both stacks; one secret comes by payload."""
    made = Tools(
        tenant=provisioned.tenants[-1],
        fleet=provisioned,
        canary=f"pa\"ss\\{secrets.token_urlsafe(18)}'wörd",
    )
    made.order("notes", "pages")
    return made


@pytest.fixture
def unnamed_port(tools: Tools) -> Iterator[int]:
    """Something that listens on every address of the host, so that only the kernel can refuse it."""
    unit = f"proof-listener-{secrets.token_hex(4)}"
    program = ("/usr/bin/python3", "-c", LISTEN.format(port=UNNAMED))
    started = tools.agent.on_host(
        "systemd-run", "--quiet", f"--unit={unit}", "--property=Type=exec", *program
    )
    assert started.returncode == 0, started.stderr
    wait_until(
        lambda: bool(tools.agent.on_host("ss", "-Hltn", f"sport = :{UNNAMED}").stdout.strip()),
        what=f"a listener on {UNNAMED}",
    )
    yield UNNAMED
    tools.agent.on_host("systemctl", "stop", unit)


def knock(agent: Agent, address: str, port: int) -> str:
    """Try a connection as the agent's own account; the kernel's word, or OPEN."""
    script = (
        f"const s = require('net').connect({port}, '{address}');"
        "const end = word => { console.log(word); process.exit() };"
        "s.on('error', e => end(e.code)); s.on('connect', () => end('OPEN'))"
    )
    return agent.inside("/opt/node/bin/node", "-e", script).stdout.strip()


def test_an_allowed_call_reaches_the_tool_through_nginx(tools: Tools) -> None:
    mark = secrets.token_hex(8)
    call = f"curl -sS -X POST --data {mark} http://127.0.0.1:{NOTES}/notes"
    script: list[dict[str, object]] = [{"tool": "exec", "arguments": {"command": call}}, {"text": "kept"}]
    turn = tools.agent.say("keep a note", script=script)
    assert mark in tools.http(NOTES, "/notes")["notes"], turn.output + journal(tools.agent)


def test_past_the_named_port_the_kernel_refuses_the_agent(tools: Tools, unnamed_port: int) -> None:
    places = [
        (NOTES_API, 8080),
        (NOTES_DB, 5432),
        (PAGES_WEB, 8080),
        ("10.210.1.1", unnamed_port),
        ("127.0.0.1", PAGES),
        ("127.0.0.1", unnamed_port),
        ("::1", unnamed_port),
    ]
    assert knock(tools.agent, "127.0.0.1", NOTES) == "OPEN"
    said = {place: knock(tools.agent, *place) for place in places}
    assert set(said.values()) <= REFUSED, said


@pytest.mark.drawn("a way out of a stack")
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_stack_has_no_way_out_but_its_declared_destination(
    tools: Tools, unnamed_port: int, container: str
) -> None:
    place = endpoints.info(tools.fleet.control.lab)
    others = [(PAGES_WEB, 8080)] if "notes" in container else [(NOTES_API, 8080), (NOTES_DB, 5432)]
    subnet = "10.210.1.1" if "notes" in container else "10.210.2.1"
    forbidden = [
        (place["gateway"], endpoints.REGISTRY_PORT),
        (place["gateway"], endpoints.MODEL_PORT),
        (place["gateway"], 53),
        ("192.0.2.1", 443),
        ("169.254.169.254", 80),
        (place["gateway6"], endpoints.STORE_PORT),
        (subnet, 22),
        (subnet, 53),
        (subnet, unnamed_port),
        *others,
    ]
    own_loopback = [("127.0.0.1", port) for port in (18080, 18789, NOTES, PAGES, unnamed_port)]
    feeds = (place["gateway"], endpoints.STORE_PORT)
    said = probe(tools.agent, container, [*forbidden, *own_loopback, feeds])
    for where in forbidden:
        assert said[where] in {"dropped", "Network is unreachable"}, (where, said[where])
    for where in own_loopback:
        assert said[where] == "Connection refused", (where, said[where])
    assert said[feeds] == ("open" if "pages" in container else "dropped")


def probe(agent: Agent, container: str, places: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    argv = ("podman", "exec", container, "/usr/bin/python3", "-c", PROBE, json.dumps(places))
    done = agent.on_host(*argv)
    assert done.returncode == 0, done.stderr + journal(agent)
    return dict(zip(places, json.loads(done.stdout), strict=True))


@pytest.mark.drawn("sight of the host")
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_stack_sees_nothing_of_the_host(tools: Tools, container: str) -> None:
    hidden = (
        "/run/tf-wrapper",
        "/run/podman",
        "/run/dbus",
        "/var/lib/tenantfleet",
        "/opt/tenantfleet",
        "/run/credentials",
    )
    for path in hidden:
        seen = tools.agent.on_host("podman", "exec", container, "test", "-e", path)
        assert seen.returncode == 1, path
    (one,) = json.loads(tools.agent.on_host("podman", "inspect", container).stdout)
    assert not one["HostConfig"]["Privileged"]
    assert one["EffectiveCaps"] in (None, [])
    assert one["HostConfig"]["ReadonlyRootfs"]
    assert one["HostConfig"]["PortBindings"] == {}
    binds = [mount["Source"] for mount in one["Mounts"] if mount["Type"] == "bind"]
    assert all(source.startswith("/run/tf-tools/") for source in binds), binds


def test_a_tools_secret_is_in_the_vault_and_with_its_reader_only(tools: Tools) -> None:
    agent = tools.agent
    program = "/run/search-for-secrets.py"
    agent.on_host("sh", "-c", 'printf %s "$1" > "$2"', "sh", SEARCH, program)
    needles = [tools.canary, base64.b64encode(tools.canary.encode()).decode().rstrip("=")]
    stdin = "\n".join([*needles, json.dumps(tools.canary)[1:-1]])
    found = agent.on_host("/usr/bin/python3", program, *HOST_FOLDERS, timeout_s=600, stdin=stdin)
    left = {line for line in found.stdout.splitlines() if not line.startswith("/run/credentials/")}
    assert left == {"searched", "/run/tf-tools/notes/db_password"}, found.stdout + found.stderr
    told = agent.on_host("sh", "-c", "podman ps -aq | xargs podman inspect; podman secret ls").stdout
    assert tools.canary not in told
    assert json.dumps(tools.canary)[1:-1] not in told
    mode = agent.on_host("stat", "-c", "%u %a", "/run/tf-tools/notes/db_password").stdout
    assert mode == "2201 400\n"
    assert agent.inside("cat", "/run/tf-tools/notes/db_password").returncode != 0


def test_the_redaction_knows_a_tools_secret(tools: Tools) -> None:
    """What the agent echoes of it reaches no model."""
    record = tools.fleet.record
    before = len(record.requests())
    command = f"printf %s {base64.b64encode(tools.canary.encode()).decode()} | base64 -d"
    script: list[dict[str, object]] = [{"tool": "exec", "arguments": {"command": command}}, {"text": "seen"}]
    tools.agent.say("say it", script=script)
    core = tools.canary.split("\\")[1].split("'")[0].encode()
    sent = record.since(before)
    assert len(sent) > 1
    assert not [body for body in sent if core in body.partition(b"\r\n\r\n")[2]]


def test_a_second_provision_changes_nothing(tools: Tools) -> None:
    path = tools.fleet.control.home / "orders" / f"{tools.tenant.id}.yml"
    done = tools.fleet.control.run("provision", "--again", str(path), "--json")
    (row,) = json.loads(done.stdout)
    assert row["changed"] == 0, done.stdout + done.stderr


@contextmanager
def changed_stacks(tmp_path: Path) -> Iterator[Path]:
    """The lab's stacks with another edition of notes."""
    folder = shutil.copytree(fleet.STACKS, tmp_path / "stacks")
    template = folder / "notes/compose.yaml"
    template.write_text(template.read_text().replace('NOTES_EDITION: "1"', 'NOTES_EDITION: "2"'))
    yield folder


@pytest.mark.drawn("tools of an order")
def test_the_database_survives_an_update_to_another_release(tools: Tools, tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    tools.http(NOTES, "/notes", "--data", mark)
    assert tools.http(NOTES, "/healthz") == {"edition": "1"}
    with changed_stacks(tmp_path) as folder:
        release = fleet.publish(tools.fleet.control.lab, stacks=folder)
    tools.order("notes", "pages", release=release)
    assert tools.http(NOTES, "/healthz") == {"edition": "2"}
    assert mark in tools.http(NOTES, "/notes")["notes"]


@pytest.mark.drawn("tools of an order")
def test_a_stack_that_is_not_ordered_any_more_stops_and_keeps_its_data(tools: Tools) -> None:
    mark = secrets.token_hex(8)
    tools.http(NOTES, "/notes", "--data", mark)
    tools.order("pages")
    names = tools.agent.on_host("podman", "ps", "--all", "--format", "{{.Names}}").stdout.split()
    assert sorted(names) == ["openclaw", "tf-pages_web_1"]
    assert knock(tools.agent, "127.0.0.1", NOTES) in REFUSED
    assert "tf-notes_data" in tools.agent.on_host("podman", "volume", "ls", "--quiet").stdout.split()
    tools.order("notes", "pages")
    assert mark in tools.http(NOTES, "/notes")["notes"]


def test_an_order_for_an_unknown_tool_is_refused_with_the_list(tools: Tools) -> None:
    control = tools.fleet.control
    path = control.order(
        "tenant-x", release=tools.fleet.release, secrets={"provider.openai": "sk-x-123456"}, tools=["crm"]
    )
    done = control.run("provision", str(path), check=False)
    assert done.returncode == 10
    assert "no tool crm; it has notes, pages" in done.stdout + done.stderr


@pytest.mark.drawn("tools of an order")
def test_a_decommissioned_tenant_keeps_no_tool_and_no_data(tools: Tools) -> None:
    """The last: its tenant is gone afterwards."""
    tools.fleet.control.run("decommission", tools.tenant.id, "--yes")
    look = tools.agent.on_host
    assert look("podman", "ps", "--all", "--quiet").stdout == ""
    assert look("podman", "volume", "ls", "--quiet").stdout == ""
    assert look("podman", "network", "ls", "--quiet").stdout.split() == ["podman"]
    assert look("sh", "-c", "ls -d /opt/tenantfleet/tool_*").stdout == ""
