"""The command line of the tree."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from safety_wrapper.config import load_config
from safety_wrapper.measurement import UnmeasuredError, hash_plugin
from safety_wrapper.policy import load_autonomy, load_policy
from safety_wrapper.prober import ProbeError, Prober
from safety_wrapper.strict import InvalidDocumentError

BAD_CONFIGURATION = 78  # sysexits.h EX_CONFIG: trying again would change nothing
TENANT = Path("/etc/tenantfleet/tenant.json")
STATUS_SOCKET = Path("/run/tf-wrapper/status/status.sock")
SYSTEMCTL = "/usr/bin/systemctl"
RETRY_S = 0.5
RUNNING_STATES = frozenset({"active", "activating", "reloading"})


def main(argv: list[str]) -> int:
    """Run the daemon (``--config FILE``) or one of the commands; return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except InvalidDocumentError as error:
        sys.stderr.write(f"tf-wrapper: {error}\n")
        return BAD_CONFIGURATION
    except (UnmeasuredError, ProbeError, OSError) as error:
        sys.stderr.write(f"tf-wrapper: {error}\n")
        return 1


def _dispatch(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "hash-plugin":
            sys.stdout.write(hash_plugin(arguments.directory) + "\n")
            return 0
        case "check-policy":
            return _check_policy(arguments)
        case "canary":
            return _canary(arguments)
        case "probe":
            return _probe(arguments)
    if arguments.config is None:
        raise InvalidDocumentError("the daemon needs --config FILE")
    return _daemon(arguments.config)


def _check_policy(arguments: argparse.Namespace) -> int:
    """A policy is good when it is valid and, asked for, the one that a running daemon obeys."""
    policy = load_policy(arguments.file)
    wanted = {"revision": policy.revision, "sha256": policy.sha256}
    if arguments.in_force and runs(arguments.daemon_unit):  # one that does not run reads it when it starts
        wanted["autonomy"] = load_autonomy(arguments.tenant)
        status = Prober(status_socket=arguments.status_socket, enter=()).status()
        if status["policy"] != wanted:
            told = json.dumps({"in_force": status["policy"], "wanted": wanted, "reason": status["reason"]})
            raise ProbeError(f"the daemon obeys another policy: {told}")
    sys.stdout.write(json.dumps(wanted) + "\n")
    return 0


def _daemon(path: Path) -> int:
    config = load_config(path)
    # Imported late: the other commands run where aiohttp is not installed.
    from safety_wrapper.daemon import run_daemon  # noqa: PLC0415 -- see above

    run_daemon(config)
    return 0


def _prober(arguments: argparse.Namespace) -> Prober:
    enter = ("/usr/bin/podman", "exec", "--user", "2101:2101", arguments.container)
    return Prober(status_socket=arguments.status_socket, enter=enter, gateway_port=arguments.gateway_port)


def _canary(arguments: argparse.Namespace) -> int:
    verdict = _prober(arguments).probe(timeout_s=arguments.timeout)
    sys.stdout.write(verdict.line() + "\n")
    return 0 if verdict.passed else 1


def _probe(arguments: argparse.Namespace) -> int:
    """A new daemon is good when it answers and, where a gateway runs already, guards it."""
    deadline = time.monotonic() + arguments.timeout
    while not arguments.status_socket.is_socket() and time.monotonic() < deadline:
        time.sleep(RETRY_S)
    status = _prober(arguments).status()
    if runs(arguments.gateway_unit):
        return _canary(arguments)
    sys.stdout.write(json.dumps({"gateway": "not running", "policy": status["policy"]}) + "\n")
    return 0


def runs(unit: str) -> bool:
    """Tell whether anything of the unit may run: one that is on its way up has processes already."""
    asked = (SYSTEMCTL, "is-active", unit)
    state = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()
    return state in RUNNING_STATES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tf-wrapper", description="The safety wrapper of a tenant's host.")
    parser.add_argument("--config", type=Path, help="run the daemon with this configuration")
    commands = parser.add_subparsers(dest="command")
    hashing = commands.add_parser("hash-plugin", help="print the digest of a plugin directory")
    hashing.add_argument("directory", type=Path)
    policy = commands.add_parser("check-policy", help="tell whether a policy is valid")
    policy.add_argument("file", type=Path)
    policy.add_argument("--in-force", action="store_true", help="and whether a running daemon obeys it")
    policy.add_argument("--tenant", type=Path, default=TENANT)
    policy.add_argument("--daemon-unit", default="tf-wrapper.service")
    policy.add_argument("--status-socket", type=Path, default=STATUS_SOCKET)
    for name, text in (
        ("canary", "prove by one agent turn that the agent is guarded"),
        ("probe", "prove that the daemon answers, and by a canary turn that a running gateway is guarded"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds in all")
        command.add_argument("--container", default="openclaw", help="name of the gateway's container")
        command.add_argument("--gateway-unit", default="openclaw.service")
        command.add_argument("--gateway-port", type=int, default=18789)
        command.add_argument("--status-socket", type=Path, default=STATUS_SOCKET)
    return parser
