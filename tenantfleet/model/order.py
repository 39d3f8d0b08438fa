"""HubOrder v1 and the payload sealed in it (docs/contracts/order.md)."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self
from uuid import UUID  # noqa: TC003 - pydantic reads it

from pydantic import AwareDatetime, Field, StringConstraints, field_serializer, model_validator

from tenantfleet.model.document import Document, VersionOne, digest
from tenantfleet.model.errors import OrderSpentError

TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,30}[a-z0-9]$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
ReleaseDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Domain = Annotated[
    str,
    StringConstraints(
        max_length=253, pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$"
    ),
]
SecretName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_-]+)*$")]


class OrderKind(StrEnum):
    PROVISION = "provision"
    DECOMMISSION = "decommission"


class TenantClass(StrEnum):
    SANDBOX = "sandbox"
    CANARY = "canary"
    GENERAL = "general"


class Tier(StrEnum):
    LITE = "lite"
    BUILD = "build"
    SCALE = "scale"
    ENTERPRISE = "enterprise"


class Autonomy(StrEnum):
    STRICT = "strict"
    STANDARD = "standard"
    TRUSTED = "trusted"


class HubOrder(Document):
    """What the Hub wants done for one tenant. `order_id` is the idempotency key."""

    version: VersionOne
    order_id: UUID
    kind: OrderKind
    tenant_id: TenantId
    tenant_class: TenantClass
    region: Region
    tier: Tier
    tools: tuple[ToolName, ...] = ()
    domain: Domain
    autonomy: Autonomy
    release: ReleaseDigest
    expires: AwareDatetime
    sealed: Annotated[str, StringConstraints(max_length=400_000)] | None = Field(
        default=None,
        description="base64 of an age file holding the sealed payload v1; absent for decommission",
    )

    @model_validator(mode="after")
    def _kind_and_payload_agree(self) -> Self:
        if self.kind is OrderKind.DECOMMISSION and self.sealed is not None:
            raise ValueError("a decommission order carries no sealed payload")
        if len(set(self.tools)) != len(self.tools):
            raise ValueError("a tool is named twice")
        if self.sealed is not None:
            try:
                base64.b64decode(self.sealed, validate=True)
            except binascii.Error:
                raise ValueError("sealed is not base64") from None
        return self

    @field_serializer("expires")
    def _in_utc(self, expires: datetime) -> str:
        return utc_text(expires)

    @property
    def release_sha256(self) -> str:
        return self.release.removeprefix("sha256:")

    def fields(self) -> dict[str, Any]:
        """All fields as plain JSON data; `sealed` is left out when there is none."""
        fields: dict[str, Any] = json.loads(self.model_dump_json(exclude_none=True))
        return fields

    def digest(self) -> str:
        """SHA-256 over the canonical order, sealed payload included: what "the same order" means."""
        return digest(self.fields())

    def refuse_expired(self, now: datetime) -> None:
        """Refuse the order when its time is over.

        Raises:
            OrderSpentError: `order.expired`.
        """
        if self.expires <= now:
            raise OrderSpentError(
                f"the order expired at {utc_text(self.expires)}",
                code="order.expired",
                hint="Ask for a new order: `tenantfleet order new` makes one with a later expiry.",
            )


class SealedPayload(Document):
    """The plaintext inside `sealed`: made by the Hub, opened in memory only."""

    version: VersionOne
    job_id: UUID
    tenant_id: TenantId
    expires: AwareDatetime
    secrets: dict[SecretName, Annotated[str, StringConstraints(min_length=1, max_length=16_384)]] = Field(
        repr=False
    )

    def refuse_other_order(self, order: HubOrder) -> None:
        """Refuse a payload that was sealed for something else: age authenticates no context of its own.

        Raises:
            OrderSpentError: `payload.replayed`, naming the fields that differ.
        """
        pairs = {
            "job_id": self.job_id == order.order_id,
            "tenant_id": self.tenant_id == order.tenant_id,
            "expires": self.expires == order.expires,
        }
        wrong = [name for name, same in pairs.items() if not same]
        if wrong:
            raise OrderSpentError(
                f"the sealed payload belongs to another order: {', '.join(wrong)} differ",
                code="payload.replayed",
                hint="Seal the payload again for this order: `tenantfleet order seal`.",
            )


def utc_text(moment: datetime) -> str:
    """A moment as the contract writes it: `2026-12-01T00:00:00Z`, microseconds only when there are some."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
