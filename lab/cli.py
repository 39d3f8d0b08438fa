"""The command line `lab`."""

import json
import os
import sys
from typing import Annotated

import typer

from lab import endpoints, entry, world
from lab.host import Host
from lab.progress import problem
from lab.state import Lab, LabError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
SomeNames = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...")]


@app.command()
def up(
    names: SomeNames = None,
    region: Annotated[str, typer.Option(help="What machines.yml says of new hosts.")] = "eu-lab",
    disk: Annotated[str | None, typer.Option(help="Size of new hosts' disks, such as 12G.")] = None,
) -> None:
    """Start the services, create or boot hosts, wait for SSH."""
    world.up(Lab.from_environment(), list(dict.fromkeys(names or [])), region=region, disk=disk)


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
    names: SomeNames = None,
    *,
    purge: Annotated[bool, typer.Option("--purge", help="Images, caches and keys as well.")] = False,
) -> None:
    """Remove the hosts named; without names all hosts and services, keeping images, caches and keys."""
    lab = Lab.from_environment()
    if names and purge:
        raise LabError("--purge is for the whole lab: name no hosts")
    if names:
        world.remove(lab, names)
    else:
        world.down(lab, purge=purge)


@app.command("list")
def list_hosts(*, as_json: Json = False) -> None:
    """Tell which hosts there are, and which of them run."""
    rows = world.rows(Lab.from_environment())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(" ".join(f"{value or '-':18}" for value in row.values()).rstrip())


@app.command()
def info(*, as_json: Json = False) -> None:
    """Tell where the lab's services and files are."""
    told = endpoints.info(Lab.from_environment())
    typer.echo(json.dumps(told, indent=2) if as_json else "\n".join(f"{key:18}{told[key]}" for key in told))


# Options after NAME belong to the command that follows.
_REST = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@app.command("exec", context_settings=_REST)
def execute(name: str, command: Annotated[list[str], typer.Argument(metavar="CMD...")]) -> None:
    """Run a command as root in a host, without SSH, under the same restrictions as all in there."""
    words = command[1:] if command[0] == "--" else command
    sys.exit(entry.run(Host.load(Lab.from_environment(), name), words))


@app.command(context_settings=_REST)
def ssh(name: str, command: Annotated[list[str] | None, typer.Argument(metavar="[CMD...]")] = None) -> None:
    """Log in over SSH, the host's certificate checked."""
    lab = Lab.from_environment()
    Host.load(lab, name)
    os.execvp("ssh", ["ssh", "-F", str(lab.root / "ssh_config"), name, *(command or [])])  # noqa: S606


@app.callback()
def _as_root() -> None:
    """Debian hosts with systemd, and the services around them, on this machine."""
    if os.geteuid():
        raise LabError("must run as root")


def main() -> None:
    try:
        app()
    except LabError as error:
        problem(str(error))
        sys.exit(1)
