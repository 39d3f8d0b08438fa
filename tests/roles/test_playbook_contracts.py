"""What a playbook gives a role is what its specification takes: a provision does not check it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
OF_THE_PLAN = {"release_store_url"}  # a host's variables have it under the role's own name
CALLS = ("ansible.builtin.import_role", "ansible.builtin.include_role")


def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Playbook, role and variables of each call."""
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text()):
            for task in play.get("tasks", ()):
                for call in CALLS:
                    if call in task:
                        yield path.name, task[call]["name"], task.get("vars", {})


@pytest.mark.parametrize(("playbook", "role", "given"), list(calls()), ids=str)
def test_a_role_gets_what_it_requires_and_nothing_that_it_does_not_know(
    playbook: str, role: str, given: dict[str, Any]
) -> None:
    path = ROOT / "roles" / role / "meta/argument_specs.yml"
    options = yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options", {})
    assert given.keys() <= options.keys(), f"{playbook} gives {role} what it does not know"
    required = {name for name, option in options.items() if option.get("required")}
    assert required <= given.keys() | OF_THE_PLAN, f"{playbook} does not give {role} what it requires"


def test_every_role_of_a_tenant_is_called() -> None:
    called = {role for playbook, role, _ in calls() if playbook == "tenant_provision.yml"}
    assert called == {path.name for path in (ROOT / "roles").iterdir()}
