"""Bad input: each kind has its own code and exit code, and nothing is written to the ledger."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyrage  # type: ignore[import-untyped]
import pytest
import yaml
from typer.testing import CliRunner

from tenantfleet.app.payload import new_identity, open_payload, recipient_of, seal_payload
from tenantfleet.cli import app
from tenantfleet.model.document import canonical, digest
from tenantfleet.model.errors import TenantfleetError
from tenantfleet.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantfleet.model.order import HubOrder
    from tests.unit.app.conftest import Fleet


def refusal(fleet: Fleet, *arguments: str) -> TenantfleetError:
    """What the command line refuses with; the ledger must hold no order afterwards."""
    words = ["--home", str(fleet.home), "--project", str(fleet.project), *arguments]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, TenantfleetError), result.output
    assert not fleet.environment.order_ledger.all()
    assert all(record.tenant_id is None for record in fleet.environment.machine_ledger.records())
    return result.exception


def resealed(order: HubOrder, fleet: Fleet, **changes: object) -> dict[str, Any]:
    """The order with a payload whose inside differs from it."""
    inside = {
        "version": 1,
        "job_id": str(order.order_id),
        "tenant_id": order.tenant_id,
        "expires": order.fields()["expires"],
        "secrets": {"provider.openai": "x"},
        **changes,
    }
    keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in fleet.environment.recipients]
    return {"sealed": base64.b64encode(pyrage.encrypt(json.dumps(inside).encode(), keys)).decode()}


def to_somebody_else(order: HubOrder) -> dict[str, Any]:
    other = seal_payload(order, {"gateway_token": Secret("x")}, recipients=[recipient_of(new_identity())])
    return {"sealed": other.sealed}


OTHER_JOB = "00000000-0000-4000-8000-000000000000"
LATER = "2031-01-01T00:00:00Z"

CASES: list[tuple[str, Any, str, int]] = [
    ("an unknown field", lambda _o, _f: {"colour": "red"}, "order.unknown_field", 10),
    ("a tag instead of a digest", lambda _o, _f: {"release": "v1.2"}, "order.not_a_digest", 10),
    ("no payload", lambda _o, _f: {"sealed": None}, "order.not_sealed", 10),
    ("a payload of another schema", lambda o, f: resealed(o, f, version=2), "payload.wrong_value", 10),
    ("an expired order", lambda _o, _f: {"expires": "2020-01-01T00:00:00Z"}, "order.expired", 11),
    ("a payload of another job", lambda o, f: resealed(o, f, job_id=OTHER_JOB), "payload.replayed", 11),
    ("a payload of another tenant", lambda o, f: resealed(o, f, tenant_id="other"), "payload.replayed", 11),
    ("a payload of another expiry", lambda o, f: resealed(o, f, expires=LATER), "payload.replayed", 11),
    ("a payload to somebody else", lambda o, _f: to_somebody_else(o), "payload.closed", 12),
    ("a damaged payload", lambda _o, _f: {"sealed": "YWdl"}, "payload.closed", 12),
    ("an unknown region", lambda _o, _f: {"region": "mars"}, "order.unknown_region", 13),
    ("an unpublished release", lambda _o, _f: {"release": "sha256:" + "0" * 64}, "release.unknown", 15),
]


@pytest.mark.parametrize(
    ("change", "code", "exit_code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_bad_order_is_refused_before_any_effect(
    fleet: Fleet, change: Callable[[HubOrder, Fleet], dict[str, Any]], code: str, exit_code: int
) -> None:
    order = fleet.order()
    path = fleet.write_fields(order, change(order, fleet))
    error = refusal(fleet, "provision", str(path))
    assert (error.code, error.exit_code) == (code, exit_code)
    assert error.hint


def test_one_bad_order_among_good_ones_stops_all(fleet: Fleet) -> None:
    good = fleet.write(fleet.order("bravo"), "good.yml")
    bad = fleet.write_fields(fleet.order(), {"region": "mars"})
    assert refusal(fleet, "provision", str(good), str(bad)).exit_code == 13


def test_two_orders_of_one_tenant_at_once_are_refused_and_neither_is_started(fleet: Fleet) -> None:
    first, second = fleet.write(fleet.order(), "first.yml"), fleet.write(fleet.order(), "second.yml")
    error = refusal(fleet, "provision", str(first), str(second))
    assert (error.code, error.exit_code) == ("tenant.busy", 14)


def test_a_store_that_answers_with_another_manifest_is_not_believed(fleet: Fleet) -> None:
    claimed = "d" * 64
    (fleet.store / "manifests" / f"{claimed}.json").write_bytes(canonical({"version": 1}))
    path = fleet.write(fleet.order(release=f"sha256:{claimed}"))
    assert refusal(fleet, "provision", str(path)).code == "release.digest_mismatch"


def test_a_manifest_of_another_schema_is_refused_although_its_digest_is_right(fleet: Fleet) -> None:
    strange = {"version": 1, "units": {}}
    (fleet.store / "manifests" / f"{digest(strange)}.json").write_bytes(canonical(strange))
    path = fleet.write(fleet.order(release=f"sha256:{digest(strange)}"))
    assert refusal(fleet, "provision", str(path)).code == "release.not_a_manifest"


def test_a_store_with_another_certificate_is_not_read(fleet: Fleet) -> None:
    words = [
        "init",
        "--store-url",
        fleet.environment.settings.store_url.replace("releases.test", "other.test"),
    ]
    assert CliRunner().invoke(app, ["--home", str(fleet.home), *words]).exit_code == 0
    assert refusal(fleet, "provision", str(fleet.write(fleet.order()))).code == "store.unreachable"


def test_an_environment_that_is_not_set_up_says_how_to(fleet: Fleet) -> None:
    error = refusal(fleet, "--environment", "prod", "status")
    assert (error.code, error.exit_code) == ("environment.missing", 30)
    assert "tenantfleet init --environment prod" in error.hint


def test_the_recovery_key_opens_what_the_environment_can_open(fleet: Fleet) -> None:
    order = fleet.order()
    for identity in (fleet.environment.age_identity, fleet.recovery):
        assert open_payload(order, identity=identity).job_id == order.order_id


def test_init_keeps_keys_and_is_readable_by_its_owner_only(fleet: Fleet) -> None:
    before = fleet.environment.recipients, fleet.environment.ssh_user_ca
    assert CliRunner().invoke(app, ["--home", str(fleet.home), "init", "--region", "us-lab"]).exit_code == 0
    assert (fleet.environment.recipients, fleet.environment.ssh_user_ca) == before
    modes = {path.name: path.stat().st_mode & 0o077 for path in fleet.environment.root.iterdir()}
    assert set(modes.values()) == {0}, modes


def test_init_from_a_file_again_keeps_the_recovery_recipient_that_the_file_does_not_name(
    fleet: Fleet,
) -> None:
    in_force = fleet.environment.root / "settings.yml"
    kept = yaml.safe_load(in_force.read_text())
    file = fleet.home / "again.yml"
    file.write_text(yaml.safe_dump({name: kept[name] for name in kept if name != "recovery_recipient"}))
    words = ["--home", str(fleet.home), "init", "--settings", str(file)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert yaml.safe_load(in_force.read_text()) == kept


def test_init_with_another_address_of_a_provider_keeps_its_model(fleet: Fleet) -> None:
    in_force = fleet.environment.root / "settings.yml"
    kept = yaml.safe_load(in_force.read_text())
    kept["egress_providers"] = [{"id": "openai", "upstream": "https://old.test/v1", "model": "large-1"}]
    in_force.write_text(yaml.safe_dump(kept))
    words = ["--home", str(fleet.home), "init", "--egress-provider"]
    assert CliRunner().invoke(app, [*words, "openai=https://new.test/v1"]).exit_code == 0
    moved = {"id": "openai", "upstream": "https://new.test/v1", "model": "large-1"}
    assert yaml.safe_load(in_force.read_text())["egress_providers"] == [moved]


def test_an_init_that_is_refused_leaves_no_recovery_key(fleet: Fleet) -> None:
    key = fleet.home / "recovery.key"
    file = fleet.home / "bad.yml"
    file.write_text("version: 1\nunknown: true\n")
    refusal(fleet, "init", "--settings", str(file), "--recovery-key-file", str(key))
    assert not key.exists()


def test_an_operator_certificate_names_tf_ops_and_ends_within_the_hour(fleet: Fleet) -> None:
    key = fleet.home / "ops"
    words = [
        "--home",
        str(fleet.home),
        "operator",
        "certificate",
        "--key-file",
        str(key),
        "--minutes",
        "30",
        "--json",
    ]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    ends = datetime.fromisoformat(json.loads(made.output)["ends"])
    assert ends < datetime.now(UTC) + timedelta(minutes=31)
    assert key.stat().st_mode & 0o077 == 0
    assert "-cert-v01@openssh.com" in (fleet.home / "ops-cert.pub").read_text()
    before = key.read_text()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert key.read_text() != before


def test_an_operator_certificate_never_replaces_a_key_that_is_none_of_its_own(fleet: Fleet) -> None:
    key = fleet.home / "id_ed25519"
    key.write_text("my own")
    assert refusal(fleet, "operator", "certificate", "--key-file", str(key)).code == "key_file.exists"
    assert key.read_text() == "my own"


def test_without_a_declaration_nothing_is_taken_off_a_machine(fleet: Fleet) -> None:
    assert refusal(fleet, "legacy-cleanup", "lab-a1").code == "legacy.none"


def test_a_machine_without_a_tenant_is_cleaned_by_its_order_alone(fleet: Fleet) -> None:
    file = fleet.home / "dev/settings.yml"
    declared = {**yaml.safe_load(file.read_text()), "legacy": {"projects": {"n8n": "remove"}}}
    file.write_text(yaml.safe_dump(declared))
    assert refusal(fleet, "legacy-cleanup", "lab-a1", "--dry-run").code == "machine.no_tenant"
