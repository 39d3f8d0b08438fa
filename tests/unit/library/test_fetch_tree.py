"""fetch-tree against a real TLS store: what differs in a byte never gets its name."""

import datetime as dt
import functools
import gzip
import hashlib
import http.server
import io
import ipaddress
import os
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PROGRAM = Path(__file__).parents[3] / "roles/release_store/files/fetch-tree"
NO_TREE = "0" * 64
DONE, USAGE, MISMATCH, UNREACHABLE, DISK_FULL, BAD_ARCHIVE = 0, 2, 3, 4, 5, 6


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "store.crt", folder / "store.key"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Store:
    folder: Path
    url: str
    ca: Path
    host: Path

    def put_tree(self, archive: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(archive).hexdigest()
        (self.folder / "trees" / f"{digest}.tar.gz").write_bytes(archive)
        return digest, len(archive)

    def fetch(self, *argv: str, ca: Path | None = None, url: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-IB", str(PROGRAM), "--store-url", url or self.url, *argv]
        command += ["--store", str(self.host / "store"), "--manifests", str(self.host / "manifests")]
        trust = {**os.environ, "SSL_CERT_FILE": str(ca or self.ca)}
        return subprocess.run(command, env=trust, capture_output=True, text=True, check=False, timeout=60)

    def fetch_to_small_disk(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Fetch in a mount namespace of its own, where the store is a disk of 64 KiB."""
        (self.host / "store").mkdir()
        mounted = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
        command = ["unshare", "-rm", "/bin/sh", "-c", mounted, str(self.host / "store")]
        command += [sys.executable, "-IB", str(PROGRAM), "--store-url", self.url, *argv]
        command += ["--store", str(self.host / "store")]
        trust = {**os.environ, "SSL_CERT_FILE": str(self.ca)}
        return subprocess.run(command, env=trust, capture_output=True, text=True, check=False, timeout=60)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.host.glob("*/*") if path.name != ".lock")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Path]]:
    folder = tmp_path_factory.mktemp("store")
    (folder / "trees").mkdir()
    (folder / "manifests").mkdir()
    cert_file, key_file = certificate(tmp_path_factory.mktemp("ca"))
    handler = functools.partial(QuietFiles, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield folder, f"https://127.0.0.1:{server.server_address[1]}", cert_file
    server.shutdown()


@pytest.fixture
def store(tls: tuple[Path, str, Path], tmp_path: Path) -> Store:
    folder, url, ca = tls
    return Store(folder=folder, url=url, ca=ca, host=tmp_path)


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def member(name: str, *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname = mode, kind, link
    return info


GOOD = archive_of(
    (member("bin", mode=0o755, kind=tarfile.DIRTYPE), b""),
    (member("bin/run", mode=0o755), b"#!/bin/sh\n"),
    (member("__main__.py"), b"print('hello')\n"),
)


def test_a_tree_is_fetched_once_and_then_present(store: Store) -> None:
    digest, size = store.put_tree(GOOD)
    first = store.fetch("--tree", f"{digest}:{size}")
    assert (first.returncode, first.stdout) == (DONE, f"tree {digest}\n"), first.stderr
    tree = store.host / "store" / digest
    assert (tree / "__main__.py").read_bytes() == b"print('hello')\n"
    assert (tree / "__main__.py").stat().st_mode & 0o7777 == 0o644
    assert (tree / "bin/run").stat().st_mode & 0o7777 == 0o755
    assert tree.stat().st_mode & 0o7777 == 0o755
    second = store.fetch("--tree", f"{digest}:{size}")
    assert (second.returncode, second.stdout) == (DONE, "")
    assert store.left() == [digest]


def test_a_manifest_is_fetched_by_its_digest_alone(store: Store) -> None:
    content = b'{"channel":"tenant","version":1}'
    digest = hashlib.sha256(content).hexdigest()
    (store.folder / "manifests" / f"{digest}.json").write_bytes(content)
    done = store.fetch("--manifest", digest)
    assert (done.returncode, done.stdout) == (DONE, f"manifest {digest}\n"), done.stderr
    assert (store.host / "manifests" / f"{digest}.json").read_bytes() == content
    assert store.fetch("--manifest", digest).stdout == ""


def test_parts_come_in_one_call_and_a_dry_run_only_names_those_that_are_missing(store: Store) -> None:
    content = b'{"channel":"tenant","version":2}'
    manifest = hashlib.sha256(content).hexdigest()
    (store.folder / "manifests" / f"{manifest}.json").write_bytes(content)
    trees = [store.put_tree(archive_of((member("__main__.py"), body))) for body in (b"1", b"2")]
    asked = ["--manifest", manifest, *(f"--tree={digest}:{size}" for digest, size in (*trees, trees[0]))]
    missing = f"manifest {manifest}\ntree {trees[0][0]}\ntree {trees[1][0]}\n"
    assert store.fetch(*asked, "--dry-run").stdout == missing
    assert store.left() == []
    assert store.fetch(*asked).stdout == missing
    assert store.fetch(*asked, "--dry-run").stdout == ""
    assert store.left() == sorted([f"{manifest}.json", *(digest for digest, _ in trees)])


def test_the_first_part_that_cannot_be_fetched_ends_the_call(store: Store) -> None:
    digest, size = store.put_tree(GOOD)
    refused = store.fetch("--tree", f"{NO_TREE}:1", "--tree", f"{digest}:{size}")
    assert refused.returncode == UNREACHABLE
    assert store.left() == []


def test_an_archive_with_another_byte_in_it_is_refused_and_leaves_nothing(store: Store) -> None:
    digest, size = store.put_tree(GOOD)
    changed = bytearray(GOOD)
    changed[-1] ^= 1
    (store.folder / "trees" / f"{digest}.tar.gz").write_bytes(changed)
    refused = store.fetch("--tree", f"{digest}:{size}")
    assert refused.returncode == MISMATCH, refused.stderr
    assert "another digest" in refused.stderr
    assert store.left() == []


@pytest.mark.parametrize("difference", [-1, 1])
def test_an_archive_of_another_size_is_refused(store: Store, difference: int) -> None:
    digest, size = store.put_tree(GOOD)
    refused = store.fetch("--tree", f"{digest}:{size + difference}")
    assert refused.returncode == MISMATCH, refused.stderr
    assert store.left() == []


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/etc/outside"),
        member("link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("hard", kind=tarfile.LNKTYPE, link="__main__.py"),
        member("pipe", kind=tarfile.FIFOTYPE),
        member("device", kind=tarfile.CHRTYPE),
        member("setuid", mode=0o4755),
        member("writable", mode=0o666),
    ],
    ids=lambda info: info.name,
)
def test_an_archive_that_holds_more_than_plain_files_is_refused(store: Store, bad: tarfile.TarInfo) -> None:
    digest, size = store.put_tree(archive_of((member("__main__.py"), b""), (bad, b"")))
    refused = store.fetch("--tree", f"{digest}:{size}")
    assert refused.returncode == BAD_ARCHIVE, refused.stderr
    assert bad.name in refused.stderr
    assert store.left() == []


def test_what_is_no_archive_is_refused_although_its_digest_is_right(store: Store) -> None:
    digest, size = store.put_tree(b"not an archive at all")
    refused = store.fetch("--tree", f"{digest}:{size}")
    assert refused.returncode == BAD_ARCHIVE, refused.stderr
    assert store.left() == []


def test_a_store_without_the_tree_is_said_to_answer_404(store: Store) -> None:
    refused = store.fetch("--tree", f"{NO_TREE}:1")
    assert refused.returncode == UNREACHABLE
    assert "404" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_store_whose_certificate_is_not_trusted_is_unreachable(store: Store, tmp_path: Path) -> None:
    other_ca, _ = certificate(tmp_path)
    digest, size = store.put_tree(GOOD)
    refused = store.fetch("--tree", f"{digest}:{size}", ca=other_ca)
    assert refused.returncode == UNREACHABLE
    assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr


def test_a_store_that_is_down_is_unreachable(store: Store) -> None:
    refused = store.fetch("--tree", f"{NO_TREE}:1", url="https://127.0.0.1:1")
    assert refused.returncode == UNREACHABLE
    assert "refused" in refused.stderr


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--tree", "latest:1"),
        ("--tree", f"{'A' * 64}:1"),
        ("--tree", NO_TREE),
        ("--tree", f"{NO_TREE}:-1"),
        ("--manifest", "latest"),
    ],
)
def test_a_call_that_names_no_digest_or_no_size_is_a_usage_error(store: Store, argv: tuple[str, ...]) -> None:
    assert store.fetch(*argv).returncode == USAGE


def test_a_store_over_plain_http_is_a_usage_error(store: Store) -> None:
    refused = store.fetch("--tree", f"{NO_TREE}:1", url="http://127.0.0.1:1")
    assert refused.returncode == USAGE


@pytest.mark.parametrize("content", [os.urandom(200_000), bytes(200_000)], ids=["download", "unpack"])
def test_a_full_disk_is_said_in_one_line(store: Store, content: bytes) -> None:
    digest, size = store.put_tree(archive_of((member("__main__.py"), content)))
    refused = store.fetch_to_small_disk("--tree", f"{digest}:{size}")
    assert refused.returncode == DISK_FULL, refused.stderr
    assert "no room" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_what_a_killed_fetch_left_behind_is_swept_by_the_next(store: Store) -> None:
    left = store.host / "store" / ".incoming-0123-dead"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"half")
    digest, size = store.put_tree(GOOD)
    assert store.fetch("--tree", f"{digest}:{size}").returncode == DONE
    assert store.left() == [digest]
