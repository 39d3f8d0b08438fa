"""The command line of the tree."""

import argparse
import logging
import sys
from pathlib import Path

from safety_wrapper.measurement import UnmeasuredError, hash_plugin
from safety_wrapper.strict import InvalidDocumentError

log = logging.getLogger(__name__)
BAD_CONFIGURATION = 78  # sysexits.h EX_CONFIG: systemd is told not to try again


def main(argv: list[str]) -> int:
    """Run the daemon (``--config FILE``), ``hash-plugin DIR`` or ``canary``; return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        match arguments.command:
            case "hash-plugin":
                sys.stdout.write(hash_plugin(arguments.directory) + "\n")
            case "canary":
                return _canary(arguments)
            case _:
                _daemon(arguments.config)
    except (InvalidDocumentError, UnmeasuredError, OSError) as error:
        sys.stderr.write(f"tf-wrapper: {error}\n")
        return BAD_CONFIGURATION if isinstance(error, InvalidDocumentError) else 1
    return 0


def _daemon(config: Path) -> None:
    # Imported late: hash-plugin runs where aiohttp is not installed.
    from safety_wrapper.config import load_config  # noqa: PLC0415
    from safety_wrapper.daemon import run_daemon  # noqa: PLC0415

    run_daemon(load_config(config))


def _canary(arguments: argparse.Namespace) -> int:
    from safety_wrapper.prober import Prober  # noqa: PLC0415

    prober = Prober(status_socket=arguments.status_socket, container=arguments.container)
    verdict = prober.probe(timeout_s=arguments.timeout)
    sys.stdout.write(verdict.line() + "\n")
    return 0 if verdict.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tf-wrapper", description="The safety wrapper of a tenant's host.")
    parser.add_argument("--config", type=Path, help="run the daemon with this configuration")
    commands = parser.add_subparsers(dest="command")
    hashing = commands.add_parser("hash-plugin", help="print the digest of a plugin directory")
    hashing.add_argument("directory", type=Path)
    canary = commands.add_parser("canary", help="prove by one agent turn that the agent is guarded")
    canary.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for the whole turn")
    canary.add_argument("--container", default="openclaw", help="name of the gateway's container")
    canary.add_argument("--status-socket", type=Path, default=Path("/run/tf-wrapper/status/status.sock"))
    return parser
