"""The demonstration: a lab, three orders, three guarded tenants, and what guards them, shown one by one."""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lab import endpoints, fleet
from lab.control import Control
from lab.conversation import Agent, ModelRecord, Turn
from lab.state import Lab, LabError

HOSTS = ("a1", "a2", "a3")
GATEWAY_READY = "http://127.0.0.1:18789/readyz"
# what inventories/dev reads, so that plain Ansible sees the lab's machines
MACHINES = fleet.ROOT / "inventories/dev/machines.yml"
TENANTS = ("acme", "borealis", "cumulus")


class NotAsPromisedError(Exception):
    """A guarantee did not hold; the text says what was seen instead."""


@dataclass
class Story:
    """Chapters with their durations; colour in a terminal, plain lines otherwise."""

    console: Console
    took: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        self.console.rule(f"[bold]{title}", align="left", style="dim")
        began = time.monotonic()
        yield
        self.took.append((title, time.monotonic() - began))
        self.console.print(f"[dim]{self.took[-1][1]:6.1f} s[/]")

    def promise(self, text: str, proof: Callable[[], str]) -> None:
        """State a guarantee, try it for real, and say what was seen."""
        began = time.monotonic()
        seen = proof()
        self.console.print(
            f"  [green]holds[/] {text}\n        [dim]{seen}  ({time.monotonic() - began:.1f} s)[/]",
            markup=True,
        )

    def where_the_time_went(self) -> None:
        table = Table(box=None, show_header=False)
        for title, seconds in self.took:
            table.add_row(title, f"{seconds:.0f} s")
        table.add_row("[bold]in all", f"[bold]{sum(seconds for _, seconds in self.took):.0f} s")
        self.console.print(table)


def show(story: Story, control: Control, *argv: str) -> None:
    """Run one of the product's own commands in front of the reader.

    Raises NotAsPromisedError when it fails.
    """
    story.console.print(
        f"[cyan]$[/] {Path(argv[0]).name} {' '.join(argv[1:])}", highlight=False, soft_wrap=True
    )
    done = subprocess.run(argv, check=False, env=control.environment, cwd=fleet.ROOT)
    if done.returncode:
        raise NotAsPromisedError(f"{Path(argv[0]).name} {argv[1]} ended with {done.returncode}")


def demonstrate(story: Story, control: Control) -> None:
    lab_command = str(fleet.ROOT / ".venv/bin/lab")
    with story.chapter("A lab: three bare Debian 13 hosts, a registry, a release store, a model"):
        show(story, control, lab_command, "up", *HOSTS)
        if control.home.exists():
            story.console.print("  an earlier demonstration is here: its hosts and environment start over")
            show(story, control, lab_command, "reset", *HOSTS)
            shutil.rmtree(control.home)
        MACHINES.unlink(missing_ok=True)
        MACHINES.symlink_to(control.lab.root / "machines.yml")
    with story.chapter("A release: every input named by its digest"):
        release = fleet.publish(control.lab)
        story.console.print(f"  {release}")
    with story.chapter("An environment, and three orders with sealed secrets"):
        control.init()
        keys = {tenant: f"sk-demo-{secrets.token_hex(16)}" for tenant in TENANTS}
        orders = [
            control.order(tenant, release=release, secrets=_secrets(keys[tenant])) for tenant in TENANTS
        ]
        story.console.print("  " + ", ".join(path.name for path in orders))
    with story.chapter("From order to guarded tenant"):
        show(story, control, *control.command("provision", *map(str, orders)))
    with story.chapter("What guards them"):
        guarantees(story, control, key=keys[TENANTS[0]], order=orders[0])


def _secrets(key: str) -> dict[str, str]:
    return {"provider.openai": key, "tools.crm.db_password": secrets.token_urlsafe(18)}


def guarantees(story: Story, control: Control, *, key: str, order: Path) -> None:
    tenant = control.status(TENANTS[0])["orders"][-1]
    agent = Agent(control.lab, str(tenant["machine"]).removeprefix("lab-"))
    record = ModelRecord(Path(endpoints.info(control.lab)["model_record_dir"]))
    story.promise("a tool call that the policy allows runs", lambda: allowed(agent))
    story.promise("one that it denies does not run, and the model is told why", lambda: denied(agent, record))
    story.promise("a registered secret never reaches the model", lambda: redacted(agent, record, key))
    story.promise("around the proxy there is no way out, not even to the resolver", lambda: no_way_out(agent))
    story.promise(
        "without the wrapper no model hears the agent, ready or not", lambda: unguarded(agent, record)
    )
    story.promise("a second provision changes nothing", lambda: unchanged(control, order))


def allowed(agent: Agent) -> str:
    mark = secrets.token_hex(8)
    turn = agent.say("leave a mark", script=[_exec(f"echo {mark} > mark.txt"), {"text": "left"}])
    found = agent.inside("cat", "/var/lib/openclaw/workspace/mark.txt").stdout.strip()
    _require(found == mark, f"the mark is {found!r}", turn)
    return f"exec wrote {mark} into the workspace"


def denied(agent: Agent, record: ModelRecord) -> str:
    agent.inside("mkdir", "-p", "/var/lib/openclaw/workspace/kept")
    before = len(record.requests())
    turn = agent.say("clean up", script=[_exec("rm -rf kept"), {"text": "tried"}])
    still = agent.inside("ls", "-d", "/var/lib/openclaw/workspace/kept")
    _require(still.returncode == 0, "the folder is gone", turn)
    told = any(b"a recursive delete cannot be taken back" in body for body in record.since(before))
    _require(told, "the model was not told why", turn)
    return "rm -rf kept: the folder is still there; the model reads 'a recursive delete cannot be taken back'"


def redacted(agent: Agent, record: ModelRecord, key: str) -> str:
    before = len(record.requests())
    turn = agent.say(f"my key is {key}", script=[_exec(f"echo {key}"), {"text": "seen"}])
    sent = record.since(before)
    leaks = sum(body.partition(b"\r\n\r\n")[2].count(key.encode()) for body in sent)
    _require(bool(sent) and leaks == 0, f"{leaks} copies in {len(sent)} requests", turn)
    return f"in the prompt, in a command and in its output: {len(sent)} requests to the model, no copy"


def no_way_out(agent: Agent) -> str:
    gateway = endpoints.info(agent.lab)["gateway"]
    seen = {}
    for name, port in (
        ("registry", endpoints.REGISTRY_PORT),
        ("model", endpoints.MODEL_PORT),
        ("resolver", 53),
    ):
        script = (
            f"const s = require('net').connect({port}, '{gateway}');"
            "const end = word => { console.log(word); process.exit() };"
            "s.on('error', e => end(e.code)); s.on('connect', () => end('OPEN'))"
        )
        seen[name] = agent.inside("/opt/node/bin/node", "-e", script).stdout.strip()
    # another error would mean that the packet left and somebody else refused it
    _require(set(seen.values()) <= {"EHOSTUNREACH", "EACCES"}, f"the connections said {seen}")
    return "from inside the container: " + ", ".join(f"{name} {word}" for name, word in seen.items())


def unguarded(agent: Agent, record: ModelRecord) -> str:
    before = len(record.requests())
    agent.on_host("systemctl", "stop", "tf-wrapper.service")
    ready = agent.on_host("curl", "--silent", "--fail", "--output", "/dev/null", GATEWAY_READY)
    _require(ready.returncode == 0, "the gateway is not ready, so its silence proves nothing")
    try:
        turn = agent.say("anybody there?")
    finally:
        agent.on_host("systemctl", "start", "tf-wrapper.service")
    sent = record.since(before)
    _require(not sent, f"the model saw {len(sent)} requests", turn)
    return "daemon stopped, gateway ready: 0 requests at the model"


def unchanged(control: Control, order: Path) -> str:
    (row,) = json.loads(control.run("provision", "--again", str(order), "--json").stdout)
    _require(row["changed"] == 0, f"changed: {row['changed']}")
    return "0 tasks changed"


def _exec(command: str) -> dict[str, object]:
    return {"tool": "exec", "arguments": {"command": command}}


def _require(held: bool, seen: str, turn: Turn | None = None) -> None:  # noqa: FBT001 (reads as an assertion)
    if not held:
        raise NotAsPromisedError(f"{seen}\n{turn.output[-2000:] if turn else ''}")


def next_commands(console: Console, control: Control) -> None:
    console.print(
        f"\nThe lab stays up. Next:\n"
        f"  export TENANTFLEET_HOME={control.home} LAB_DIR={control.lab.root}\n"
        "  .venv/bin/tenantfleet status acme               its orders and steps\n"
        "  .venv/bin/tenantfleet verify acme               read-only\n"
        "  .venv/bin/tenantfleet drift                     what another run would change\n"
        "  .venv/bin/tenantfleet operator certificate --key-file tf-ops --minutes 60\n"
        "  .venv/bin/ansible-playbook -i inventories/dev playbooks/tenant_verify.yml --private-key tf-ops\n"
        "  .venv/bin/lab exec a1 -- systemctl status openclaw tf-egress tf-wrapper tf-link\n"
        "  script/demo --down                              removes everything, caches too",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="remove everything that the demo made")
    given = parser.parse_args()
    lab = Lab.from_environment()
    control = Control(lab=lab, home=lab.root / "home", hosts=HOSTS)
    story = Story(Console(highlight=False))
    if given.down:
        subprocess.run([str(fleet.ROOT / ".venv/bin/lab"), "down", "--purge"], check=True)
        MACHINES.unlink(missing_ok=True)
        return
    if os.environ.get("TENANTFLEET_BOOTSTRAP_S"):
        story.took.append(
            ("Python, Ansible and the rest (script/bootstrap)", float(os.environ["TENANTFLEET_BOOTSTRAP_S"]))
        )
    try:
        demonstrate(story, control)
    except (NotAsPromisedError, LabError) as error:
        story.console.print(f"[red]stopped[/] {error}", markup=True)
        sys.exit(1)
    story.console.rule(style="dim")
    story.where_the_time_went()
    next_commands(story.console, control)


if __name__ == "__main__":
    main()
