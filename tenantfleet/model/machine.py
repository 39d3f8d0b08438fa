"""Machines as a provider lists them (machines.yml, schema v1)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Self

from pydantic import AfterValidator, StringConstraints, model_validator

from tenantfleet.model.document import Document, VersionOne
from tenantfleet.model.order import Region  # noqa: TC001 - pydantic reads it

MachineId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,61}[a-z0-9]$")]
Account = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
PublicKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^(ssh-ed25519|ecdsa-sha2-nistp256|ssh-rsa) [A-Za-z0-9+/]{40,2000}={0,3}( [ -~]*)?$"
    ),
]


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


Address = Annotated[str, AfterValidator(_address)]


class Machine(Document):
    """One machine that a tenant may be put on. Exactly one of `host_ca` and `host_key` proves who answers."""

    id: MachineId
    region: Region
    site: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    address: Address
    host_ca: PublicKey | None = None
    host_key: PublicKey | None = None
    user: Account

    @model_validator(mode="after")
    def _one_proof_of_identity(self) -> Self:
        if (self.host_ca is None) == (self.host_key is None):
            raise ValueError("exactly one of host_ca and host_key is needed")
        return self

    def known_hosts_line(self) -> str:
        """The line of an ssh known_hosts file that accepts this machine, and only it, under its id."""
        marker, key = ("@cert-authority ", self.host_ca) if self.host_ca else ("", self.host_key or "")
        kind, blob = key.split()[:2]
        return f"{marker}{self.id} {kind} {blob}"


class MachineList(Document):
    """machines.yml, schema v1."""

    version: VersionOne
    machines: tuple[Machine, ...]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name, values in (
            ("id", [m.id for m in self.machines]),
            ("address", [m.address for m in self.machines]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{name} {twice[0]} stands twice")
        return self
