"""A whole release: built for real, published to a real registry over TLS."""

import datetime as dt
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tenantfleet.release import Manifest, ReleaseError, build_release, publish_release
from tenantfleet.release.archive import members_below, write_tar
from tenantfleet.release.build import layout_in, tree_in
from tenantfleet.release.errors import DigestMismatchError
from tenantfleet.release.image import openclaw_tree
from tenantfleet.release.oci import Layout
from tenantfleet.release.pin import read_pin
from tenantfleet.release.programs import ensure_programs

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache/release"
WARM_BUILD_S = 3.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the real OpenClaw and policy, and small stand-ins for the Python units."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("openclaw", "policy"):
        shutil.copytree(REPOSITORY / "tenant" / name, root / "tenant" / name)
    for unit in ("egress_proxy", "link", "safety_wrapper"):
        package = root / "tenant" / unit / unit
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package.parent / "__main__.py").write_text(f"import {unit}\n")
    (root / "tenant/safety_wrapper/plugin").mkdir()
    (root / "tenant/safety_wrapper/plugin/index.js").write_text("export default {};\n")
    (root / ".cache/uv/bin").mkdir(parents=True)
    (root / ".cache/uv/bin/uv").symlink_to(REPOSITORY / ".cache/uv/bin/uv")
    return root


@pytest.fixture(scope="module")
def release(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("release")
    return out, build_release(root, out=out, cache=CACHE, report=print)


@pytest.fixture
def built(release: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy of the built release that a test may damage."""
    return shutil.copytree(release[0], tmp_path / "built")


@dataclass(frozen=True)
class Registry:
    address: str
    ca_file: Path
    data: Path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    ensure_programs("docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    ca_file = certify_loopback(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {
            "addr": address,
            "tls": {"certificate": str(folder / "server.crt"), "key": str(folder / "server.key")},
        },
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        wait_for(address, log=folder / "log")
        yield Registry(address, ca_file, folder / "data")
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, *, log: Path) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the registry does not listen:\n{log.read_text()}")


def certify_loopback(folder: Path) -> Path:
    """A CA and a certificate of it for 127.0.0.1."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server")}
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    now = dt.datetime.now(dt.UTC)
    for name, extension in (
        ("ca", x509.BasicConstraints(ca=True, path_length=0)),
        ("server", x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])),
    ):
        subject = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) if name == "server" else authority
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(keys[name].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(keys["ca"], hashes.SHA256())
        )
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoded = keys[name].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(encoded)
    return folder / "ca.crt"


class Sha256:
    """A stream that keeps nothing but the digest."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self.digest.update(data)


def blob(layout: Layout, digest: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((layout.blobs / digest.removeprefix("sha256:")).read_bytes())
    return document


def config_of(layout: Layout) -> dict[str, Any]:
    return blob(layout, blob(layout, layout.image().sha256)["config"]["digest"])


def publish(release: tuple[Path, Manifest], built: Path, store: Path, registry: Registry) -> Manifest:
    digest = release[1].digest
    return publish_release(
        digest, built=built, store=store, registry=registry.address, ca_file=registry.ca_file
    )


def test_a_warm_build_gives_the_same_release_at_once(
    root: Path, release: tuple[Path, Manifest], tmp_path: Path
) -> None:
    start = time.monotonic()
    again = build_release(root, out=tmp_path, cache=CACHE)
    took = time.monotonic() - start
    assert again == release[1]
    assert took < WARM_BUILD_S
    layout_in(tmp_path).verify()


def test_a_cold_install_of_openclaw_gives_the_same_layer_to_the_byte(
    root: Path, release: tuple[Path, Manifest], tmp_path: Path
) -> None:
    tree = openclaw_tree(root, cache=tmp_path / "cache", report=print)
    layer = Sha256()
    write_tar(members_below(tree), layer, epoch=read_pin(root / "tenant/openclaw").debian.epoch, links=True)
    assert f"sha256:{layer.digest.hexdigest()}" == config_of(layout_in(release[0]))["rootfs"]["diff_ids"][1]


def test_the_image_says_who_it_runs_as_and_what(release: tuple[Path, Manifest]) -> None:
    config = config_of(layout_in(release[0]))["config"]
    assert config["User"] == "2101:2101"
    assert config["Cmd"][0] == "/opt/node/bin/node"
    assert config["Cmd"][1:] == ["/opt/openclaw/node_modules/openclaw/openclaw.mjs", "gateway", "run"]
    assert "Entrypoint" not in config


def test_publishing_puts_every_named_thing_where_hosts_fetch_it(
    release: tuple[Path, Manifest], registry: Registry, tmp_path: Path
) -> None:
    manifest = publish(release, release[0], tmp_path / "store", registry)
    for tree in manifest.trees.values():
        stored = tree_in(tmp_path / "store", tree.sha256).read_bytes()
        assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (tree.sha256, tree.size)
    assert (tmp_path / f"store/manifests/{manifest.digest}.json").read_bytes() == manifest.canonical()
    image = manifest.image("openclaw")
    link = (
        registry.data
        / f"docker/registry/v2/repositories/tenantfleet/openclaw/_manifests/revisions/sha256/{image.sha256}"
    )
    assert link.is_dir()
    assert not any((link.parents[2] / "tags").glob("*"))


def test_publishing_again_changes_nothing(
    release: tuple[Path, Manifest], registry: Registry, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    publish(release, release[0], store, registry)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    publish(release, release[0], store, registry)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_tampered_tree_in_the_store_is_found(
    release: tuple[Path, Manifest], registry: Registry, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    manifest = publish(release, release[0], store, registry)
    tree_in(store, manifest.tree("policy").sha256).write_bytes(b"other")
    with pytest.raises(DigestMismatchError, match="publish again"):
        publish(release, release[0], store, registry)


def test_a_damaged_layer_is_not_pushed(
    release: tuple[Path, Manifest], built: Path, registry: Registry
) -> None:
    layer = max(layout_in(built).blobs.iterdir(), key=lambda path: path.stat().st_size)
    with layer.open("r+b") as content:
        content.seek(1000)
        content.write(os.urandom(16))
    elsewhere = f"{registry.address}/never"
    with pytest.raises(DigestMismatchError, match="damaged"):
        publish_release(
            release[1].digest,
            built=built,
            store=built.parent / "store",
            registry=elsewhere,
            ca_file=registry.ca_file,
        )
    assert not (built.parent / "store/manifests").exists()


def test_a_registry_that_another_authority_vouches_for_is_refused(
    release: tuple[Path, Manifest], registry: Registry, tmp_path: Path
) -> None:
    stranger = Registry(registry.address, certify_loopback(tmp_path), registry.data)
    with pytest.raises(ReleaseError, match="certificate"):
        publish(release, release[0], tmp_path / "store", stranger)
    assert not (tmp_path / "store/manifests").exists()
