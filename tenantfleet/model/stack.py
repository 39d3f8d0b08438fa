"""A tool stack of a release: its compose file, and what stack.yml declares about it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints

from tenantfleet.model.compose import ComposeFile, Name, check_compose
from tenantfleet.model.document import Document, VersionOne
from tenantfleet.model.errors import InputRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where the release's own images are pulled from: each host maps this name to its registry
# (registries.conf), so that a template and its digest are the same everywhere.
RELEASE_REGISTRY = "release.tenantfleet.invalid"
_FIRST_SERVICE = 2  # .1 is the host's


class StackFile(Document):
    """stack.yml: all that the platform has to know of a stack to fence it in."""

    version: VersionOne
    port: Annotated[int, Field(ge=18900, le=18999, description="loopback port of the host, nginx's")]
    service: Name = Field(description="which service answers")
    listen: Annotated[int, Field(ge=1024, le=65535, description="its port on the stack's network")]
    health: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_/.-]{0,60}$")] = Field(
        description="path that answers 2xx when the stack works"
    )
    network: Annotated[str, StringConstraints(pattern=r"^10\.210\.[0-9]{1,3}\.0/24$")]
    inside: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        default=(), description="ports on which its services reach each other"
    )
    secrets: tuple[Name, ...] = ()
    destinations: tuple[Name, ...] = Field(
        default=(), description="names of the environment's tool_destinations; all else is refused"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack that was checked as a whole."""

    name: str
    file: StackFile
    compose: ComposeFile

    @property
    def addresses(self) -> dict[str, str]:
        """Each service's address on the stack's network."""
        hosts = list(ipaddress.ip_network(self.file.network).hosts())
        return {
            name: str(hosts[number + _FIRST_SERVICE - 1])
            for number, name in enumerate(sorted(self.compose.services))
        }

    @property
    def interface(self) -> str:
        """The bridge's name on the host, at most 15 characters."""
        return f"tf-{self.file.network.split('.')[2]}"

    @property
    def uids(self) -> frozenset[int]:
        return frozenset(service.uid for service in self.compose.services.values())

    @property
    def secret_readers(self) -> dict[str, int]:
        """Each declared secret and the one user number that reads it."""
        return {
            secret: service.uid for service in self.compose.services.values() for secret in service.secrets
        }


def check_stack(name: str, *, file: StackFile, compose: Mapping[str, Any]) -> Stack:
    """Check a stack as a whole.

    Raises:
        InputRefusedError: `stack.refused`, naming stack, service and key.
    """
    stack = Stack(name=name, file=file, compose=check_compose(name, compose))
    services = stack.compose.services
    used = [(secret, service.uid) for service in services.values() for secret in service.secrets]
    complaints = []
    try:
        ipaddress.ip_network(file.network)
    except ValueError:
        complaints.append(f"network: {file.network} is no network")
    if file.service not in services:
        complaints.append(f"service: {file.service} is no service of the compose file")
    if {secret for secret, _ in used} != set(file.secrets):
        complaints.append("secrets: what stack.yml declares and what the services read is not the same")
    if len({secret for secret, _ in set(used)}) != len(set(used)):
        complaints.append("secrets: services of different users read the same one")
    if complaints:
        raise InputRefusedError(
            f"stack {name} was refused: {'; '.join(complaints)}",
            code="stack.refused",
            hint="Correct its stack.yml; docs/operations/tools.md says what it holds.",
        )
    return stack
