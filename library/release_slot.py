"""Ansible module `release_slot`: put a unit's activation on the host and let the host itself prove it."""

import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

ACTIVATE = "/usr/local/lib/tenantfleet/activate"
OPT = Path("/opt/tenantfleet")
VERDICTS = Path("/var/lib/tenantfleet/activations")
UNIT_KINDS = "service|timer|socket|target|path|container|volume|network"
FILE_PATH = re.compile(
    rf"config(/[A-Za-z0-9_@][A-Za-z0-9_.@-]*)+|units/[A-Za-z0-9_@.-]+\.({UNIT_KINDS})(\.d/[A-Za-z0-9_.@-]+\.conf)?"
)
ID_DIGITS = 16


class SlotError(Exception):
    """Something for the operator: bad input, no room, or a job without a verdict."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True, slots=True)
class Wanted:
    """An activation as it shall be: its document (canonical JSON) names every content by digest."""

    unit: str
    document: bytes
    contents: dict[str, bytes]

    @property
    def id(self) -> str:
        return hashlib.sha256(self.document).hexdigest()[:ID_DIGITS]


def wanted_of(params: dict[str, Any], inputs: dict[str, str]) -> Wanted:
    """Pure: the activation that the module's parameters and the digests of its `inputs` describe."""
    contents = {entry["path"]: entry["content"].encode() for entry in params["files"]}
    files = [
        {
            "path": entry["path"],
            "owner": entry["owner"],
            "group": entry["group"],
            "mode": f"{int(entry['mode'], 8):04o}",
            "sha256": hashlib.sha256(contents[entry["path"]]).hexdigest(),
        }
        for entry in params["files"]
    ]
    plain = {name: params[name] for name in ("unit", "code", "image", "services", "reloads", "dependents")}
    document = {
        "version": 1,
        **plain,
        "probe": params["probe"],
        "inputs": inputs,
        "files": sorted(files, key=lambda file: str(file["path"])),
    }
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Wanted(params["unit"], canonical.encode(), contents)


def refuse_bad(params: dict[str, Any]) -> None:
    """Raise SlotError for what cannot be an activation, before any effect."""
    if not re.fullmatch("[a-z][a-z0-9_]{0,40}", params["unit"]):
        raise SlotError(f"unit {params['unit']!r} is not a name of lower-case letters, digits and _")
    if params["state"] == "active" and not (params["probe"] and params["probe"]["argv"]):
        raise SlotError("probe is required: what nobody proves is not active")
    if params["code"] is not None and not re.fullmatch("[0-9a-f]{64}", params["code"]):
        raise SlotError(f"code {params['code']!r} is not a SHA-256 of 64 lower-case hexadecimal digits")
    if params["image"] is not None and not re.fullmatch("[^@ ]+@sha256:[0-9a-f]{64}", params["image"]):
        raise SlotError(f"image {params['image']!r} is not a reference by digest (…@sha256:…)")
    paths = [entry["path"] for entry in params["files"]]
    if len(set(paths)) != len(paths):
        raise SlotError("files names a path twice")
    for entry in params["files"]:
        if not FILE_PATH.fullmatch(entry["path"]):
            raise SlotError(f"file {entry['path']!r} is neither below config/ nor a unit file in units/")
        if not re.fullmatch("0?[0-7]{3}", entry["mode"]):
            raise SlotError(f'file {entry["path"]!r}: mode {entry["mode"]!r} is not like "0640"')


def input_digests(paths: Iterable[str], *, lenient: bool) -> dict[str, str]:
    """SHA-256 of host files; a missing one is an error, but `lenient` (check mode) expects it to be made."""
    digests = {}
    for path in paths:
        try:
            digests[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            if not lenient:
                raise SlotError(f"input {path} cannot be read: {error.strerror}") from error
            digests[path] = "not there yet"
    return digests


@dataclass(frozen=True, slots=True)
class Standing:
    """How the unit stands on the host now. `in_force`: the activation that runs and passed its probe."""

    current: str | None
    previous: str | None
    in_force: str | None
    unfinished: bool
    idle: tuple[str, ...]

    def satisfies(self, wanted: Wanted) -> bool:
        running = self.current == self.in_force == wanted.id and not self.unfinished and not self.idle
        return running and checked(wanted) is Checked.UNCHANGED


def standing(unit: str, services: Iterable[str]) -> Standing:
    return Standing(
        current=linked_id(unit, "current"),
        previous=linked_id(unit, "previous"),
        in_force=verdict_of(unit).get("in_force"),
        unfinished=(VERDICTS / f"{unit}.in_progress.json").exists(),
        idle=tuple(name for name in services if systemctl_says("is-active", name) != "active"),
    )


class Checked(IntEnum):
    """Exit codes of `activate UNIT --check ACTIVATION`: what somebody has changed by hand, if anything."""

    UNCHANGED = 0
    CHANGED = 1
    UNLINKED = 3


def checked(wanted: Wanted) -> Checked:
    return Checked(run(ACTIVATE, wanted.unit, "--check", wanted.id).returncode)


def linked_id(unit: str, link: str) -> str | None:
    try:
        return (OPT / unit / link).readlink().name
    except OSError:
        return None


def verdict_of(unit: str) -> dict[str, Any]:
    try:
        verdict: dict[str, Any] = json.loads((VERDICTS / f"{unit}.json").read_bytes())
    except FileNotFoundError:
        return {}
    return verdict


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = list(argv)
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def systemctl_says(verb: str, name: str) -> str:
    return run("/usr/bin/systemctl", verb, name).stdout.strip()


def job_of(unit: str) -> str:
    return f"tf-activate-{unit}.service"


def job_runs(unit: str) -> bool:
    return systemctl_says("is-active", job_of(unit)) in {"active", "activating", "deactivating", "reloading"}


def write_activation(wanted: Wanted) -> None:
    """Make the activation's folder, whole or not at all; one that was changed by hand is replaced."""
    slot = OPT / wanted.unit / wanted.id
    if slot.exists() and checked(wanted) is not Checked.CHANGED:
        return
    slot.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    for left in slot.parent.glob(".incoming-*"):
        shutil.rmtree(left)
    incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=slot.parent))
    try:
        fill(incoming, wanted)
        # One syncfs for all of it: a switch must not find an empty file after a power cut.
        subprocess.run(["/usr/bin/sync", "--file-system", str(incoming)], check=True)
        changed = slot.with_name(f".incoming-changed-{wanted.id}")
        if slot.exists():
            slot.rename(changed)
        incoming.rename(slot)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    shutil.rmtree(changed, ignore_errors=True)


def fill(slot: Path, wanted: Wanted) -> None:
    document = json.loads(wanted.document)
    slot.chmod(0o755)
    for folder in ("config", "units"):
        (slot / folder).mkdir(mode=0o755)
    if document["code"]:
        if not (OPT / "store" / document["code"]).is_dir():
            raise SlotError(f"the tree {document['code']} is not in the store: run fetch-tree first")
        (slot / "code").symlink_to(f"../../store/{document['code']}")
    for file in document["files"]:
        place = slot / file["path"]
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.write_bytes(wanted.contents[file["path"]])
        os.chown(
            place, account(pwd.getpwnam, file["owner"]).pw_uid, account(grp.getgrnam, file["group"]).gr_gid
        )
        place.chmod(int(file["mode"], 8))
    (slot / "activation.json").write_bytes(wanted.document)


def account(look_up: Any, name: str) -> Any:  # noqa: ANN401 - pwd and grp in one
    try:
        return look_up(name)
    except KeyError as error:
        raise SlotError(f"there is no account {name!r} on this host") from error


def start_job(unit: str, timeout_s: int, *argv: str) -> None:
    """Start the switch as a job of systemd's own: no session that ends takes it along."""
    started = run(
        "/usr/bin/systemd-run", "--quiet", "--collect", "--property=Type=exec", f"--unit={job_of(unit)}",
        f"--description=Switch of tenantfleet unit {unit}",
        f"--property=ExecStopPost={ACTIVATE} {unit} --recover",
        f"--property=RuntimeMaxSec={timeout_s}", f"--property=TimeoutStopSec={timeout_s}",
        ACTIVATE, unit, *argv,
    )  # fmt: skip
    if started.returncode != 0:
        raise SlotError(f"the job {job_of(unit)} could not be started: {started.stderr.strip()}")


def await_end_of_job(unit: str, timeout_s: int) -> None:
    # Twice the limit of the switch: one for it, one for its way back.
    deadline = time.monotonic() + 2 * timeout_s + 30
    while job_runs(unit):
        if time.monotonic() > deadline:
            raise SlotError(
                f"{job_of(unit)} is still running; it goes on by itself: ask again later",
                journal=journal_of(unit),
            )
        time.sleep(0.25)


def journal_of(unit: str) -> list[str]:
    tail = run("/usr/bin/journalctl", "--quiet", "--no-pager", "--lines=40", f"--unit={job_of(unit)}")
    return tail.stdout.splitlines()


def switch(wanted: Wanted, *, timeout_s: int, keep: int) -> dict[str, Any]:
    """Let the host switch; its verdict on this attempt, whatever it is."""
    attempt = uuid.uuid4().hex
    start_job(wanted.unit, timeout_s, wanted.id, "--attempt", attempt, "--keep", str(keep))
    await_end_of_job(wanted.unit, timeout_s)
    verdict = verdict_of(wanted.unit)
    if verdict.get("attempt") != attempt:
        raise SlotError(f"{job_of(wanted.unit)} ended without a verdict", journal=journal_of(wanted.unit))
    return verdict


def differences(before: Wanted | None, after: Wanted) -> list[dict[str, str]]:
    """Pure: Ansible's diff, one entry a file that differs, and one for everything that is no file."""
    old: dict[str, Any] = json.loads(before.document) if before else {"files": []}
    new: dict[str, Any] = json.loads(after.document)
    old_files, new_files = ({file["path"]: file for file in document.pop("files")} for document in (old, new))
    found = [
        {
            "before_header": f"{path} {describe(old_files.get(path))}",
            "after_header": f"{path} {describe(new_files.get(path))}",
            "before": before.contents.get(path, b"").decode() if before else "",
            "after": after.contents.get(path, b"").decode(),
        }
        for path in sorted(old_files.keys() | new_files.keys())
        if old_files.get(path) != new_files.get(path)
    ]
    if old != new:
        texts = [json.dumps(document, indent=1, sort_keys=True) + "\n" for document in (old, new)]
        header = f"{after.unit}: code, services, probe"
        found.append({"before_header": header, "after_header": header, "before": texts[0], "after": texts[1]})
    return found


def describe(file: dict[str, str] | None) -> str:
    return f"{file['owner']}:{file['group']} {file['mode']}" if file else "(absent)"


def current_of(unit: str) -> Wanted | None:
    slot = OPT / unit / "current"
    try:
        document = (slot / "activation.json").read_bytes()
        paths = [file["path"] for file in json.loads(document)["files"]]
        return Wanted(unit, document, {path: (slot / path).read_bytes() for path in paths})
    except (OSError, ValueError):
        return None


def activate(params: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Return the module's result; SlotError when the host did not confirm."""
    unit = params["unit"]
    await_end_of_job(unit, params["timeout_s"])
    wanted = wanted_of(params, input_digests(params["inputs"], lenient=check))
    before = standing(unit, params["services"])
    result: dict[str, Any] = {
        "activation": wanted.id,
        "previous": before.previous,
        "verdict": "confirmed",
        "journal": [],
    }
    if before.satisfies(wanted):
        return {**result, "changed": False}
    diff = differences(current_of(unit), wanted)
    if check:
        return {**result, "changed": True, "verdict": "not run", "previous": before.current, "diff": diff}
    write_activation(wanted)
    verdict = switch(wanted, timeout_s=params["timeout_s"], keep=params["keep"])
    told = {"changed": True, "diff": diff, "activation": wanted.id, "previous": linked_id(unit, "previous")}
    told |= {"verdict": verdict["verdict"], "in_force": verdict["in_force"], "journal": verdict["journal"]}
    if verdict["verdict"] != "confirmed":
        raise SlotError(f"{unit} {wanted.id} is {verdict['verdict']}: {verdict['reason']}", **told)
    return told


def remove(params: dict[str, Any], *, check: bool) -> dict[str, Any]:
    unit = params["unit"]
    await_end_of_job(unit, params["timeout_s"])
    traces = (OPT / unit, VERDICTS / f"{unit}.json", VERDICTS / f"{unit}.in_progress.json")
    changed = any(trace.exists() for trace in traces)
    if changed and not check:
        start_job(unit, params["timeout_s"], "--remove")
        await_end_of_job(unit, params["timeout_s"])
        if any(trace.exists() for trace in traces):
            raise SlotError(f"{unit} could not be removed", journal=journal_of(unit))
    return {"changed": changed, "activation": None, "previous": None, "verdict": "absent", "journal": []}


def argument_spec() -> dict[str, Any]:
    names = {"type": "list", "elements": "str", "default": []}
    file = {
        "path": {"type": "str", "required": True},
        "content": {"type": "str", "required": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": "0644"},
    }
    argv = {"type": "list", "elements": "str", "required": True}
    return {
        "unit": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["active", "absent"], "default": "active"},
        "code": {"type": "str"},
        "image": {"type": "str"},
        "files": {"type": "list", "elements": "dict", "default": [], "options": file},
        "inputs": {"type": "list", "elements": "path", "default": []},
        "services": names,
        "reloads": names,
        "dependents": names,
        "probe": {"type": "dict", "options": {"argv": argv, "timeout_s": {"type": "int", "default": 60}}},
        "keep": {"type": "int", "default": 1},
        "timeout_s": {"type": "int", "default": 900},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    os.umask(0o022)
    do = activate if module.params["state"] == "active" else remove
    try:
        refuse_bad(module.params)
        result = do(module.params, check=module.check_mode)
    except SlotError as error:
        module.fail_json(msg=str(error), **error.details)
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
