from __future__ import annotations

from tenantfleet.execution.events import Scrubber, TaskEnded, typed_event
from tenantfleet.model.secret import Secret

REPORT = {"lines": ["- path /opt/n8n", "? crontab root: line 2 hunter2"], "unknown": 1, "clean": False}


def heard(action: str) -> TaskEnded:
    raw = {
        "event": "runner_on_ok",
        "event_data": {"host": "m1", "task_action": action, "res": {"changed": True, "report": REPORT}},
    }
    event = typed_event(raw, Scrubber([Secret("hunter2")]))
    assert isinstance(event, TaskEnded)
    return event


def test_of_a_reporting_module_the_report_is_kept_without_secrets() -> None:
    lines = ["- path /opt/n8n", "? crontab root: line 2 [secret]"]
    assert heard("legacy_state").report == {**REPORT, "lines": lines}


def test_of_any_other_module_nothing_is_kept() -> None:
    assert heard("ansible.builtin.command").report is None
