"""What a proof works on."""

import base64
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.control import Control
from lab.conversation import Agent, ModelRecord
from lab.fingerprint import Fingerprint, fingerprint
from lab.process_watch import Watched


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A tenant of the fleet: its order, its agent and the secrets that its payload brought."""

    id: str
    order: Path
    agent: Agent
    secrets: dict[str, str]

    def journal(self) -> str:
        """What a failing test wants to be read with."""
        units = ("openclaw", "tf-egress", "tf-wrapper", "tf-link")
        argv = [word for unit in units for word in ("--unit", unit)]
        return self.agent.on_host("journalctl", "--no-pager", "--lines=120", *argv).stdout

    @property
    def machine_id(self) -> str:
        return f"lab-{self.agent.host}"

    def fingerprint(self) -> Fingerprint:
        """How its host is set up, without what is its own."""
        return fingerprint(self.agent.lab, self.agent.host, own={self.id: "<tenant>"})


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Tenants that were provisioned side by side.

    Attributes:
        provisioned: what the command printed.
        progress: what it said while it worked.
        watched: every process of the controller and the hosts meanwhile, searched for the payloads' secrets.
        undisturbed: how the first tenant's host was set up right afterwards.
    """

    control: Control
    release: str
    tenants: tuple[Tenant, ...]
    record: ModelRecord
    provisioned: str
    progress: str
    watched: Watched
    undisturbed: Fingerprint


def new_payload() -> dict[str, str]:
    """Secrets that were never seen before, one with what shells and encoders trip over."""
    return {
        "provider.openai": f"sk-proof-{secrets.token_hex(16)}",
        "tools.crm.db_password": f'pa"ss/{secrets.token_urlsafe(12)}+wörd',
    }


def needles(values: Iterable[str]) -> list[str]:
    """Plain and base64: the two writings in which programs leave things behind."""
    plain = list(values)
    return [*plain, *(base64.b64encode(value.encode()).decode().rstrip("=") for value in plain)]
