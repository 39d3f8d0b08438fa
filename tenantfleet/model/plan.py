"""A plan: what will be done, known before the first effect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tenantfleet.model.document import digest


class StepName(StrEnum):
    CLAIM = "claim"
    PLAN = "plan"
    RUN = "run"
    VERIFY = "verify"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step; `playbook` is its file name under playbooks/, or None when no host is touched."""

    name: StepName
    title: str
    playbook: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionPlan:
    """The steps of one order and the non-secret variables that its playbooks get."""

    order_id: str
    tenant_id: str
    kind: str
    environment: str
    region: str
    release_sha256: str
    steps: tuple[PlannedStep, ...]
    host_vars: dict[str, Any]

    def as_data(self) -> dict[str, Any]:
        data = asdict(self)
        data["steps"] = [asdict(step) for step in self.steps]
        return data

    @property
    def sha256(self) -> str:
        """Digest of the whole plan: equal plans do equal things."""
        return digest(self.as_data())

    def playbook(self, step: StepName) -> str:
        return next(planned.playbook for planned in self.steps if planned.name is step and planned.playbook)
