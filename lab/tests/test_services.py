"""The services around the hosts, as hosts see them: by name, over TLS, with the system's own trust."""

import json
import re

import pytest

from lab.tests.conftest import Bench

pytestmark = pytest.mark.lab

ASK_TIME = """
import socket
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(10)
link.sendto(bytes([0x23]) + bytes(47), (GATEWAY, 123))
answer = link.recv(512)
print(answer[0] & 7, answer[1])
"""

# An image without a base: one program and its libraries.
PUSH = """set -eu
settings=/etc/containers/containers.conf.d/10-lab.conf
printf '[containers]\\npids_limit = 0\\n' | install -D /dev/stdin $settings
rm -rf /tmp/tree; mkdir -p /tmp/tree
programs='/bin/sleep /bin/touch /bin/id'
for file in $programs $(ldd $programs | grep -o '/[^ :]*' | sort -u); do
  install -D "$file" "/tmp/tree$file"
done
tar -C /tmp/tree -c . | podman import -q - registry.lab.test:5000/lab/tiny:1 >/dev/null
podman push -q --digestfile /tmp/digest registry.lab.test:5000/lab/tiny:1
podman rmi -a >/dev/null
cat /tmp/digest
"""
QUADLET = """[Container]
Image={image}
Exec=/bin/sleep 1000
Network=host
User=2101
ReadOnly=true
[Service]
MemoryMax=300M
TasksMax=100
"""


def test_a_package_comes_through_the_cache_which_keeps_it(pair: Bench) -> None:
    pair.ssh("a1", "sudo apt-get update -qq && sudo apt-get install -y -qq tree && tree --version")
    assert list((pair.lab.services / "apt-cache/cache").glob("**/tree_*.deb"))


def test_the_store_serves_files_to_who_trusts_the_system_and_takes_none(pair: Bench) -> None:
    (pair.lab.store / "hello").write_text("from the store")
    for family in ("-4", "-6"):
        said = pair.ssh("a1", f"curl {family} -sS --fail https://releases.lab.test:8443/hello")
        assert said == "from the store"
    code = "curl -sS -o /dev/null -w '%{http_code}' -T /etc/hostname https://releases.lab.test:8443/new"
    assert pair.ssh("a1", code) == "405"
    assert not (pair.lab.store / "new").exists()


def test_who_does_not_trust_the_lab_refuses_its_certificate(pair: Bench) -> None:
    pair.ssh(
        "a1", "curl -sS --cacert /dev/null --capath /nonexistent https://releases.lab.test:8443/", status=77
    )


def test_the_model_answers_and_its_requests_are_recorded(pair: Bench) -> None:
    before = len(list((pair.lab.services / "model/records").iterdir()))
    said = pair.ssh("a1", "curl -sS -H 'Authorization: Bearer x' https://model.lab.test:9443/v1/models")
    assert json.loads(said)
    assert len(list((pair.lab.services / "model/records").iterdir())) > before


def test_the_time_server_answers_hosts(pair: Bench) -> None:
    said = pair.ssh("a1", "python3 -", stdin=ASK_TIME.replace("GATEWAY", repr(pair.lab.gateway)))
    assert said == "4 8"  # a server's answer, at the lab's stratum


def test_names_of_the_world_outside_are_forwarded_and_unknown_lab_names_are_not(pair: Bench) -> None:
    pair.ssh("a1", "getent hosts deb.debian.org")
    pair.ssh("a1", "getent hosts nobody.lab.test", status=2)


@pytest.fixture(scope="module")
def podman(pair: Bench) -> str:
    """a1 with podman; the image's address by digest in the lab's registry."""
    packages = "podman crun netavark aardvark-dns iptables catatonit"
    pair.ssh(
        "a1",
        "sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive"
        f" apt-get install -y -qq --no-install-recommends {packages} 2>&1",
    )
    digest = pair.ssh("a1", "sudo sh -s", stdin=PUSH).splitlines()[-1]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    return f"registry.lab.test:5000/lab/tiny@{digest}"


def test_podman_pulls_by_digest_and_runs_confined(pair: Bench, podman: str) -> None:
    options = "--rm --network=host --user 2101 --read-only --cap-drop=all --security-opt=no-new-privileges"
    assert pair.ssh("a1", f"sudo podman run {options} {podman} /bin/id -u").splitlines()[-1] == "2101"
    said = pair.ssh("a1", f"sudo podman run {options} {podman} /bin/touch /x 2>&1", status=1)
    assert "Read-only file system" in said


def test_a_digest_that_the_registry_does_not_have_is_not_pulled(pair: Bench, podman: str) -> None:
    pair.ssh("a1", f"sudo podman pull -q {podman.partition('@')[0]}@sha256:{'0' * 64}", status=125)


def test_a_quadlet_becomes_a_service(pair: Bench, podman: str) -> None:
    unit = "/etc/containers/systemd/nap.container"
    pair.ssh("a1", f"sudo install -D /dev/stdin {unit}", stdin=QUADLET.format(image=podman))
    pair.ssh("a1", "sudo systemctl daemon-reload && sudo systemctl start nap && systemctl is-active nap")
    assert pair.ssh("a1", "sudo podman inspect -f '{{.State.Running}}' systemd-nap") == "true"
    pair.ssh("a1", f"sudo systemctl stop nap && sudo rm {unit} && sudo systemctl daemon-reload")


def test_what_was_pushed_and_cached_outlives_down(pair: Bench, podman: str) -> None:
    assert podman
    pair.run("down")
    kept = pair.lab.services
    assert list((kept / "registry/storage").glob("**/tiny"))
    assert list((kept / "apt-cache/cache").glob("**/tree_*.deb"))
    pair.run("up", "a1", "a2")
