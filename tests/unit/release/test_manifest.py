import hashlib
import json
from typing import Any

import pytest

from tenantfleet.release.errors import DigestMismatchError, InvalidManifestError
from tenantfleet.release.manifest import MAX_BYTES, parse_manifest

A, B = "a" * 64, "b" * 64


def document(**changes: object) -> dict[str, Any]:
    units = {
        unit: {"kind": "tree", "sha256": A, "size": 1234}
        for unit in ("egress_proxy", "link", "policy", "safety_wrapper")
    }
    units["openclaw"] = {"kind": "oci", "sha256": B, "size": 566}
    return {
        "version": 1,
        "channel": "tenant",
        "node": "24.19.0",
        "openclaw_lock_sha256": B,
        "units": units,
    } | changes


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name != key}


def test_canonical_bytes_come_back_as_they_went_in() -> None:
    data = canonical(document())
    manifest = parse_manifest(data)
    assert manifest.canonical() == data
    assert manifest.digest == hashlib.sha256(data).hexdigest()
    assert manifest.image("openclaw").sha256 == B
    assert set(manifest.trees) == {"egress_proxy", "link", "policy", "safety_wrapper"}


def test_a_manifest_of_another_digest_is_refused() -> None:
    data = canonical(document())
    assert parse_manifest(data, digest=hashlib.sha256(data).hexdigest())
    with pytest.raises(DigestMismatchError, match=A):
        parse_manifest(data, digest=A)


def units(**changes: object) -> dict[str, Any]:
    return document(units=document()["units"] | changes)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (document(version=2), "version"),
        (document(version=1.0), "canonical"),
        (document(version=True), "canonical"),
        (document(channel="latest"), "channel"),
        (document(node="24"), "node"),
        (document(signature="x"), "signature"),
        (without(document(), "openclaw_lock_sha256"), "openclaw_lock_sha256"),
        (document(openclaw_lock_sha256="B" * 64), "openclaw_lock_sha256"),
        (units(extra={"kind": "tree", "sha256": A, "size": 1}), "units must be exactly"),
        (document(units=without(document()["units"], "link")), "units must be exactly"),
        (units(link={"kind": "oci", "sha256": A, "size": 1}), "units must be exactly"),
        (units(link={"kind": "zip", "sha256": A, "size": 1}), "units.link"),
        (units(link={"kind": "tree", "sha256": f"sha256:{A}", "size": 1}), "units.link"),
        (units(link={"kind": "tree", "sha256": f"{A}\n", "size": 1}), "units.link"),
        (units(openclaw={"kind": "oci", "sha256": "latest", "size": 1}), "units.openclaw"),
        (units(openclaw={"kind": "oci", "sha256": A, "size": 1, "tag": "x"}), "units.openclaw"),
        (units(link={"kind": "tree", "sha256": A, "size": 0}), "units.link"),
        (units(link={"kind": "tree", "sha256": A, "size": "12"}), "units.link"),
        (units(link={"kind": "tree", "sha256": A, "size": 12.0}), "units.link"),
        ([], "manifest"),
    ],
)
def test_what_v1_does_not_allow_is_refused_with_the_place(wrong: object, complaint: str) -> None:
    with pytest.raises(InvalidManifestError, match=complaint):
        parse_manifest(canonical(wrong))


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(document(), sort_keys=True).encode(),
        canonical(document()) + b"\n",
        canonical(document()).replace(b'"version":1', b'"version":1,"version":1'),
        canonical(document()).replace(b"tenant", b"\\u0074enant"),
    ],
    ids=["white space", "final newline", "repeated key", "escaped letter"],
)
def test_the_same_content_in_other_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifestError, match="canonical"):
        parse_manifest(data)


def test_a_huge_manifest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidManifestError, match="at most"):
        parse_manifest(b" " * (MAX_BYTES + 1))
