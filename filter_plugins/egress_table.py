"""Filters for the egress table's template. A shim; the work is done elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError  # type: ignore[import-untyped]

from tenantfleet.ansible_plugins import egress_table

if TYPE_CHECKING:
    from collections.abc import Callable


def _in_ansibles_words(work: Callable[..., Any]) -> Callable[..., Any]:
    def filtered(*arguments: Any) -> Any:  # noqa: ANN401 - whatever a template passes
        try:
            return work(*arguments)
        except (ValueError, KeyError, TypeError) as error:
            raise AnsibleFilterError(f"egress table: {error}") from error

    return filtered


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "egress_with_uids": _in_ansibles_words(egress_table.with_uids),
            "egress_of_family": _in_ansibles_words(egress_table.of_family),
            "egress_output_rules": _in_ansibles_words(egress_table.output_rules),
            "egress_forward_rules": _in_ansibles_words(egress_table.forward_rules),
        }
