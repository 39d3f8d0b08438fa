"""Stock modules as the oracle of the whole role set: what they repair is exactly what the role set made."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hosts, no_change_run, ways
from lab import world
from lab.host import Host
from lab.state import Lab

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(1500)]
NAME = "st-1"
GUARDED = "/etc/sudoers.d/tenantfleet"
# Damage of every kind but packages, harmless to who must log in to repair it.
BY_HAND = r"""
import json, os, sys
for kind, path in json.load(sys.stdin):
    if kind == "link":
        os.unlink(path)
    elif kind == "directory":
        os.chmod(path, 0o711)
    elif kind == "absent":
        open(path, "w").close()
    elif kind == "file":
        with open(path, "a") as file:
            file.write("# by hand\n")
"""
WHAT_RUNS = (
    "nft flush ruleset && sysctl -qw net.ipv4.tcp_syncookies=0 && gpasswd -d tf-ops tf-ssh >/dev/null"
    " && usermod -s /bin/bash tf-ops && systemctl -q disable --now apt-daily.timer && systemctl stop tf-link"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    chosen = Lab.from_environment()
    subprocess.run([hosts.LAB, "up", NAME], check=True)
    subprocess.run([hosts.LAB, "reset", NAME], check=True)
    yield chosen
    world.remove(chosen, [NAME])


def managed(folder: Path, host: str) -> list[tuple[str, str]]:
    """Kind and path of everything that the stock playbook delivers, the deepest first."""
    (play,) = json.loads((folder / "site.yml").read_text())
    own = json.loads((folder / f"host_vars/{host}.json").read_text())

    def filled(text: str) -> str:
        return re.sub(r"\{\{ (\w+) \}\}", lambda match: str(own[match[1]]), text)

    found: dict[str, str] = {}
    for task in play["tasks"]:
        if (copy := task.get("ansible.builtin.copy")) and copy.get("force", True):
            found[filled(copy["dest"])] = "file"
        if file := task.get("ansible.builtin.file"):
            found[filled(file["path"])] = file["state"]
    # sealed: nobody repairs a secret that they do not have
    kept = {path: kind for path, kind in found.items() if not path.startswith("/var/lib/tenantfleet/vault/")}
    return [(kept[path], path) for path in sorted(kept, key=len, reverse=True)]


def as_if_never_restarted(look: hosts.Look) -> hosts.Look:
    state = {name: re.sub(r"InvocationID=\w+", "", value) for name, value in look.state.items()}
    return hosts.Look(state=state, found=look.found)


def changed(account: ways.Account) -> int:
    assert account.used.exit_code == 0, account.log
    return sum(account.counted("changed").values())


def damage(host: Host, things: list[tuple[str, str]]) -> None:
    on_host(host, "/usr/bin/python3", "-c", BY_HAND, stdin=json.dumps(things))


def on_host(host: Host, *argv: str, stdin: str = "") -> None:
    command = [hosts.LAB, "exec", host.name, "--", *argv]
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stock_modules_bring_a_damaged_host_to_the_very_state_that_the_role_set_made(
    lab: Lab, tmp_path: Path
) -> None:
    made = no_change_run.prepare(lab, [NAME], say=sys.stderr.write)
    ((name, host),) = made.items()
    before = no_change_run.translated(lab, made, tmp_path, say=sys.stderr.write)[name]
    inventory: dict[str, Any] = hosts.inventory(lab, made)
    _, tuned = ways.stock(tmp_path)
    things = managed(tmp_path, name)
    damage(host, things)
    on_host(host, "sh", "-c", WHAT_RUNS)
    damaged = before.differs_from(hosts.look(made)[name])
    assert len(damaged) >= len(things), "the damage must be seen, else its repair proves nothing"

    assert changed(ways.play(lab, tuned, inventory)) >= len(things)
    repaired = hosts.look(made)[name]
    assert as_if_never_restarted(before).differs_from(as_if_never_restarted(repaired)) == []

    assert changed(ways.play(lab, ways.role_set(), inventory)) == 0, "the role set finds nothing left to do"
    assert repaired.differs_from(hosts.look(made)[name]) == []

    damage(host, [("file", GUARDED)])
    assert changed(ways.play(lab, ways.role_set(), inventory)) > 0
    mended = as_if_never_restarted(hosts.look(made)[name])
    assert as_if_never_restarted(before).differs_from(mended) == [], "also what it changes under its guard"
