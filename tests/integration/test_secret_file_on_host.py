"""The vault on a real host: values get in by one path, and afterwards no byte of them lies anywhere else."""

import base64
import hashlib
import json
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.module_host import ModuleHost, Result, quoted
from tests.lab_hosts import lab

pytestmark = pytest.mark.lab

VAULT = "/var/lib/tenantfleet/vault"
GENERATE = [
    {"name": "redaction_key"},
    {"name": "egress_bearer", "bytes": 24},
    {"name": "node_key", "format": "ed25519_pem"},
]


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> ModuleHost:
    lab("up", "secrets")
    return ModuleHost("secrets", tmp_path_factory.mktemp("secrets"))


@pytest.fixture
def host(booted: ModuleHost) -> ModuleHost:
    booted.ssh(f"rm -rf {VAULT}")
    return booted


@pytest.fixture
def canaries() -> dict[str, str]:
    names = ("provider.openai", "gateway_token", "tools.crm.db_password")
    return {name: f"canary-{secrets.token_hex(16)}" for name in names}


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A file for the values on the controller, in memory as the driver's own."""
    path = Path("/dev/shm") / f"tf-{uuid.uuid4().hex}"
    path.touch(mode=0o600)
    yield path
    path.unlink()


def task(values_file: Path, values: dict[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any parameter
    values_file.write_text(json.dumps(values))
    looked_up = f"{{{{ lookup('ansible.builtin.file', '{values_file}') | from_json }}}}"
    return {"secret_file": {"values": looked_up, "generate": GENERATE, **more}}


def actions(result: Result) -> dict[str, str]:
    return {entry["name"]: entry["action"] for entry in result.task["secrets"]}


def digest_seen_by_a_service(host: ModuleHost, name: str) -> str:
    """What a service gets through LoadCredentialEncrypted=, as a digest: no test prints a value."""
    loaded = f"-p LoadCredentialEncrypted={name}:{VAULT}/{name}.cred -p DynamicUser=yes"
    read = 'sha256sum "$CREDENTIALS_DIRECTORY"/' + name
    return host.ssh(f"systemd-run --quiet --wait --pipe {loaded} /bin/sh -c {quoted(read)}").split()[0]


def sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def test_the_ladder_from_an_empty_vault_to_none(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    foreseen = host.call(task(in_memory, canaries), "--check")
    assert foreseen.changed
    assert host.ssh(f"ls {VAULT}", check=False) == ""

    first = host.call(task(in_memory, canaries))
    generated = dict.fromkeys(("redaction_key", "egress_bearer", "node_key"), "generated")
    assert actions(first) == dict.fromkeys([*canaries, "registry"], "created") | generated
    assert actions(foreseen) == actions(first)
    for name, value in canaries.items():
        assert digest_seen_by_a_service(host, name) == sha256(value)
    modes = host.ssh(f"stat -c '%U %a' {VAULT} {VAULT}/*.cred").splitlines()
    assert sorted(set(modes)) == ["root 600", "root 700"]
    second = host.call(task(in_memory, canaries))
    assert not second.changed
    assert set(actions(second).values()) == {"unchanged"}

    rotated = canaries | {"gateway_token": f"canary-{secrets.token_hex(16)}"}
    update = host.call(task(in_memory, rotated))
    assert {name for name, action in actions(update).items() if action != "unchanged"} == {
        "gateway_token",
        "registry",
    }
    assert digest_seen_by_a_service(host, "gateway_token") == sha256(rotated["gateway_token"])

    gone = host.call({"secret_file": {"remove": ["tools.crm.db_password"]}})
    assert actions(gone) == {"tools.crm.db_password": "removed", "registry": "updated"}
    assert host.call({"secret_file": {"state": "absent"}}, "--check").changed
    assert host.call({"secret_file": {"state": "absent"}}).changed
    assert host.ssh(f"ls -d {VAULT}", check=False) == ""
    assert not host.call({"secret_file": {"state": "absent"}}).changed


def test_the_registry_holds_every_value_by_name(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    host.call(task(in_memory, canaries))
    counts = "import json,sys; r=json.load(sys.stdin); print(*sorted(r), *map(len, r.values()))"
    read = f"systemd-creds decrypt --name=registry {VAULT}/registry.cred - | python3 -c {quoted(counts)}"
    names = host.ssh(read).split()[:6]
    assert names == sorted([*canaries, "redaction_key", "egress_bearer", "node_key"])


def test_no_byte_of_a_secret_is_left_behind_on_either_side(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ >&3 2>/dev/null"
    watch = f"exec 3>/run/watched; while [ -e /run/watch ]; do {look}; done"
    host.ssh(f"touch /run/watch; setsid sh -c {quoted(watch)} >/dev/null 2>&1 </dev/null &")
    quiet = host.call(task(in_memory, canaries, job_id="job-1") | {"no_log": True}, "-vvv", "--diff")
    loud = host.call(task(in_memory, canaries, job_id="job-1"), "-vvv", "--diff")
    replay = host.call(
        task(in_memory, {**canaries, "provider.openai": f"canary-{uuid.uuid4()}"}, job_id="job-1"), "-vvv"
    )
    short = host.call(task(in_memory, {**canaries, "gateway_token": "tiny1"}), "-vvv")
    host.ssh("rm /run/watch")
    assert not quiet.failed, quiet.stdout
    assert not loud.changed
    assert replay.failed
    assert short.failed
    assert "gateway_token" in short.message
    assert "tiny1" not in short.stdout

    needles = [form for value in canaries.values() for form in encodings(value)]
    left = [
        str(path)
        for path in sorted(host.folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]
    assert left == []
    for result in (quiet, loud, replay, short):
        assert not any(needle in result.stdout.encode() for needle in needles)
    assert int(host.ssh("stat -c %s /run/watched")) > 100_000, "the watch of the process list saw nothing"
    # The needles get there by standard input, outside of the places: as arguments they would be found.
    places = "/run /etc /home /root /tmp /var /dev/shm /opt /usr/local /srv"
    found = host.ssh(
        f"mkdir /needles; mount -t tmpfs tmpfs /needles; cat > /needles/all; "
        f"grep -rlaF -f /needles/all --devices=skip {places}; "
        "journalctl --no-pager | grep -cF -f /needles/all; umount /needles; rmdir /needles",
        check=False,
        stdin=b"\n".join(needles),
    )
    assert found == "0", f"found in: {found}"


def encodings(value: str) -> list[bytes]:
    raw = value.encode()
    at_offsets = [base64.b64encode(b"x" * offset + raw)[4:-4] for offset in range(3)]
    return [raw, raw.hex().encode(), *at_offsets]


def test_a_consumed_job_is_resumed_with_its_values_and_refused_with_others(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    job = str(uuid.uuid4())
    assert host.call(task(in_memory, canaries, job_id=job)).changed
    assert not host.call(task(in_memory, canaries, job_id=job)).changed
    replay = host.call(task(in_memory, canaries | {"gateway_token": "canary-of-an-attacker"}, job_id=job))
    assert replay.failed
    assert "replay" in replay.message
    assert digest_seen_by_a_service(host, "gateway_token") == sha256(canaries["gateway_token"])
    other = host.call(
        task(in_memory, canaries | {"gateway_token": "canary-rotated"}, job_id=str(uuid.uuid4()))
    )
    assert other.changed
    assert host.call(task(in_memory, canaries, job_id=job)).failed, "the older payload must not come back"


def test_a_bootstrap_file_is_consumed_by_its_first_reading(
    host: ModuleHost, canaries: dict[str, str]
) -> None:
    host.ssh("umask 077; cat > /run/bootstrap.json", stdin=json.dumps(canaries).encode())
    given = {"secret_file": {"bootstrap_path": "/run/bootstrap.json"}}
    assert host.call(given, "--check").changed
    assert host.call(given).changed
    assert host.ssh("ls /run/bootstrap.json", check=False) == ""
    assert digest_seen_by_a_service(host, "gateway_token") == sha256(canaries["gateway_token"])
    second = host.call(given)
    assert second.failed
    assert "once only" in second.message


def test_a_bootstrap_file_on_ramfs_is_taken_and_one_on_a_disk_is_refused(
    host: ModuleHost, canaries: dict[str, str]
) -> None:
    host.ssh("mkdir -p /run/ram && mount -t ramfs -o mode=0700 ramfs /run/ram")
    host.ssh("umask 077; cat > /run/ram/payload", stdin=json.dumps(canaries).encode())
    assert host.call({"secret_file": {"bootstrap_path": "/run/ram/payload"}}).changed
    host.ssh("umount /run/ram; umask 077; cat > /var/lib/payload", stdin=b"{}")
    refused = host.call({"secret_file": {"bootstrap_path": "/var/lib/payload"}})
    assert refused.failed
    assert "must lie on ramfs or tmpfs" in refused.message
    host.ssh("rm /var/lib/payload")


def test_without_pipelining_the_module_refuses_to_go_on(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    refused = host.call(task(in_memory, canaries), pipelining="0")
    assert refused.failed
    assert "pipelining" in refused.message
    assert host.ssh(f"ls {VAULT}", check=False) == ""


def test_a_blob_of_another_host_is_named_and_not_replaced(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    host.call(task(in_memory, canaries))
    host.ssh(f"cp {VAULT}/gateway_token.cred {VAULT}/provider.openai.cred")
    failed = host.call(task(in_memory, canaries))
    assert failed.failed
    assert "provider.openai.cred cannot be opened" in failed.message


def test_a_run_that_dies_half_way_is_finished_by_the_next(
    host: ModuleHost, canaries: dict[str, str], in_memory: Path
) -> None:
    host.call(task(in_memory, canaries, job_id="job-2"))
    host.ssh(f"rm {VAULT}/.consumed/job-2 {VAULT}/registry.cred {VAULT}/gateway_token.cred")
    resumed = host.call(task(in_memory, canaries, job_id="job-2"))
    assert actions(resumed)["gateway_token"] == "created"
    assert actions(resumed)["registry"] == "created"
    assert actions(resumed)["node_key"] == "unchanged"
