"""Settings of one environment (settings.yml, schema v1): nothing in here is secret."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tenantfleet.model.document import Document, VersionOne
from tenantfleet.model.legacy import LegacyInventory
from tenantfleet.model.order import Region  # noqa: TC001 - pydantic reads it

EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
HttpsUrl = Annotated[
    str, StringConstraints(pattern=r"^https://[a-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?$")
]
# The egress proxy appends what follows /v1, so the version is a part of the upstream.
ApiUrl = Annotated[
    str, StringConstraints(pattern=r"^https://[a-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?/v1$")
]
HostAndPort = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+(:[0-9]{1,5})?$")]
AgeRecipient = Annotated[str, StringConstraints(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]


class StaticProvider(Document):
    """Machines listed in a file."""

    kind: Literal["static"]
    machines: str = Field(description="path of machines.yml, absolute or relative to settings.yml")


class EgressProvider(Document):
    """An LLM provider that the egress proxy may call."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    upstream: ApiUrl
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,100}$")] = Field(
        default="default", description="the model that agents use, in the provider's own name"
    )


class FleetSettings(Document):
    """One environment: where machines, releases and images come from."""

    version: VersionOne
    environment: EnvironmentName
    regions: Annotated[tuple[Region, ...], Field(min_length=1)]
    provider: StaticProvider
    store_url: HttpsUrl
    store_ca: str | None = Field(default=None, description="CA file for store_url; without it the system's")
    store_address: str | None = Field(
        default=None,
        description="address to connect to for store_url's name, where the driver's DNS lacks it",
    )
    registry: HostAndPort
    recovery_recipient: AgeRecipient
    first_contact_key: str | None = Field(
        default=None, description="path of the private key for the account of first contact"
    )
    egress_providers: tuple[EgressProvider, ...] = ()
    network: dict[str, Any] = Field(default_factory=dict, description="passed to the playbooks as `network`")
    legacy: LegacyInventory = Field(
        default_factory=LegacyInventory, description="what an older product left on the machines"
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        ids = [provider.id for provider in self.egress_providers]
        if len(set(ids)) != len(ids):
            raise ValueError("an egress provider is named twice")
        return self
