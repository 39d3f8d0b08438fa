"""What a proof works on."""

from dataclasses import dataclass
from pathlib import Path

from lab.control import Control
from lab.conversation import Agent, ModelRecord


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


@dataclass(frozen=True, kw_only=True)
class Fleet:
    control: Control
    release: str
    tenants: tuple[Tenant, ...]
    record: ModelRecord
    provisioned: str
