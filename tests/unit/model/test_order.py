from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tenantfleet.app.orders import order_text, schema_text
from tenantfleet.model.errors import InputRefusedError, OrderSpentError
from tenantfleet.model.order import HubOrder

GOOD: dict[str, Any] = {
    "version": 1,
    "order_id": "0b9e6a5e-7a7e-4a52-9b8e-3d1b9b8f7a10",
    "kind": "provision",
    "tenant_id": "acme",
    "tenant_class": "sandbox",
    "region": "eu-lab",
    "tier": "lite",
    "tools": ["crm"],
    "domain": "acme.example.test",
    "autonomy": "standard",
    "release": "sha256:" + "0a" * 32,
    "expires": "2026-12-01T00:00:00Z",
    "sealed": "YWdl",
}


def parse(fields: dict[str, Any]) -> HubOrder:
    return HubOrder.parse(yaml.safe_dump(fields), kind="order")


def refused(text: str) -> InputRefusedError:
    with pytest.raises(InputRefusedError) as caught:
        HubOrder.parse(text, kind="order")
    return caught.value


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"colour": "red"}, "order.unknown_field"),
        ({"version": 2}, "order.wrong_value"),
        ({"version": True}, "order.wrong_value"),
        ({"version": "1"}, "order.wrong_value"),
        ({"tenant_id": 7}, "order.wrong_type"),
        ({"tools": "crm"}, "order.wrong_type"),
        ({"tools": ["crm", "crm"]}, "order.wrong_value"),
        ({"tenant_id": "Acme"}, "order.wrong_value"),
        ({"tenant_id": "acme\n"}, "order.wrong_value"),
        ({"tenant_id": "a" * 33}, "order.wrong_value"),
        ({"domain": "{{ lookup('pipe', 'id') }}.test"}, "order.wrong_value"),
        ({"release": "latest"}, "order.not_a_digest"),
        ({"release": "sha256:" + "0A" * 32}, "order.not_a_digest"),
        ({"expires": "2026-12-01T00:00:00"}, "order.wrong_value"),
        ({"kind": "wipe"}, "order.wrong_value"),
        ({"kind": "decommission"}, "order.wrong_value"),
        ({"sealed": "not base64!"}, "order.wrong_value"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused_with_its_own_code(
    changes: dict[str, Any], code: str
) -> None:
    assert refused(yaml.safe_dump({**GOOD, **changes})).code == code


@pytest.mark.parametrize("field", sorted(GOOD.keys() - {"tools", "sealed"}))
def test_a_missing_field_is_named(field: str) -> None:
    error = refused(yaml.safe_dump({key: value for key, value in GOOD.items() if key != field}))
    assert error.code == "order.missing_field"
    assert field in error.cause


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x",
        "version: 1\nversion: 1",
        "[1, 2",
        "- 1",
        "",
        "!!python/object/apply:os.system [id]",
        "x: .nan",
        "? [1, 2]\n: 3",
        "[" * 3000,
    ],
)
def test_yaml_tricks_are_refused(text: str) -> None:
    assert refused(text).exit_code == 10


def test_an_error_never_shows_the_value() -> None:
    error = refused(yaml.safe_dump({**GOOD, "tenant_id": "SECRET-value"}))
    assert "SECRET-value" not in error.cause + error.hint


def test_an_order_that_expired_is_refused_from_that_very_second() -> None:
    order = parse(GOOD)
    order.refuse_expired(order.expires - timedelta(microseconds=1))
    with pytest.raises(OrderSpentError):
        order.refuse_expired(order.expires)


def test_the_same_order_in_json_yaml_and_another_time_zone_has_the_same_digest() -> None:
    order = parse(GOOD)
    assert HubOrder.parse(json.dumps(GOOD), kind="order").digest() == order.digest()
    assert parse({**GOOD, "expires": "2026-12-01T01:00:00+01:00"}).digest() == order.digest()
    assert parse({**GOOD, "tier": "build"}).digest() != order.digest()


def test_the_published_schema_is_the_one_in_force_and_accepts_a_good_order() -> None:
    published = Path(__file__).parents[3] / "docs/contracts/order.schema.json"
    assert published.read_text() == schema_text(), (
        "run: tenantfleet order schema -o docs/contracts/order.schema.json"
    )
    jsonschema.validate(GOOD, json.loads(published.read_text()))


names = st.from_regex(r"[a-z][a-z0-9-]{1,30}[a-z0-9]", fullmatch=True)


@given(
    tenant_id=names,
    tools=st.lists(st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True), unique=True, max_size=5),
    expires=st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis wants it so
    sealed=st.binary(max_size=50),
)
def test_an_order_reads_the_same_after_it_was_written(
    tenant_id: str, tools: list[str], expires: datetime, sealed: bytes
) -> None:
    fields = {
        **GOOD,
        "tenant_id": tenant_id,
        "tools": tools,
        "expires": expires.isoformat(),
        "sealed": sealed.hex(),
    }
    if len(sealed) % 2:
        del fields["sealed"]
    order = parse(fields)
    again = HubOrder.parse(order_text(order), kind="order")
    assert again == order
    assert again.digest() == order.digest()


def refused_in_words(text: str) -> None:
    """Anything but a refusal is a crash, and fails the test by itself."""
    with contextlib.suppress(InputRefusedError):
        HubOrder.parse(text, kind="order")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(field=st.sampled_from(sorted(GOOD)), value=json_values)
def test_any_value_in_any_field_is_accepted_or_refused_in_words(field: str, value: object) -> None:
    refused_in_words(yaml.safe_dump({**GOOD, field: value}))


@given(st.text(max_size=200))
def test_any_text_is_accepted_or_refused_in_words(text: str) -> None:
    refused_in_words(text)
