"""Ansible's raw events → typed ones. Of a result only the reason of a failure is kept, scrubbed and cut.

But for modules whose `report` is made for people to read: it is kept too, scrubbed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tenantfleet.model.secret import Secret

_REASON_CHARACTERS = 600
REPORTING = frozenset({"legacy_state"})


class TaskState(StrEnum):
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    IGNORED = "ignored"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayStarted:
    play: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """A task on one host; `reason` is filled only for failed and unreachable, `duration_s` in seconds.

    `report` is what a module of REPORTING has to say.
    """

    host: str
    play: str
    role: str
    task: str
    state: TaskState
    reason: str
    duration_s: float
    report: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailed:
    """One item of a loop failed: says more than the loop's own summary."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsExhausted:
    """The play ended early: every host left it, or the share of failed hosts was too high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoHostsMatched:
    """A play's pattern selected nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStats:
    """Ansible's own reckoning: tasks by host."""

    processed: frozenset[str]
    changed: Mapping[str, int]
    failures: Mapping[str, int]
    dark: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """A line that Ansible printed before its first play, e.g. why an inventory cannot be read."""

    text: str


RunEvent = PlayStarted | TaskEnded | ItemFailed | HostsExhausted | NoHostsMatched | RunStats | Complaint

_TASK_STATES = {
    "runner_on_ok": TaskState.OK,
    "runner_on_skipped": TaskState.SKIPPED,
    "runner_on_failed": TaskState.FAILED,
    "runner_on_unreachable": TaskState.UNREACHABLE,
}


class Scrubber:
    """Takes known secrets out of text, plain and as JSON writes them."""

    def __init__(self, secrets: Iterable[Secret[str]] = ()) -> None:
        plain = {secret.reveal() for secret in secrets}
        escaped = {json.dumps(value)[1:-1] for value in plain}
        self._known = sorted(plain | escaped, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._known:
            text = text.replace(value, "[secret]")
        return text[-_REASON_CHARACTERS:]


def typed_event(raw: Mapping[str, Any], scrub: Scrubber) -> RunEvent | None:  # noqa: PLR0911 - one return a kind of event
    """One raw event of ansible-runner as a typed one; None for those that nobody needs."""
    name = raw.get("event", "")
    fields: Mapping[str, Any] = raw.get("event_data") or {}
    if name in _TASK_STATES:
        return _task(_TASK_STATES[name], fields, scrub)
    match name:
        case "playbook_on_play_start":
            return PlayStarted(play=str(fields.get("name", "")))
        case "runner_item_on_failed":
            return ItemFailed(host=str(fields.get("host", "")), reason=_reason(fields, scrub))
        case "playbook_on_no_hosts_remaining":
            return HostsExhausted()
        case "playbook_on_no_hosts_matched":
            return NoHostsMatched()
        case "playbook_on_stats":
            return _stats(fields)
        case "verbose" | "error" | "warning" | "deprecated":
            return Complaint(text=scrub(str(raw.get("stdout", "")).strip()))
    return None


def _task(state: TaskState, fields: Mapping[str, Any], scrub: Scrubber) -> TaskEnded:
    result = fields.get("res") or {}
    if state is TaskState.OK and result.get("changed"):
        state = TaskState.CHANGED
    if state is TaskState.FAILED and fields.get("ignore_errors"):
        state = TaskState.IGNORED
    ended_badly = state in {TaskState.FAILED, TaskState.UNREACHABLE}
    return TaskEnded(
        host=str(fields.get("host", "")),
        play=str(fields.get("play", "")),
        role=str(fields.get("role", "")),
        task=str(fields.get("task", "")),
        state=state,
        reason=_reason(fields, scrub) if ended_badly else "",
        duration_s=float(fields.get("duration") or 0.0),
        report=_scrubbed(result.get("report"), scrub) if fields.get("task_action") in REPORTING else None,
    )


def _scrubbed(value: Any, scrub: Scrubber) -> Any:  # noqa: ANN401 - plain data of any shape
    match value:
        case dict():
            return {str(key): _scrubbed(item, scrub) for key, item in value.items()}
        case list():
            return [_scrubbed(item, scrub) for item in value]
        case str():
            return scrub(value)
    return value


def _reason(fields: Mapping[str, Any], scrub: Scrubber) -> str:
    result = fields.get("res") or {}
    if "censored" in result:
        return "its output is hidden, because it may hold a secret"
    parts = (str(result.get(key) or "").strip() for key in ("msg", "stderr", "module_stderr"))
    return scrub("; ".join(part for part in dict.fromkeys(parts) if part)) or "no reason given"


def _stats(fields: Mapping[str, Any]) -> RunStats:
    return RunStats(
        processed=frozenset(fields.get("processed") or ()),
        changed=dict(fields.get("changed") or {}),
        failures=dict(fields.get("failures") or {}),
        dark=dict(fields.get("dark") or {}),
    )
