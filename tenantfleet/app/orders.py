"""Order files: make one, seal secrets into it, check it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import StringConstraints

from tenantfleet.app.payload import open_payload
from tenantfleet.app.steps import make_plan
from tenantfleet.model.document import Document
from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.order import HubOrder, OrderKind, SecretName
from tenantfleet.model.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.app.environment import Environment
    from tenantfleet.model.plan import ProvisionPlan


class SecretsFile(Document):
    """What `order seal` reads: secret names and their values."""

    secrets: dict[SecretName, Annotated[str, StringConstraints(min_length=1, max_length=16_384)]]


def read_order(path: Path) -> HubOrder:
    """Parse an order file, YAML or JSON.

    Raises:
        InputRefusedError: with the offending fields.
    """
    return HubOrder.parse(read_text(path), kind="order")


def read_secrets(path: Path) -> dict[str, Secret[str]]:
    """Read `name: value` pairs for sealing.

    Raises:
        InputRefusedError: when it is not such a file.
    """
    try:
        raw = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        raw = None
    if not isinstance(raw, dict):
        raise InputRefusedError(
            f"{path} holds no `name: value` pairs",
            code="secrets.not_pairs",
            hint="One line a secret, in YAML.",
        )
    parsed = SecretsFile.parse(yaml.safe_dump({"secrets": raw}), kind="secrets")
    return {name: Secret(value) for name, value in parsed.secrets.items()}


def new_order(fields: dict[str, Any], *, life: timedelta) -> HubOrder:
    """An order with an id of its own that ends after `life`.

    Raises:
        InputRefusedError: a field is not what the contract says.
    """
    expires = (datetime.now(UTC) + life).replace(microsecond=0)
    return HubOrder.parse(
        yaml.safe_dump(
            {"version": 1, "order_id": str(uuid.uuid4()), "expires": expires.isoformat(), **fields}
        ),
        kind="order",
    )


def order_text(order: HubOrder) -> str:
    """The order as YAML, fields in the contract's order."""
    return yaml.safe_dump(order.fields(), sort_keys=False, width=4096)


def schema_text() -> str:
    """The JSON Schema of an order (docs/contracts/order.schema.json)."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **HubOrder.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def check_order(environment: Environment, order: HubOrder) -> ProvisionPlan:
    """Everything that can be known before the first effect: expiry, region, payload, release.

    Raises:
        TenantfleetError: each refusal with its own code.
    """
    order.refuse_expired(datetime.now(UTC))
    plan = make_plan(environment, order)
    if order.kind is OrderKind.PROVISION:
        open_payload(order, identity=environment.age_identity)
    return plan


def read_text(path: Path) -> str:
    """A file as text.

    Raises:
        InputRefusedError: `file.unreadable`.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except OSError as error:
        why = str(error.strerror)
    raise InputRefusedError(f"{path} cannot be read: {why}", code="file.unreadable", hint="Check the path.")
