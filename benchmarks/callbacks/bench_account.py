"""Callback of the benchmarks: Ansible's own reckoning as JSON, and on request what the role set declared."""

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]

DOCUMENTATION = """
name: bench_account
type: aggregate
short_description: reckoning of a run as JSON
description: Writes how many tasks of each host were ok, changed, failed and so on to BENCH_ACCOUNT when a run
  ends, and the arguments of each declaring task to BENCH_DECLARED, one JSON line a task, when that is set.
"""

# The tasks that say what a host shall look like; all others look, refuse or fetch.
DECLARING = frozenset(
    {"host_state", "release_slot", "baseline_info", "ansible.builtin.apt", "ansible.builtin.command"}
)


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_account"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result: Any) -> None:  # noqa: ANN401 - Ansible's own
        place = os.environ.get("BENCH_DECLARED")
        if not place or result.task.action not in DECLARING:
            return
        row = {
            "host": result.host.get_name(),
            "action": result.task.action,
            "arguments": dict(result.task.args),
            "activation": result.result.get("activation", ""),
        }
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ANN401 - Ansible's own
        summary = {host: stats.summarize(host) for host in sorted(stats.processed)}
        Path(os.environ["BENCH_ACCOUNT"]).write_text(json.dumps(summary), encoding="utf-8")
