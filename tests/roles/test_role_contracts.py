"""What every role keeps to: read from its files, without a host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())
OUR_MODULES = {path.stem for path in [*ROOT.glob("library/*.py"), *ROOT.glob("roles/*/library/*.py")]}
COMMAND = "ansible.builtin.command"
SHELLS = {"ansible.builtin.shell", "ansible.builtin.raw", "ansible.builtin.script", "ansible.builtin.expect"}
SECRET_MODULES = {"secret_file", "redaction_probe"}
PROVIDERS = ("hetzner", "netcup")
NOT_MODULES = {
    *(
        "args",
        "become",
        "become_user",
        "block",
        "always",
        "rescue",
        "changed_when",
        "check_mode",
        "delegate_to",
    ),
    *(
        "diff",
        "failed_when",
        "ignore_unreachable",
        "loop",
        "loop_control",
        "name",
        "no_log",
        "notify",
        "register",
    ),
    *(
        "retries",
        "delay",
        "until",
        "run_once",
        "tags",
        "throttle",
        "timeout",
        "vars",
        "when",
        "ignore_errors",
        "async",
        "poll",
    ),
    *("environment", "listen", "connection"),
}

every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def load(path: Path) -> Any:  # noqa: ANN401 - YAML is whatever it says
    return yaml.safe_load(path.read_text()) if path.exists() else None


def tasks_of(role: Path) -> Iterator[dict[str, Any]]:
    """Yield every task of a role, those inside blocks as well."""
    waiting = [
        task
        for folder in ("tasks", "handlers")
        for path in (role / folder).glob("*.yml")
        for task in load(path) or []
    ]
    while waiting:
        task = waiting.pop()
        inner = [step for key in ("block", "rescue", "always") for step in task.get(key, [])]
        waiting.extend(inner)
        yield task


def module_of(task: dict[str, Any]) -> str | None:
    names = set(task) - NOT_MODULES
    assert len(names) <= 1, f"{task.get('name')}: which of {names} is the module?"
    return names.pop() if names else None


def specified(role: Path) -> dict[str, Any]:
    options: dict[str, Any] = (
        load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options") or {}
    )
    return options


@every_role
def test_its_specification_and_its_defaults_name_the_same_variables(role: Path) -> None:
    options, defaults = specified(role), load(role / "defaults/main.yml") or {}
    optional = {name for name, option in options.items() if not option.get("required")}
    assert optional == set(defaults)
    stated = {name: option["default"] for name, option in options.items() if "default" in option}
    assert stated == {name: defaults[name] for name in stated}


@every_role
def test_each_default_is_explained(role: Path) -> None:
    """A comment stands above each variable, or above a few that belong together."""
    path = role / "defaults/main.yml"
    lines = path.read_text().splitlines() if path.exists() else []
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"[a-z_]+:", line) and (not before or before == "---")
    ]
    assert bare == []


@every_role
def test_its_readme_is_there_and_short(role: Path) -> None:
    assert 0 < len((role / "README.md").read_text().splitlines()) <= 60


@every_role
def test_public_names_carry_its_name_and_private_ones_two_underscores(role: Path) -> None:
    public, private = f"{role.name}_", f"__{role.name}_"
    assert [name for name in specified(role) if not name.startswith(public)] == []
    assert [name for name in load(role / "vars/main.yml") or {} if not name.startswith(private)] == []
    made = [task["register"] for task in tasks_of(role) if "register" in task]
    made += [name for task in tasks_of(role) for name in task.get("ansible.builtin.set_fact", {})]
    made += [
        task["loop_control"]["loop_var"]
        for task in tasks_of(role)
        if "loop_var" in task.get("loop_control", {})
    ]
    assert [name for name in made if not name.startswith(private)] == []


@every_role
def test_it_reads_no_other_roles_variables(role: Path) -> None:
    others = [other.name for other in ROLES if other != role]
    foreign = [
        f"{path.relative_to(role)}: {word}"
        for path in [*role.glob("tasks/*.yml"), *role.glob("templates/*"), *role.glob("vars/*.yml")]
        for word in re.findall(r"\b_{0,2}[a-z][a-z_]{1,60}\b", path.read_text())
        for other in others
        if word.startswith((f"{other}_", f"__{other}_"))
        and not role.name.startswith(other)
        and word in names_of(other)
    ]
    assert foreign == []


def names_of(role: str) -> set[str]:
    return set(specified(ROOT / "roles" / role)) | set(load(ROOT / "roles" / role / "vars/main.yml") or {})


@every_role
def test_tasks_that_touch_secrets_log_nothing(role: Path) -> None:
    silent = [task for task in tasks_of(role) if task.get("no_log") is True]
    talking = [
        task.get("name")
        for task in tasks_of(role)
        if task not in silent
        and (module_of(task) in SECRET_MODULES or "bootstrap_path" in str(task.get("vars", "")))
    ]
    assert talking == []
    blocks = [task["name"] for task in silent if "block" in task]
    assert blocks == [], "no_log on a whole block hides why it failed"


@every_role
def test_nothing_is_ignored_and_nothing_goes_through_a_shell(role: Path) -> None:
    assert [task.get("name") for task in tasks_of(role) if "ignore_errors" in task] == []
    assert [task.get("name") for task in tasks_of(role) if module_of(task) in SHELLS] == []


@every_role
def test_commands_are_argument_lists_that_say_what_they_change(role: Path) -> None:
    commands = [task for task in tasks_of(role) if module_of(task) == COMMAND]
    assert [task["name"] for task in commands if "argv" not in task[COMMAND]] == []
    silent = [task for task in commands if "changed_when" not in task and "creates" not in task[COMMAND]]
    assert [task["name"] for task in silent] == []


@every_role
def test_modules_are_named_in_full_or_are_our_own(role: Path) -> None:
    used = {module for task in tasks_of(role) if (module := module_of(task))}
    assert {module for module in used if not module.startswith("ansible.builtin.")} <= OUR_MODULES | {
        "secret_file",
        "release_slot",
        "listener_info",
        "redaction_probe",
        "host_state",
    }


@every_role
def test_a_rescue_always_ends_in_failure(role: Path) -> None:
    """A rescued host counts as a success, so the last word has to be `fail`."""
    rescues = [task["rescue"] for task in tasks_of(role) if "rescue" in task]
    assert [
        steps[-1].get("name") for steps in rescues if module_of(steps[-1]) != "ansible.builtin.fail"
    ] == []


@every_role
def test_it_knows_no_provider_and_no_test_switch(role: Path) -> None:
    files = [
        path
        for path in role.rglob("*")
        if path.is_file() and path.suffix in {".yml", ".j2", ".conf", ".service", ""}
    ]
    told = [
        f"{path.relative_to(role)}: {word}"
        for path in files
        for word in (*PROVIDERS, "ci_test", "is_booted", "virtualization_type")
        if word in path.read_text().lower()
    ]
    assert told == []


@every_role
def test_task_files_are_short_and_named_after_themselves(role: Path) -> None:
    for path in role.glob("tasks/*.yml"):
        tasks = load(path) or []
        assert len(tasks) <= 12, path
        for task in tasks:
            assert task["name"].lower().startswith(f"{path.stem} | ") or path.stem == "main", (
                f"{path.name}: {task['name']}"
            )
