"""Proof 8, end to end: bad input is refused in words and by an exit code, and the host stays as it was.

One bare host serves all cases. More kinds of bad orders are tried without a host in tests/unit/app.
"""

import hashlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import endpoints
from lab.control import Control
from lab.fingerprint import differences
from tenantfleet.release.build import manifest_in, tree_in
from tenantfleet.release.manifest import parse_manifest
from tests.proofs.spare import Spare
from tests.proofs.tenants import new_payload

pytestmark = pytest.mark.lab

TENANT = "tenant-bad"
BALLAST = "/var/tmp/ballast"


@contextmanager
def untouched(spare: Spare) -> Iterator[None]:
    """Nothing of the host is another afterwards."""
    before = spare.fingerprint(TENANT)
    yield
    assert differences(before, spare.fingerprint(TENANT)) == []


@pytest.fixture(scope="module")
def control(spare: Spare, tmp_path_factory: pytest.TempPathFactory) -> Control:
    return spare.control(tmp_path_factory.mktemp("home"))


@pytest.fixture
def order(control: Control, release: str) -> Path:
    """A good order; what is bad is the world."""
    return control.order(TENANT, release=release, secrets=new_payload())


def refusal(control: Control, *argv: str) -> tuple[int, dict[str, Any]]:
    """Exit code and failure of a command: of its first order, or of the command itself."""
    done = control.run(*argv, "--json", check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    failure: dict[str, Any] = said["error"] if isinstance(said, dict) else said[0]["failure"]
    assert failure["hint"], "what to do next must be said"
    assert failure["exit_code"] == done.returncode
    return done.returncode, failure


def test_another_debian_release_is_refused_and_its_machine_is_not_given_to_a_second_order(
    spare: Spare, control: Control, order: Path, release: str
) -> None:
    spare.run("cp --remove-destination /usr/lib/os-release /etc/os-release")
    spare.run("sed -i s/^VERSION_ID=.*/VERSION_ID=12/ /etc/os-release")
    try:
        with untouched(spare):
            code, failure = refusal(control, "provision", str(order))
            assert (code, failure["code"]) == (20, "run.failed")
            assert "needs Debian 13; this host says debian 12" in failure["cause"]

            other = control.order("tenant-second", release=release, secrets=new_payload())
            code, failure = refusal(control, "provision", str(other))
            assert (code, failure["code"]) == (13, "machine.none_free")
    finally:
        spare.run("ln -sf ../usr/lib/os-release /etc/os-release")


def test_a_taken_port_is_refused(spare: Spare, control: Control, order: Path) -> None:
    server = "/usr/bin/python3 -m http.server --bind 127.0.0.1 18080"
    spare.run(f"systemd-run --quiet --unit=squatter {server}")
    spare.run("until ss -Hltn sport = :18080 | grep -q 18080; do sleep 0.1; done")
    try:
        with untouched(spare):
            code, failure = refusal(control, "provision", str(order))
            assert (code, failure["code"]) == (20, "run.failed")
            assert "Ports of the platform are taken by others: 18080 (uid 0)" in failure["cause"]
    finally:
        spare.run("systemctl stop squatter")


def test_a_full_disk_is_refused(spare: Spare, control: Control, order: Path) -> None:
    room = "$(df --output=avail --block-size=1 / | tail -n 1)"
    spare.run(f"fallocate --length $(({room} - (1 << 30))) {BALLAST}")
    try:
        with untouched(spare):
            code, failure = refusal(control, "provision", str(order))
            assert (code, failure["code"]) == (20, "run.failed")
            assert "The host needs 2048 MiB free; it has 102" in failure["cause"]
    finally:
        spare.run(f"rm {BALLAST}")


def test_a_host_with_another_key_is_sent_nothing(spare: Spare, release: str, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ca"], check=True)
    control = spare.control(tmp_path / "home", host_ca=(tmp_path / "ca.pub").read_text().strip())
    order = control.order(TENANT, release=release, secrets=new_payload())
    with untouched(spare):
        code, failure = refusal(control, "provision", str(order))
    assert (code, failure["code"]) == (21, "host.wrong_key")


def test_a_host_that_does_not_answer_is_said_to_be_unreachable(
    spare: Spare, control: Control, order: Path
) -> None:
    spare.power_off()
    try:
        code, failure = refusal(control, "provision", str(order))
    finally:
        spare.power_on()
    assert (code, failure["code"]) == (21, "host.unreachable")


def altered(order: Path, **changes: str) -> str:
    path = order.with_name(f"altered-{'-'.join(changes)}-{len(list(order.parent.iterdir()))}.yml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(order.read_text()), **changes}))
    return str(path)


def test_bad_orders_never_reach_the_host(
    spare: Spare, control: Control, order: Path, release: str, tmp_path: Path
) -> None:
    elsewhere = spare.control(tmp_path / "elsewhere")
    foreign = elsewhere.order(TENANT, release=release, secrets=new_payload())
    other = control.order(TENANT, release=release, secrets=new_payload(), output=str(tmp_path / "other.yml"))
    assert other == order, "the file that the fixture wrote is as it was"
    payload = yaml.safe_load((tmp_path / "other.yml").read_text())["sealed"]
    store = Path(endpoints.info(control.lab)["store_dir"])
    lie = "d" * 64
    (store / "manifests" / f"{lie}.json").write_bytes(b"{}")
    cases = (
        (altered(order, release="v1.2"), 10, "order.not_a_digest"),
        (altered(order, colour="red"), 10, "order.unknown_field"),
        (altered(order, expires="2020-01-01T00:00:00Z"), 11, "order.expired"),
        (altered(order, sealed=payload), 11, "payload.replayed"),
        (str(foreign), 12, "payload.closed"),
        (altered(order, region="mars"), 13, "order.unknown_region"),
        (altered(order, release=f"sha256:{lie}"), 15, "release.digest_mismatch"),
    )
    with untouched(spare):
        assert [refused_as(control, *case[:1]) for case in cases] == [case[1:] for case in cases]
    (store / "manifests" / f"{lie}.json").unlink()


def refused_as(control: Control, order: str) -> tuple[int, str]:
    code, failure = refusal(control, "provision", order)
    return code, failure["code"]


def with_another_tree(control: Control, release: str, unit: str) -> str:
    """A release that names a tree by a digest that the bytes in the store do not have."""
    store = Path(endpoints.info(control.lab)["store_dir"])
    manifest = parse_manifest(manifest_in(store, release.removeprefix("sha256:")).read_bytes())
    good = manifest.tree(unit)
    lie = good.model_copy(update={"sha256": hashlib.sha256(secrets.token_bytes(32)).hexdigest()})
    shutil.copyfile(tree_in(store, good.sha256), tree_in(store, lie.sha256))
    forged = manifest.model_copy(update={"units": {**manifest.units, unit: lie}})
    manifest_in(store, forged.digest).write_bytes(forged.canonical())
    return f"sha256:{forged.digest}"


def test_a_tree_that_is_not_what_its_digest_says_is_never_unpacked(
    spare: Spare, release: str, tmp_path: Path
) -> None:
    control = spare.control(tmp_path / "home")
    forged = with_another_tree(control, release, "egress_proxy")
    order = control.order(TENANT, release=forged, secrets=new_payload())
    try:
        code, failure = refusal(control, "provision", str(order))
        assert (code, failure["code"]) == (20, "run.failed")
        assert "the content has another digest than its name" in failure["cause"]
        assert spare.run("ls /opt/tenantfleet/egress_proxy 2>&1 || true").endswith(
            "No such file or directory\n"
        )
        assert spare.run("systemctl list-unit-files --no-legend 'tf-egress*' 'openclaw*' || true") == ""
    finally:
        spare.reinstall()  # the next one finds a host that is nobody's


def test_an_environment_without_tenants_has_nothing_to_verify(spare: Spare, tmp_path: Path) -> None:
    code, failure = refusal(spare.control(tmp_path / "home"), "verify")
    assert (code, failure["code"]) == (10, "tenant.none")
