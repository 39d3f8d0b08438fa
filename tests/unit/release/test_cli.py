import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tenantfleet.release.build import manifest_in, write_atomically
from tenantfleet.release.cli import app
from tenantfleet.release.manifest import Image, Manifest, Tree

A = "a" * 64
MANIFEST = Manifest(
    node="24.19.0",
    openclaw_lock_sha256=A,
    units={
        "openclaw": Image(sha256=A, size=1),
        **{unit: Tree(sha256=A, size=1) for unit in ("egress_proxy", "link", "policy", "safety_wrapper")},
    },
)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    write_atomically(manifest_in(tmp_path, MANIFEST.digest), MANIFEST.canonical())
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_show_prints_the_release_as_one_json_document(built: Path, prefix: str) -> None:
    result = CliRunner().invoke(app, ["show", prefix + MANIFEST.digest, "--built", str(built), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["digest"] == f"sha256:{MANIFEST.digest}"
    assert document["manifest"]["units"]["openclaw"] == {"kind": "oci", "sha256": A, "size": 1}


def test_without_json_standard_output_is_the_digest_alone(built: Path) -> None:
    result = CliRunner().invoke(app, ["show", MANIFEST.digest, "--built", str(built)])
    assert result.stdout == f"sha256:{MANIFEST.digest}\n"


@pytest.mark.parametrize("name", ["latest", "../../etc/passwd", "A" * 64, "b" * 64])
def test_what_names_no_built_release_is_refused(built: Path, name: str) -> None:
    assert CliRunner().invoke(app, ["show", name, "--built", str(built)]).exit_code == 10


def test_a_release_that_is_not_what_its_name_says_is_a_mismatch(built: Path) -> None:
    manifest_in(built, MANIFEST.digest).write_bytes(MANIFEST.canonical() + b" ")
    result = CliRunner().invoke(app, ["show", MANIFEST.digest, "--built", str(built)])
    assert result.exit_code == 15
    assert "has the digest" in result.stderr


def test_a_repository_without_a_unit_says_which(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["build", "--root", str(tmp_path), "--built", str(tmp_path / "out")])
    assert result.exit_code == 15
    assert "the unit egress_proxy lacks" in result.stderr.replace("\n", " ")


def test_a_tree_missing_from_the_build_is_not_published(built: Path) -> None:
    arguments = ["publish", MANIFEST.digest, "--built", str(built), "--store", str(built / "store")]
    result = CliRunner().invoke(app, [*arguments, "--registry", "127.0.0.1:1"])
    assert result.exit_code == 15
    assert not manifest_in(built / "store", MANIFEST.digest).exists()
