"""The command line: parses arguments, renders results, sets exit codes. It decides nothing."""

from __future__ import annotations

import getpass
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

import tenantfleet
from tenantfleet import console
from tenantfleet.app.environment import Environment, create_environment, open_environment
from tenantfleet.model.errors import ExitCode, TenantfleetError
from tenantfleet.order_cli import OrderFile, OrderFiles, order_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tenantfleet.app.progress import Progress
    from tenantfleet.model.order import HubOrder
    from tenantfleet.model.outcome import RunOutcome

app = typer.Typer(
    help="Put guarded AI-agent tenants onto machines, and keep them there.", no_args_is_help=True
)
inventory_app = typer.Typer(help="Look at machines and tenants.", no_args_is_help=True)
operator_app = typer.Typer(help="Access for people.", no_args_is_help=True)
app.add_typer(order_app, name="order")
app.add_typer(inventory_app, name="inventory")
app.add_typer(operator_app, name="operator")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this command works."""

    home: Path
    name: str
    project: Path

    def environment(self) -> Environment:
        return open_environment(self.home, self.name)


@app.callback()
def place(
    context: typer.Context,
    environment: Annotated[
        str,
        typer.Option(
            "--environment", "-e", envvar="TENANTFLEET_ENVIRONMENT", help="Name of the environment."
        ),
    ] = "dev",
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="TENANTFLEET_HOME", help="State; default $XDG_STATE_HOME/tenantfleet.", show_default=False
        ),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            envvar="TENANTFLEET_PROJECT", help="The repository; default where this program is from."
        ),
    ] = None,
) -> None:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    source = Path(tenantfleet.__file__).resolve().parent.parent
    context.obj = Place(
        home=home or Path(state) / "tenantfleet", name=environment, project=(project or source).resolve()
    )


@app.command()
def init(  # noqa: PLR0917 - one option a setting
    context: typer.Context,
    settings: Annotated[
        Path | None, typer.Option(help="Settings file, schema v1; options below win over it.")
    ] = None,
    region: Annotated[list[str] | None, typer.Option(help="A region of this environment.")] = None,
    machines: Annotated[Path | None, typer.Option(help="machines.yml of the static provider.")] = None,
    store_url: Annotated[str | None, typer.Option(help="URL of the release store.")] = None,
    store_ca: Annotated[Path | None, typer.Option(help="CA file of the release store.")] = None,
    store_address: Annotated[
        str | None, typer.Option(help="Address of the store, where this machine's DNS lacks its name.")
    ] = None,
    registry: Annotated[str | None, typer.Option(help="Image registry, HOST[:PORT].")] = None,
    egress_provider: Annotated[
        list[str] | None, typer.Option(help="LLM provider, ID=URL; repeat for more.")
    ] = None,
    first_contact_key: Annotated[
        Path | None, typer.Option(help="Private key for the account of first contact.")
    ] = None,
    recovery_recipient: Annotated[
        str | None, typer.Option(help="age recipient whose key is kept off this machine.")
    ] = None,
    recovery_key_file: Annotated[
        Path | None, typer.Option(help="Make a recovery key and write it here; move it away afterwards.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Set an environment up: age identity, SSH CA, ledger. Safe to repeat; keys are kept."""
    from tenantfleet.app.settings import InitOptions, make_settings  # noqa: PLC0415 - start-up time

    where: Place = context.obj
    options = InitOptions(
        regions=tuple(region or ()),
        machines=machines,
        store_url=store_url,
        store_ca=store_ca,
        store_address=store_address,
        registry=registry,
        egress_providers=tuple(egress_provider or ()),
        first_contact_key=first_contact_key,
        recovery_recipient=recovery_recipient,
        recovery_key_file=recovery_key_file,
    )
    made = create_environment(where.home, make_settings(where.home, where.name, settings, options))
    if as_json:
        console.show_json(
            {"root": str(made.root), "recipient": made.recipients[0], "ssh_user_ca": made.ssh_user_ca}
        )
        return
    console.out.print(f"[green]ready[/] {made.root}\n  recipient  {made.recipients[0]}")
    if recovery_key_file:
        console.out.print(f"[bold]next[/]  move {recovery_key_file} to a safe place off this machine")


@app.command()
def plan(context: typer.Context, order_file: OrderFile, *, as_json: Json = False) -> None:
    """Print what an order would do; change nothing."""
    from tenantfleet.app import orders  # noqa: PLC0415 - start-up time

    planned = orders.check_order(context.obj.environment(), orders.read_order(order_file))
    if as_json:
        console.show_json({**planned.as_data(), "sha256": planned.sha256})
    else:
        console.show_plan(planned)


@app.command()
def provision(
    context: typer.Context,
    order_files: OrderFiles,
    *,
    again: Annotated[bool, typer.Option(help="Bring hosts of done orders to their state once more.")] = False,
    as_json: Json = False,
) -> None:
    """Carry orders out. The same order again gives the same result; a failed or broken-off one goes on."""
    from tenantfleet.app.orders import read_order  # noqa: PLC0415 - start-up time

    _carry_out(context.obj, [read_order(path) for path in order_files], again=again, as_json=as_json)


@app.command()
def resume(context: typer.Context, *, as_json: Json = False) -> None:
    """Finish what a driver that died left unfinished."""
    _carry_out(context.obj, [], again=False, as_json=as_json)


@app.command()
def verify(
    context: typer.Context,
    tenants: Annotated[list[str] | None, typer.Argument(help="Tenants; all when none is named.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Prove that tenants are guarded; change nothing."""
    from tenantfleet.app.verify import verify_tenants  # noqa: PLC0415 - start-up time

    outcome = _look(context.obj, verify_tenants, tenants or [], as_json=as_json)
    raise typer.Exit(_verdict(outcome))


@app.command()
def drift(
    context: typer.Context,
    tenants: Annotated[list[str] | None, typer.Argument(help="Tenants; all when none is named.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Say what would be changed on tenants' hosts, by check mode; change nothing. Drift ends with 20."""
    from tenantfleet.app.verify import detect_drift  # noqa: PLC0415 - start-up time

    outcome = _look(context.obj, detect_drift, tenants or [], as_json=as_json)
    drifted = outcome.ok and any(host.changed for host in outcome.hosts)
    raise typer.Exit(ExitCode.RUN_FAILED if drifted else _verdict(outcome))


@app.command()
def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="An order id or a tenant; all when not named.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show orders, and the steps of one."""
    from tenantfleet.app.status import order_rows, step_rows  # noqa: PLC0415 - start-up time

    environment = context.obj.environment()
    orders = order_rows(environment, name)
    steps = step_rows(environment, orders[-1]["order_id"]) if name and orders else []
    if as_json:
        console.show_json({"orders": orders, "steps": steps})
        return
    console.show_table(orders, empty="no orders yet")
    if steps:
        console.show_table(steps, empty="")


@app.command()
def decommission(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="The tenant to take off its machine.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Take a tenant off its machine: services, data and secrets. Cannot be undone."""
    where: Place = context.obj
    order = _driver(where, console.ConsoleProgress()).decommission_order(tenant)
    if not yes:
        typer.confirm(f"Remove tenant {tenant} and all its data from its machine?", abort=True, err=True)
    _carry_out(where, [order], again=False, as_json=as_json)


@app.command("legacy-cleanup")
def legacy_cleanup(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(help="The machine's id; a tenant is on it.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Take away what an older product left on a machine, by the settings' `legacy`. Not clean: 20."""
    from tenantfleet.app.legacy import clean_machine  # noqa: PLC0415 - start-up time

    where: Place = context.obj
    progress = console.ConsoleProgress()
    with _interruptible(hint="what was removed is removed; run it again, it goes on"), progress.shown():
        outcome = clean_machine(
            where.environment(), machine, project=where.project, progress=progress, dry_run=dry_run
        )
    report = outcome.hosts[0].report
    if as_json:
        console.show_json(console.outcome_data(outcome))
    else:
        if report:
            console.show_report(report)
        console.show_outcome(outcome)
    unclean = outcome.ok and not (report and report["clean"])
    raise typer.Exit(ExitCode.RUN_FAILED if unclean else _verdict(outcome))


@inventory_app.command("list")
def inventory_list(context: typer.Context, *, as_json: Json = False) -> None:
    """List machines with their state and tenant."""
    from tenantfleet.app.status import machine_rows  # noqa: PLC0415 - start-up time

    rows = machine_rows(context.obj.environment())
    if as_json:
        console.show_json(rows)
    else:
        console.show_table(rows, empty="no machines listed")


@inventory_app.command("count-on")
def inventory_count_on(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="The greatest number that a host names.", min=1, max=10**14)],
) -> None:
    """After the ledger was restored from a backup: give runs greater numbers than hosts have seen."""
    context.obj.environment().order_ledger.count_on(number, now=datetime.now(UTC))
    console.out.print(f"[green]noted[/] the next run is number {number + 1}")


@inventory_app.command("reinstalled")
def inventory_reinstalled(
    context: typer.Context, machine: Annotated[str, typer.Argument(help="The machine's id.")]
) -> None:
    """Say that a machine is pristine again: it is enrolled anew, and may be claimed."""
    context.obj.environment().machine_ledger.mark_reinstalled(machine)
    console.out.print(f"[green]noted[/] {machine} will be enrolled anew")


@app.command()
def doctor(
    context: typer.Context,
    what: Annotated[str | None, typer.Argument(help="`ci`: which tiers of tests can run here.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Say what this machine and environment have and lack."""
    from tenantfleet.app import doctor as examine  # noqa: PLC0415 - start-up time

    where: Place = context.obj
    if what not in {None, "ci"}:
        raise typer.BadParameter("only `ci` is known")
    if what == "ci":
        findings = list(examine.examine_runner(where.project))
    else:
        findings = [
            *examine.examine_machine(where.project),
            *examine.examine_environment(where.environment()),
        ]
    if as_json:
        console.show_json([asdict(finding) for finding in findings])
    else:
        console.show_findings(findings)
    if what is None and not all(finding.ok for finding in findings):
        raise typer.Exit(ExitCode.ENVIRONMENT_MISSING)


@operator_app.command("certificate")
def operator_certificate(
    context: typer.Context,
    key_file: Annotated[Path, typer.Option(help="Write the key here, the certificate beside it.")],
    minutes: Annotated[int, typer.Option(help="Life in minutes.", min=1, max=60)] = 60,
    *,
    as_json: Json = False,
) -> None:
    """Make a key and a certificate for the read-only account tf-ops."""
    from tenantfleet.app.operator import write_operator_certificate  # noqa: PLC0415 - start-up time

    ends = write_operator_certificate(
        context.obj.environment(),
        key_file=key_file,
        person=getpass.getuser(),
        life=timedelta(minutes=minutes),
    )
    if as_json:
        console.show_json({"key_file": str(key_file), "account": "tf-ops", "ends": ends.isoformat()})
    else:
        console.out.print(f"[green]ready[/] {key_file} opens tf-ops until {ends:%H:%M} UTC")


def _driver(where: Place, progress: console.ConsoleProgress) -> Any:  # noqa: ANN401 - imported late, see below
    from tenantfleet.app.provision import Driver  # noqa: PLC0415 - the engine takes half a second to import

    return Driver(environment=where.environment(), project=where.project, progress=progress)


def _carry_out(where: Place, orders: list[HubOrder], *, again: bool, as_json: bool) -> None:
    progress = console.ConsoleProgress()
    driver = _driver(where, progress)
    before = () if again else driver.done_before(orders)
    with _interruptible(hint="`tenantfleet resume` goes on from here"), progress.shown():
        results: list[dict[str, Any]] = driver.submit(orders, again=again)
    if as_json:
        console.show_json(results)
    else:
        console.show_results(results, before=before)
    failed = next((result["failure"] for result in results if result["failure"]), None)
    if failed is not None:
        raise typer.Exit(failed["exit_code"])


class _Look(Protocol):
    def __call__(
        self, environment: Environment, tenant_ids: list[str], /, *, project: Path, progress: Progress
    ) -> RunOutcome: ...


def _look(where: Place, look: _Look, tenants: list[str], *, as_json: bool) -> RunOutcome:
    """Run what only reads, and show what it saw."""
    progress = console.ConsoleProgress()
    with _interruptible(hint="nothing was changed"), progress.shown():
        outcome = look(where.environment(), tenants, project=where.project, progress=progress)
    if as_json:
        console.show_json(console.outcome_data(outcome))
    else:
        console.show_outcome(outcome)
    return outcome


def _verdict(outcome: RunOutcome) -> int:
    if outcome.ok:
        return ExitCode.DONE
    states = {host.state.value for host in outcome.hosts}
    alike = {"unreachable": ExitCode.UNREACHABLE, "fenced": ExitCode.FENCED}
    return alike.get(states.pop(), ExitCode.RUN_FAILED) if len(states) == 1 else ExitCode.RUN_FAILED


@contextmanager
def _interruptible(*, hint: str) -> Iterator[None]:
    """Interrupted, terminated, hung up: forget the secrets in memory and die; the guard ends Ansible."""
    from tenantfleet.execution.workspace import remove_own_workspaces  # noqa: PLC0415 - start-up time

    def hung_up(number: int, _frame: FrameType | None) -> None:
        # nothing is said: its terminal is gone, and to write there would fail
        remove_own_workspaces()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it goes on
        signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    except KeyboardInterrupt:
        remove_own_workspaces()
        console.err.print(f"[bold]next[/]  broken off; {hint}")
        console.err.file.flush()
        os._exit(128 + signal.SIGINT)


def main() -> None:
    """Run the command line; a `TenantfleetError` becomes its cause, its next step and its exit code."""
    from tenantfleet.release.cli import app as release_app  # noqa: PLC0415 - a part of its own

    app.add_typer(release_app, name="release")
    try:
        app()
    except TenantfleetError as error:
        console.show_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
