"""`tenantfleet release …`: build, look at and publish a release."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tenantfleet.release.build import build_release, read_built
from tenantfleet.release.errors import InvalidManifestError, MissingProgramError, ReleaseError
from tenantfleet.release.image import openclaw_tree
from tenantfleet.release.manifest import Manifest
from tenantfleet.release.publish import publish_release

# docs/contracts/order.md lists the driver's exit codes.
EXIT_REFUSED, EXIT_MISMATCH, EXIT_NOT_SET_UP = 10, 15, 30

app = typer.Typer(help="Build, look at and publish releases.", no_args_is_help=True)
progress = Console(stderr=True, highlight=False)

Root = Annotated[Path, typer.Option(help="The repository.", file_okay=False, exists=True)]
Built = Annotated[Path, typer.Option("--built", help="Directory of built releases.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Digest = Annotated[str, typer.Argument(help="Digest of a release manifest, with or without sha256:")]

DEFAULT_BUILT = Path("build/release")


@app.command()
def build(
    root: Root = Path(),
    built: Built = DEFAULT_BUILT,
    stacks: Annotated[
        Path | None,
        typer.Option(help="Directory of tool stacks", file_okay=False, exists=True),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Build a release of this repository and print its digest."""
    with _reporting_errors():
        manifest = build_release(
            root.resolve(), out=built, cache=_cache(root), stacks=stacks, report=progress.print
        )
    _show(manifest, as_json=as_json)


@app.command()
def publish(
    digest: Digest,
    store: Annotated[Path, typer.Option(help="Directory that the release store serves.")],
    registry: Annotated[str, typer.Option(help="Image registry, HOST[:PORT].")],
    ca_file: Annotated[Path | None, typer.Option(help="PEM of the registry's CA.", exists=True)] = None,
    built: Built = DEFAULT_BUILT,
    *,
    as_json: Json = False,
) -> None:
    """Put a built release into the store and the registry; safe to repeat."""
    with _reporting_errors():
        manifest = publish_release(
            _plain(digest),
            built=built,
            store=store,
            registry=registry,
            ca_file=ca_file,
            report=progress.print,
        )
    _show(manifest, as_json=as_json)


@app.command()
def show(digest: Digest, built: Built = DEFAULT_BUILT, *, as_json: Json = False) -> None:
    """Show what a built release names."""
    with _reporting_errors():
        _show(read_built(built, _plain(digest)), as_json=as_json)


@app.command("openclaw-tree")
def show_openclaw_tree(
    root: Root = Path(),
    link: Annotated[Path, typer.Option(help="Symbolic link to point at it.")] = Path("build/openclaw-root"),
) -> None:
    """Print a directory with the pinned Node and OpenClaw, built when missing: opt/node, opt/openclaw."""
    with _reporting_errors():
        tree = openclaw_tree(root.resolve(), cache=_cache(root), report=progress.print)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(tree)
    typer.echo(tree)


def _cache(root: Path) -> Path:
    return root.resolve() / ".cache/release"


def _plain(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _show(manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        document = {"digest": f"sha256:{manifest.digest}", "manifest": manifest.model_dump(mode="json")}
        typer.echo(json.dumps(document))
        return
    for name, unit in sorted(manifest.units.items()):
        progress.print(f"{name:15} {unit.kind:4} {unit.sha256} {unit.size:10,}", soft_wrap=True)
    typer.echo(f"sha256:{manifest.digest}")


@contextmanager
def _reporting_errors() -> Iterator[None]:
    try:
        yield
    except (ReleaseError, OSError) as error:
        progress.print(f"release: {error}", style="red", markup=False)
        raise typer.Exit(_exit_code(error)) from None


def _exit_code(error: Exception) -> int:
    match error:
        case MissingProgramError():
            return EXIT_NOT_SET_UP
        case InvalidManifestError():
            return EXIT_REFUSED
        case _:
            return EXIT_MISMATCH
