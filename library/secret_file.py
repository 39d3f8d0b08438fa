"""Ansible module `secret_file`: bring secrets into the host's vault, once, and nowhere else."""

import base64
import hmac
import json
import os
import re
import resource
import secrets
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

VAULT = Path("/var/lib/tenantfleet/vault")
REGISTRY = "registry"
# The redaction registry refuses shorter values: they would match everywhere.
MINIMUM_CHARACTERS = 6
LONGEST_NAME = 120  # characters; with .cred it stays far below a file name's 255
LEAST_RANDOM = 16  # bytes
BOOTSTRAP_LIMIT = 1 << 20  # bytes; systemd takes no larger credential either
NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*")
JOB_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
# RFC 8410: an Ed25519 private key in PKCS 8 is this prefix and 32 random bytes.
ED25519_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
CREDS = "/usr/bin/systemd-creds"


class VaultError(Exception):
    """For the operator: names of secrets only, never a value."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the vault shall hold anew; `actions`: what is done to each name."""

    write: dict[str, str]
    remove: tuple[str, ...]
    actions: dict[str, str]

    @property
    def changed(self) -> bool:
        return bool(self.write or self.remove)


def refuse_bad_names(names: list[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME or name == REGISTRY:
            raise VaultError(f"{name!r} cannot be the name of a secret")


def refuse_bad_values(given: Mapping[str, object]) -> None:
    """A value that the redaction cannot guard does not come in."""
    for name, value in given.items():
        if not isinstance(value, str):
            raise VaultError(f"the value of {name} is not a string")
        if len(value) < MINIMUM_CHARACTERS:
            raise VaultError(f"the value of {name} is shorter than {MINIMUM_CHARACTERS} characters")
        if value != value.strip() or "\0" in value:
            raise VaultError(f"the value of {name} begins or ends with white space, or holds a NUL")


def same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def registry_of(values: Mapping[str, str]) -> str:
    """The redaction registry: every secret of the tenant by name."""
    plain = {name: value.strip() for name, value in values.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def made(form: str, size: int) -> str:
    """A fresh secret."""
    if form == "ed25519_pem":
        body = base64.b64encode(ED25519_PKCS8 + secrets.token_bytes(32)).decode()
        return f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    return base64.urlsafe_b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()


def plan(
    *, held: Mapping[str, str], given: Mapping[str, str], generate: list[dict[str, Any]], remove: list[str]
) -> Plan:
    """Pure but for the randomness of what is generated: from what the vault holds to what it shall hold."""
    write = {name: value for name, value in given.items() if name not in held or not same(held[name], value)}
    made_here = {
        spec["name"]: made(spec["format"], spec["bytes"])
        for spec in generate
        if spec["name"] not in held and spec["name"] not in given
    }
    gone = tuple(name for name in remove if name in held)
    actions = dict.fromkeys([*given, *(spec["name"] for spec in generate)], "unchanged")
    actions |= {name: "updated" if name in held else "created" for name in write}
    actions |= dict.fromkeys(made_here, "generated") | dict.fromkeys(gone, "removed")
    write |= made_here
    after = {name: value for name, value in held.items() if name != REGISTRY and name not in gone} | write
    registry = registry_of(after)
    if not same(held.get(REGISTRY, ""), registry):
        write[REGISTRY] = registry
        actions[REGISTRY] = "updated" if REGISTRY in held else "created"
    return Plan(write, gone, actions)


@dataclass(frozen=True, slots=True)
class Vault:
    """The folder of blobs. Its values exist outside of it in this process's memory only."""

    folder: Path = VAULT

    def blob(self, name: str) -> Path:
        return self.folder / f"{name}.cred"

    def held(self) -> dict[str, str]:
        names = sorted(path.stem for path in self.folder.glob("*.cred")) if self.folder.is_dir() else []
        return {name: self.opened(name) for name in names}

    def opened(self, name: str) -> str:
        command = [CREDS, "decrypt", "--newline=no", f"--name={name}", str(self.blob(name)), "-"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise VaultError(f"{self.blob(name)} cannot be opened: was it made on another host?")
        return done.stdout.decode()

    def seal(self, name: str, value: str) -> None:
        command = [CREDS, "encrypt", "--with-key=host", f"--name={name}", "-", "-"]
        done = subprocess.run(command, input=value.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            raise VaultError(f"systemd-creds does not encrypt {name}: exit {done.returncode}")
        self.put(self.blob(name), done.stdout)

    def put(self, place: Path, content: bytes) -> None:
        """Write a blob or a mark, atomically and durably; only ciphertext and names get here."""
        fresh = place.with_name(f".{place.name}.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)

    def prepare(self) -> None:
        self.folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in (self.folder, self.folder / ".consumed"):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)

    def consumed_names(self, job_id: str) -> list[str] | None:
        """Names that the payload of a consumed job held; None for a job that was never here."""
        try:
            names: list[str] = json.loads((self.folder / ".consumed" / job_id).read_text())["names"]
        except FileNotFoundError:
            return None
        return names

    def consume(self, job_id: str, names: list[str]) -> None:
        self.put(self.folder / ".consumed" / job_id, json.dumps({"names": names}).encode())


def refuse_replay(vault: Vault, job_id: str, given: Mapping[str, str], held: Mapping[str, str]) -> bool:
    """True: this job was consumed with exactly these values, which the vault still holds (a resumed run).

    The comparison is with the vault itself, so no trace of a value is kept for it.
    """
    names = vault.consumed_names(job_id)
    if names is None:
        return False
    if sorted(given) != names or not all(same(held.get(name, ""), value) for name, value in given.items()):
        raise VaultError(
            f"job {job_id} was consumed on this host, with other values than these: a replay is refused"
        )
    return True


def filesystem_of(descriptor: int) -> tuple[str, str]:
    """Type and options of the file system that an open file lies on."""
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            kind, _, options = after.split(" ", 2)
            return kind, options
    return "unknown", ""


def refuse_lasting_place(descriptor: int, path: Path) -> None:
    """Only memory that cannot be swapped out forgets: ramfs, or tmpfs without swap."""
    kind, options = filesystem_of(descriptor)
    swaps = len(Path("/proc/swaps").read_text().splitlines()) > 1
    if kind not in {"ramfs", "tmpfs"}:
        raise VaultError(f"{path} lies on {kind}: a bootstrap file must lie on ramfs or tmpfs")
    if kind == "tmpfs" and swaps and "noswap" not in options.split(","):
        raise VaultError(f"{path} lies on a tmpfs that this host may swap to disk: use ramfs")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_mode & 0o077:
        raise VaultError(f"{path} must be a plain file of one name that only its owner can read")


def read_once(path: Path, *, check: bool) -> dict[str, object]:
    """Open, unlink, and only then read from the descriptor: whoever comes second finds nothing.

    In check mode the file stays.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise VaultError(f"{path}: {error.strerror}; a bootstrap file can be read once only") from None
    with os.fdopen(descriptor, "rb") as file:
        refuse_lasting_place(descriptor, path)
        if not check:
            path.unlink()
        content = file.read(BOOTSTRAP_LIMIT + 1)
    try:
        values = json.loads(content) if len(content) <= BOOTSTRAP_LIMIT else None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise VaultError(f"{path} held no JSON object of names to values; it is gone now")
    return values


def refuse_leaking_transport() -> None:
    """Without pipelining the values lie in a file in the remote user's home while this runs."""
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    if any(b"AnsiballZ_" in argument for argument in arguments):
        raise VaultError(
            "Ansible's pipelining is off, which writes secrets into a file on the host: turn it on"
        )


def present(params: dict[str, Any], *, check: bool) -> dict[str, Any]:
    vault = Vault()
    given: dict[str, Any] = dict(params["values"])
    if params["bootstrap_path"]:
        given |= read_once(Path(params["bootstrap_path"]), check=check)
    generate, job_id = params["generate"], params["job_id"]
    refuse_bad_names([*given, *(spec["name"] for spec in generate), *params["remove"]])
    refuse_bad_values(given)
    if weak := [spec["name"] for spec in generate if spec["bytes"] < LEAST_RANDOM]:
        raise VaultError(f"{weak[0]}: fewer than {LEAST_RANDOM} random bytes can be guessed")
    if job_id is not None and not JOB_ID.fullmatch(job_id):
        raise VaultError("job_id is not an identifier")
    held = vault.held()
    again = refuse_replay(vault, job_id, given, held) if job_id else False
    todo = plan(held=held, given=given, generate=generate, remove=params["remove"])
    if not check:
        carry_out(vault, todo)
        if job_id and not again:
            vault.consume(job_id, sorted(given))
    changed = todo.changed or bool(job_id and not again)
    return {
        "changed": changed,
        "secrets": [{"name": n, "action": a} for n, a in sorted(todo.actions.items())],
    }


def carry_out(vault: Vault, todo: Plan) -> None:
    vault.prepare()
    for name, value in todo.write.items():
        vault.seal(name, value)
    for name in todo.remove:
        vault.blob(name).unlink()


def absent(*, check: bool) -> dict[str, Any]:
    there = VAULT.exists()
    if there and not check:
        shutil.rmtree(VAULT)
    return {"changed": there, "secrets": []}


def main() -> None:
    form = {"type": "str", "choices": ["base64url", "ed25519_pem"], "default": "base64url"}
    spec = {
        "name": {"type": "str", "required": True},
        "format": form,
        "bytes": {"type": "int", "default": 32},
    }
    module = AnsibleModule(
        argument_spec={
            "values": {"type": "dict", "default": {}, "no_log": True},
            "bootstrap_path": {"type": "path"},
            "generate": {"type": "list", "elements": "dict", "default": [], "options": spec},
            "remove": {"type": "list", "elements": "str", "default": []},
            "job_id": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o022)
    try:
        refuse_leaking_transport()
        check = module.check_mode
        result = (
            absent(check=check) if module.params["state"] == "absent" else present(module.params, check=check)
        )
    except VaultError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
