"""The command line `lab`."""

import os
import sys
from typing import Annotated

import typer

from lab import world
from lab.progress import problem
from lab.state import Lab, LabError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Names = Annotated[list[str], typer.Argument(metavar="NAME...")]


@app.command()
def up(
    names: Names,
    region: Annotated[str, typer.Option(help="What machines.yml says of new hosts.")] = "eu-lab",
    disk: Annotated[str | None, typer.Option(help="Size of new hosts' disks, such as 12G.")] = None,
) -> None:
    """Create or boot hosts, and what they stand on; wait for SSH."""
    world.up(Lab.from_environment(), names, region=region, disk=disk)


@app.command()
def reset(names: Names) -> None:
    """Reinstall: a pristine disk, new machine-id and host key, the same addresses."""
    world.reset(Lab.from_environment(), names)


@app.command()
def stop(names: Names) -> None:
    """Cut the power; `up` boots the same disk."""
    world.stop(Lab.from_environment(), names)


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Images, caches and keys as well.")] = False,
) -> None:
    """Remove all hosts and services; keep images, caches and keys."""
    world.down(Lab.from_environment(), purge=purge)


def main() -> None:
    if os.geteuid():
        problem("must run as root")
        sys.exit(1)
    try:
        app()
    except LabError as error:
        problem(str(error))
        sys.exit(1)
