"""Proof 7, during a provision: no process on either side shows a secret in its command line or environment.

`lab/process_watch.py` says how it looks and what it can miss.
"""

import secrets
import subprocess

import pytest

from lab.process_watch import watch
from tests.proofs.tenants import Fleet

pytestmark = pytest.mark.lab

LEAKS_FOR = "0.3"  # seconds; a task of a playbook takes longer


def test_no_process_showed_a_secret_while_tenants_were_provisioned(provisioned: Fleet) -> None:
    watched = provisioned.watched
    on_the_controller, on_the_hosts = {"ssh", "unshare"}, {"sudo", "systemd-run", "podman"}
    assert watched.programs >= on_the_controller | on_the_hosts, "the watch did not see both sides at work"
    assert watched.passes > 100
    assert watched.longest_pass_s < 5, "it was blind for too long to prove anything"
    assert watched.found == set()


@pytest.mark.parametrize("part", ["cmdline", "environ"])
@pytest.mark.parametrize("side", ["controller", "host"])
def test_the_watch_finds_a_process_that_shows_one(provisioned: Fleet, part: str, side: str) -> None:
    canary = f"sk-canary-{secrets.token_hex(16)}"
    leak = {
        "cmdline": ["sh", "-c", f"sleep {LEAKS_FOR}; true", canary],
        "environ": ["env", f"KEY={canary}", "sleep", LEAKS_FOR],
    }[part]
    with watch([canary]) as watched:
        if side == "host":
            # the words travel on standard input, so that only the host's own process shows them
            told = "\n".join(leak)
            provisioned.tenants[0].agent.on_host("xargs", "-d", "\\n", "env", stdin=told)
        else:
            subprocess.run(leak, check=True)
    assert any(f"in the {part} of" in found for found in watched.found), watched
