"""`tenantfleet order …`: make, seal and check order files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from tenantfleet import console
from tenantfleet.model.order import Autonomy, TenantClass, Tier

order_app = typer.Typer(help="Make, seal and check order files.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
OrderFile = Annotated[Path, typer.Argument(help="Order file, YAML or JSON.")]
OrderFiles = Annotated[list[Path], typer.Argument(help="Order files, YAML or JSON.")]
SecretsFile = Annotated[Path, typer.Option("--secrets", help="YAML file of `name: value` pairs to seal.")]


@order_app.command("new")
def order_new(  # noqa: PLR0917 - one option a field
    context: typer.Context,
    tenant_id: Annotated[str, typer.Argument(help="The tenant.")],
    region: Annotated[str, typer.Option(help="Where the machine is to stand.")],
    domain: Annotated[str, typer.Option(help="The tenant's domain.")],
    release: Annotated[str, typer.Option(help="sha256:<digest of a release manifest>.")],
    tenant_class: Annotated[
        TenantClass, typer.Option("--class", help="Rollout class.")
    ] = TenantClass.GENERAL,
    tier: Annotated[Tier, typer.Option(help="Size.")] = Tier.LITE,
    autonomy: Annotated[Autonomy, typer.Option(help="How much its agents may do alone.")] = Autonomy.STANDARD,
    tool: Annotated[list[str] | None, typer.Option(help="A tool stack; repeat for more.")] = None,
    hours: Annotated[int, typer.Option(help="Hours until the order expires.", min=1, max=720)] = 24,
    secrets: Annotated[Path | None, typer.Option(help="Seal these `name: value` pairs at once.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")
    ] = None,
) -> None:
    """Write a new order with an id of its own."""
    from tenantfleet.app import orders, payload  # noqa: PLC0415 - start-up time

    fields = {
        "kind": "provision",
        "tenant_id": tenant_id,
        "tenant_class": tenant_class.value,
        "region": region,
        "tier": tier.value,
        "tools": tool or [],
        "domain": domain,
        "autonomy": autonomy.value,
        "release": release,
    }
    order = orders.new_order(fields, life=timedelta(hours=hours))
    if secrets is not None:
        recipients = context.obj.environment().recipients
        order = payload.seal_payload(order, orders.read_secrets(secrets), recipients=recipients)
    _emit(orders.order_text(order), output)


@order_app.command("seal")
def order_seal(
    context: typer.Context,
    order_file: OrderFile,
    secrets: SecretsFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here, not into the order file.")
    ] = None,
) -> None:
    """Seal secrets into an order, to the environment and its recovery key."""
    from tenantfleet.app import orders, payload  # noqa: PLC0415 - start-up time

    recipients = context.obj.environment().recipients
    order = payload.seal_payload(
        orders.read_order(order_file), orders.read_secrets(secrets), recipients=recipients
    )
    _emit(orders.order_text(order), output or order_file)


@order_app.command("check")
def order_check(context: typer.Context, order_files: OrderFiles, *, as_json: Json = False) -> None:
    """Check orders as provision would, and change nothing."""
    from tenantfleet.app import orders  # noqa: PLC0415 - start-up time

    environment = context.obj.environment()
    plans = [orders.check_order(environment, orders.read_order(path)) for path in order_files]
    if as_json:
        console.show_json([{"order_id": plan.order_id, "plan_sha256": plan.sha256} for plan in plans])
        return
    for plan in plans:
        console.out.print(f"[green]good[/] {plan.kind} {plan.tenant_id} in {plan.region}")


@order_app.command("schema")
def order_schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")
    ] = None,
) -> None:
    """Print the JSON Schema of an order."""
    from tenantfleet.app.orders import schema_text  # noqa: PLC0415 - start-up time

    _emit(schema_text(), output)


def _emit(text: str, output: Path | None) -> None:
    if output is None:
        console.out.out(text.rstrip("\n"))
        return
    output.write_text(text, encoding="utf-8")
    console.err.print(f"written to {output}")
