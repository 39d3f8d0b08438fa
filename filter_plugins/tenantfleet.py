"""Filters of the playbooks. A shim; the work is done elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError  # type: ignore[import-untyped]

from tenantfleet.ansible_plugins.heartbeat import heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable


def tenantfleet_heartbeat(envelope: str) -> dict[str, Any]:
    """The heartbeat document inside its envelope."""
    try:
        return heartbeat(envelope)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"tenantfleet_heartbeat": tenantfleet_heartbeat}
