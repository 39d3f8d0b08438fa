"""Proof 7, after a provision: the payload's secrets are in the host's vault and nowhere else, on both sides.

The tenant looked at is one that nobody has told its own secrets: what a user types is in the conversation.
"""

import subprocess
from pathlib import Path

import pytest

from tests.proofs.tenants import Fleet, Tenant, needles

pytestmark = pytest.mark.lab

HOST_FOLDERS = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
DRIVER_FOLDERS = (
    "/dev/shm",
    "/tmp",
    "/run",
    "/var/log",
    *(str(Path.home() / name) for name in (".ansible", ".ssh", ".local")),
)
SEARCH = """
import os, pathlib, subprocess, sys
needles = [line.encode() for line in sys.stdin.read().splitlines()]
def look(name, content):
    if any(needle in content for needle in needles):
        print(name)
for root in sys.argv[1:]:
    for folder, folders, files in os.walk(root):
        for file in files:
            path = os.path.join(folder, file)
            try:
                if os.path.isfile(path) and not os.path.islink(path):
                    look(path, pathlib.Path(path).read_bytes())
            except OSError:
                pass
for process in filter(str.isdigit, os.listdir("/proc")):
    for part in ("environ", "cmdline"):
        try:
            look(f"/proc/{process}/{part}", pathlib.Path("/proc", process, part).read_bytes())
        except OSError:
            pass
for command in (["journalctl", "--no-pager", "--output=json"], ["podman", "inspect", "openclaw"],
                ["podman", "secret", "ls", "--format", "json"], ["systemctl", "show", "*"]):
    look(" ".join(command), subprocess.run(command, capture_output=True).stdout)
print("searched")
"""


def needle_lines(tenant: Tenant) -> str:
    return "\n".join(needles(tenant.secrets.values()))


@pytest.fixture
def untold(provisioned: Fleet) -> Tenant:
    return provisioned.tenants[1]


def test_the_host_keeps_them_in_its_vault_only(untold: Tenant) -> None:
    program = "/run/search-for-secrets.py"
    untold.agent.on_host("sh", "-c", 'printf %s "$1" > "$2"', "sh", SEARCH, program)
    found = untold.agent.on_host(
        "/usr/bin/python3", program, *HOST_FOLDERS, timeout_s=600, stdin=needle_lines(untold)
    )
    assert found.returncode == 0, found.stderr
    # systemd shows a unit its own credentials, in memory that only the unit's account reads
    left = [line for line in found.stdout.splitlines() if not line.startswith("/run/credentials/")]
    assert left == ["searched"]


def test_the_search_finds_what_is_there(untold: Tenant) -> None:
    secret = untold.secrets["provider.openai"]
    untold.agent.on_host("sh", "-c", 'printf "x%sx" "$1" > /var/tmp/planted', "sh", secret)
    program = "/run/search-for-secrets.py"
    untold.agent.on_host("sh", "-c", 'printf %s "$1" > "$2"', "sh", SEARCH, program)
    found = untold.agent.on_host(
        "/usr/bin/python3", program, "/var/tmp", timeout_s=600, stdin=needle_lines(untold)
    )
    untold.agent.on_host("rm", "/var/tmp/planted")
    assert "/var/tmp/planted" in found.stdout.splitlines()


def test_the_driver_keeps_them_nowhere(provisioned: Fleet, untold: Tenant) -> None:
    folders = [str(provisioned.control.home), *DRIVER_FOLDERS]
    argv = ["grep", "--recursive", "--files-with-matches", "--binary-files=text", "--fixed-strings"]
    argv += ["--devices=skip", "--file=-", *(folder for folder in folders if Path(folder).is_dir())]
    planted = provisioned.control.home / "planted"
    planted.write_text(f"x{untold.secrets['provider.openai']}x", encoding="utf-8")
    found = subprocess.run(argv, input=needle_lines(untold), check=False, capture_output=True, text=True)
    planted.unlink()
    assert found.stdout.split() == [str(planted)], "the search must find what is there, and nothing else"
