from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantfleet.execution.invoke import RunRequest, run_playbook
from tenantfleet.execution.workspace import open_workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tenantfleet.execution.events import RunEvent
    from tenantfleet.model.outcome import RunOutcome
    from tenantfleet.model.secret import Secret


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "ansible.cfg").write_text(
        "[defaults]\ninterpreter_python = auto_silent\ngathering = explicit\n"
    )
    return project


@pytest.fixture
def run(project: Path) -> Callable[..., RunOutcome]:
    """Runs a playbook's text on hosts that are all this machine, with a real ansible-runner."""

    def run(
        playbook: str,
        *hosts: str,
        variables: dict[str, object] | None = None,
        secrets: tuple[Secret[str], ...] = (),
        secret_files: dict[str, Secret[str]] | None = None,
        last_play: str | None = None,
        lock: Path | None = None,
        should_cancel: Callable[[], bool] | None = None,
        on_event: Callable[[RunEvent], None] | None = None,
    ) -> RunOutcome:
        path = project / "playbook.yml"
        path.write_text(playbook)
        with open_workspace() as workspace:
            paths = {
                name: str(workspace.write_secret(name, secret))
                for name, secret in (secret_files or {}).items()
            }
            local = {"ansible_connection": "local", **(variables or {}), **paths}
            request = RunRequest(
                playbook=path,
                project=project,
                hosts=hosts,
                inventory={"all": {"hosts": dict.fromkeys(hosts, local)}},
                last_play=last_play,
                lock=lock,
                secrets=secrets,
            )
            return run_playbook(
                request,
                workspace=workspace,
                should_cancel=should_cancel or (lambda: False),
                on_event=on_event or (lambda _event: None),
            )

    return run
