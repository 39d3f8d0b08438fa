"""The only importer of ansible_runner: one run of one playbook, in memory, under the guard."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible_runner  # type: ignore[import-untyped]

from tenantfleet.execution.events import RunEvent, Scrubber, typed_event
from tenantfleet.execution.reckoning import Reckoning
from tenantfleet.model.errors import EnvironmentMissingError
from tenantfleet.model.outcome import HostOutcome, HostState, RunOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantfleet.execution.workspace import Workspace
    from tenantfleet.model.secret import Secret

_GUARD = Path(__file__).parent / "guard"
_GUARD_EXITS = {
    75: "an older run of this host is still alive",
    76: "the driver was gone when the run started",
    77: "flock, setpriv or unshare (package util-linux) is missing",
}
_HOSTS_DECIDE = {0, 2, 4}  # ansible-playbook: all well, some host failed, some host unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run.

    Attributes:
        playbook: absolute path.
        project: directory with ansible.cfg.
        hosts: planned hosts, all of `inventory` and no other.
        inventory: document of Ansible's yaml plugin, non-secret.
        last_play: see `Reckoning`.
        lock: file that one run at a time may hold, None for a run that only reads.
        secrets: values that no event may show.
        check: change nothing, say what would change.
    """

    playbook: Path
    project: Path
    hosts: tuple[str, ...]
    inventory: dict[str, Any]
    last_play: str | None = None
    lock: Path | None = None
    secrets: tuple[Secret[str], ...] = ()
    check: bool = False
    forks: int = 10
    timeout_s: int = 1800


def _ignore(_event: RunEvent) -> None:
    pass


def _never() -> bool:
    return False


def run_playbook(
    request: RunRequest,
    *,
    workspace: Workspace,
    on_event: Callable[[RunEvent], None] = _ignore,
    should_cancel: Callable[[], bool] = _never,
) -> RunOutcome:
    """Run one playbook to its end; blocks, and dies with the calling thread.

    Args:
        request: what to run.
        workspace: fresh, of this run alone.
        on_event: hears every typed event, in order.
        should_cancel: asked about once a second.

    Raises:
        EnvironmentMissingError: ansible-playbook or ansible.cfg is missing.
    """
    reckoning = Reckoning(request.hosts, last_play=request.last_play)
    scrub = Scrubber(request.secrets)
    broken: list[Exception] = []

    def hear(raw: dict[str, Any]) -> bool:
        event = typed_event(raw, scrub)
        if event is not None:
            reckoning.hear(event)
            try:
                on_event(event)
            except Exception as error:  # noqa: BLE001 - a listener that breaks stops the run, see cancel()
                broken.append(error)
        return False  # nothing is kept on disk

    def cancel() -> bool:
        return bool(broken) or should_cancel()

    started = time.monotonic()
    status, exit_code = _start(request, workspace, hear, cancel)
    if broken:
        raise broken[0]
    error = _error(request, reckoning, status, exit_code)
    hosts = reckoning.outcomes(ended=status in {"successful", "failed"})
    if error and all(host.state is HostState.OK for host in hosts):
        hosts = tuple(HostOutcome(host=host.host, state=HostState.FAILED, reason=error) for host in hosts)
    return RunOutcome(hosts=hosts, error=error, duration_s=round(time.monotonic() - started, 1))


def _start(
    request: RunRequest,
    workspace: Workspace,
    hear: Callable[[dict[str, Any]], bool],
    cancel: Callable[[], bool],
) -> tuple[str, int]:
    inventory = workspace.write("inventory/hosts.yml", json.dumps(request.inventory))
    result = ansible_runner.run(
        private_data_dir=str(workspace.root),
        project_dir=str(request.project),
        playbook=str(request.playbook),
        inventory=str(inventory),
        envvars=_environment(request, workspace),
        settings={"pexpect_timeout": 1, "job_timeout": request.timeout_s, "suppress_output_file": True},
        cmdline="--check --diff" if request.check else None,
        quiet=True,
        fact_cache_type="",
        event_handler=hear,
        cancel_callback=cancel,
    )
    return str(result.status), int(result.rc)


def _environment(request: RunRequest, workspace: Workspace) -> dict[str, str]:
    """What the run sees besides the driver's own environment: nothing secret, runner writes it down."""
    real = Path(sys.executable).parent / "ansible-playbook"
    config = request.project / "ansible.cfg"
    for needed in (real, config):
        if not needed.is_file():
            raise EnvironmentMissingError(
                f"{needed} is missing",
                code="project.incomplete",
                hint="Run script/bootstrap in the repository.",
            )
    scratch = str(workspace.directory("tmp"))
    return {
        "PATH": f"{_GUARD}:{real.parent}:{os.environ.get('PATH', os.defpath)}",
        "TENANTFLEET_ANSIBLE_PLAYBOOK": str(real),
        "TENANTFLEET_DRIVER_PID": str(os.getpid()),
        "TENANTFLEET_RUN_LOCK": str(request.lock or workspace.root / "lock"),
        "ANSIBLE_CONFIG": str(config),
        "ANSIBLE_HOME": str(workspace.directory("home")),
        "ANSIBLE_LOCAL_TEMP": scratch,
        "TMPDIR": scratch,
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(workspace.directory("cp")),
        "ANSIBLE_FORKS": str(request.forks),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_HOST_KEY_CHECKING": "true",
        "ANSIBLE_INVENTORY_ENABLED": "yaml",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_RETRY_FILES_ENABLED": "false",
        "ANSIBLE_NOCOLOR": "true",
        "LC_ALL": "C.UTF-8",
    }


def _error(request: RunRequest, reckoning: Reckoning, status: str, exit_code: int) -> str:
    if exit_code in _GUARD_EXITS and status == "failed":
        return _GUARD_EXITS[exit_code]
    match status:
        case "canceled":
            return "the run was cancelled"
        case "timeout":
            return f"the run took longer than {request.timeout_s} s"
        case "successful" if reckoning.no_hosts_matched:
            return "no host matched: the playbook's pattern selected none of the planned hosts"
        case "successful" | "failed" if exit_code in _HOSTS_DECIDE and not _silent(reckoning, exit_code):
            return ""
    return reckoning.complaint or f"ansible-playbook ended with {exit_code}"


def _silent(reckoning: Reckoning, exit_code: int) -> bool:
    """A failure that no host's outcome explains, e.g. a playbook that cannot be parsed."""
    outcomes = reckoning.outcomes(ended=True)
    blamed = any(host.state in {HostState.FAILED, HostState.UNREACHABLE} for host in outcomes)
    return exit_code != 0 and not blamed
