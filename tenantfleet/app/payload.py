"""The sealed payload: age → memory. Opened for one run, never written to a disk."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pyrage  # type: ignore[import-untyped]

from tenantfleet.model.errors import InputRefusedError, PayloadClosedError
from tenantfleet.model.order import HubOrder, SealedPayload, utc_text
from tenantfleet.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def new_identity() -> Secret[str]:
    """A fresh age identity (X25519), as the text of an identity file."""
    return Secret(str(pyrage.x25519.Identity.generate()))


def recipient_of(identity: Secret[str]) -> str:
    """The recipient to whom that identity opens, `age1…`."""
    return str(pyrage.x25519.Identity.from_str(identity.reveal()).to_public())


def seal_payload(
    order: HubOrder, secrets: Mapping[str, Secret[str]], *, recipients: Iterable[str]
) -> HubOrder:
    """The order with a payload that holds these secrets and is bound to it.

    Raises:
        InputRefusedError: a secret's name is not allowed, or it is empty.
    """
    plain = {
        "version": 1,
        "job_id": str(order.order_id),
        "tenant_id": order.tenant_id,
        "expires": utc_text(order.expires),
        "secrets": {name: value.reveal() for name, value in secrets.items()},
    }
    text = json.dumps(plain)
    SealedPayload.parse(text, kind="payload")
    keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    sealed = base64.b64encode(pyrage.encrypt(text.encode(), keys)).decode()
    return HubOrder.model_validate_json(json.dumps({**order.fields(), "sealed": sealed}))


def open_payload(order: HubOrder, *, identity: Secret[str]) -> SealedPayload:
    """Open an order's payload and compare what is inside with the order.

    Raises:
        InputRefusedError: `order.not_sealed`, or what is inside is not payload v1.
        PayloadClosedError: `payload.closed`, sealed to somebody else, or damaged.
        OrderSpentError: `payload.replayed`.
    """
    if order.sealed is None:
        raise InputRefusedError(
            "the order carries no sealed payload",
            code="order.not_sealed",
            hint="Seal its secrets into it: `tenantfleet order seal ORDER.yml --secrets FILE`.",
        )
    try:
        key = pyrage.x25519.Identity.from_str(identity.reveal())
        text = pyrage.decrypt(base64.b64decode(order.sealed), [key]).decode()
    except (pyrage.DecryptError, UnicodeDecodeError):
        raise PayloadClosedError(
            "the sealed payload cannot be opened with this environment's key",
            code="payload.closed",
            hint="Seal it to this environment's recipient: `tenantfleet doctor` prints it.",
        ) from None
    payload = SealedPayload.parse(text, kind="payload")
    payload.refuse_other_order(order)
    return payload
