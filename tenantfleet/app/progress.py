"""What a use case tells while it works; the command line decides how it looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears steps and tasks, possibly from several threads at once. Durations in seconds."""

    def step_started(self, tenant_id: str, title: str) -> None: ...

    def step_ended(
        self, tenant_id: str, title: str, *, ok: bool, duration_s: float, summary: str
    ) -> None: ...

    def task_ended(self, host: str, name: str, *, state: str, duration_s: float) -> None: ...


class Silence:
    """Tells nobody."""

    def step_started(self, tenant_id: str, title: str) -> None:
        pass

    def step_ended(self, tenant_id: str, title: str, *, ok: bool, duration_s: float, summary: str) -> None:
        pass

    def task_ended(self, host: str, name: str, *, state: str, duration_s: float) -> None:
        pass
