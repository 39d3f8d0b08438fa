"""The heartbeat document v1 (docs/contracts/host.md)."""

import dataclasses
from datetime import UTC, datetime

from link.envelope import Json
from link.observation import Observation


def heartbeat(seen: Observation, *, tenant_id: str, sequence: int, at: datetime) -> Json:
    facts = dataclasses.asdict(seen)
    redaction, synchronised = facts.pop("redaction_tested"), facts.pop("clock_synchronised")
    return {
        "version": 1,
        "tenant_id": tenant_id,
        "sequence": sequence,
        "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "self_tests": {"redaction": redaction},
        "clock": {"synchronized": synchronised},
        **facts,
    }
