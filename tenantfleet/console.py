"""How things look: progress, tables, errors. In a terminal live and in colour, else plain lines."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tenantfleet.app.doctor import Finding
    from tenantfleet.model.errors import TenantfleetError
    from tenantfleet.model.outcome import RunOutcome
    from tenantfleet.model.plan import ProvisionPlan

# A pipe has no width: columns are cut for people's terminals only.
_PIPE_WIDTH = 240

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


class ConsoleProgress:
    """Steps as lines on standard error, each with its duration; in a terminal also what runs now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, tuple[str, float, str]] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show what runs now for as long as this is open; without a terminal nothing is animated."""
        if not err.is_terminal:
            yield
            return
        with Live(console=err, get_renderable=self._now, refresh_per_second=4, transient=True):
            yield

    def step_started(self, tenant_id: str, title: str) -> None:
        with self._lock:
            self._running[tenant_id] = (title, time.monotonic(), "")
        if not err.is_terminal:
            err.print(f"{tenant_id}: {title} …")

    def step_ended(self, tenant_id: str, title: str, *, ok: bool, duration_s: float, summary: str) -> None:
        with self._lock:
            self._running.pop(tenant_id, None)
        mark = "[green]done[/]" if ok else "[red]failed[/]"
        tail = f"  {escape(summary)}" if summary else ""
        err.print(f"{escape(tenant_id)}: {title}  {mark}  {duration_s:.1f} s{tail}")

    def task_ended(self, host: str, name: str, *, state: str, duration_s: float) -> None:
        with self._lock:
            for tenant_id, (title, since, _) in self._running.items():
                self._running[tenant_id] = (title, since, name)
        if state in {"failed", "unreachable"}:
            err.print(f"  {escape(host)}: [red]{state}[/] {escape(name)}")
        elif not err.is_terminal:
            err.print(f"  {host}: {state} {escape(name)} ({duration_s:.1f} s)")

    def _now(self) -> Table:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for tenant_id, (title, since, task) in sorted(self._running.items()):
                table.add_row(
                    f"[bold]{tenant_id}", title, f"{time.monotonic() - since:.0f} s", f"[dim]{escape(task)}"
                )
        return table


def show_json(value: object) -> None:
    out.out(json.dumps(value, indent=2, ensure_ascii=False))


def show_error(error: TenantfleetError, *, as_json: bool) -> None:
    """The cause and the next step; as JSON on standard output for programs."""
    if as_json:
        fields = {
            "code": error.code,
            "exit_code": int(error.exit_code),
            "cause": error.cause,
            "hint": error.hint,
        }
        show_json({"error": fields})
        return
    err.print(f"[red]error[/] {escape(error.cause)}  [dim]({error.code})[/]")
    err.print(f"[bold]next[/]  {escape(error.hint)}")


def show_plan(plan: ProvisionPlan) -> None:
    out.print(f"[bold]{plan.kind} {plan.tenant_id}[/] in {plan.region} ({plan.environment})")
    out.print(
        f"  order    {plan.order_id}\n  release  sha256:{plan.release_sha256}\n  plan     {plan.sha256}"
    )
    for number, step in enumerate(plan.steps, start=1):
        playbook = f"  [dim]playbooks/{step.playbook}[/]" if step.playbook else ""
        out.print(f"  {number}. {step.title}{playbook}")
    for name, value in sorted(plan.host_vars.items()):
        out.print(f"     [dim]{name} = {escape(json.dumps(value, ensure_ascii=False))}[/]")


def show_results(results: Sequence[Mapping[str, Any]], *, before: Sequence[str]) -> None:
    """One line an order: where it is, and that nothing changed if nothing did."""
    for result in results:
        failure = result["failure"]
        if failure:
            cause = f"{escape(failure['cause'])}  [dim]({failure['code']})[/]"
            out.print(f"[red]failed[/] {result['tenant_id']}: {cause}")
            out.print(f"[bold]next[/]  {escape(failure['hint'])}")
            continue
        if result["order_id"] in before:
            out.print(
                f"[green]done[/] {result['tenant_id']} on {result['machine']}: was done before, nothing to do"
            )
            continue
        changed = result["changed"]
        what = "nothing changed" if not changed else f"{changed} changed"
        total = sum(result["durations_s"].values())
        out.print(f"[green]done[/] {result['tenant_id']} on {result['machine']}: {what}  {total:.1f} s")


def show_outcome(outcome: RunOutcome) -> None:
    for host in outcome.hosts:
        colour = "green" if host.state == "ok" else "red"
        reason = f"  {escape(host.task)}: {escape(host.reason)}" if host.reason else ""
        out.print(f"[{colour}]{host.state}[/] {host.host}{reason}")
    if outcome.error:
        out.print(f"[red]error[/] {escape(outcome.error)}")


def show_report(report: Mapping[str, Any]) -> None:
    """A list of things by line, as `diff` would: what goes, what stays, what nobody listed."""
    colours = {"-": "red", "=": "green", "?": "yellow"}
    for line in report["lines"]:
        out.print(f"[{colours.get(line[0], 'bold')}]{escape(line)}[/]")


def outcome_data(outcome: RunOutcome) -> dict[str, Any]:
    return {**asdict(outcome), "ok": outcome.ok, "hosts": [asdict(host) for host in outcome.hosts]}


def show_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        mark = "[green]ok[/]  " if finding.ok else "[red]lacks[/]"
        out.print(f"{mark} {finding.name}: {escape(finding.said)}")
        if not finding.ok and finding.hint:
            out.print(f"      [bold]next[/] {escape(finding.hint)}")


def show_table(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Rows of equal keys as a table; plain text keeps the columns apart by two blanks."""
    if not rows:
        out.print(empty)
        return
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    out.print(table, width=None if out.is_terminal else _PIPE_WIDTH)
