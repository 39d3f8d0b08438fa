#!/usr/bin/python3
"""Bring one role's directories, files, links and units to their declared state, in one call.

Runs on the host from standard input, so it imports little. host_state.yml beside it documents the task.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import re
import stat
import subprocess
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Ansible replaces the marker with ASCII JSON, which never has three bare quotes in a row; a raw literal pairs
# backslashes as JSON does. So no content can end the literal; true, null and surrogates stay json's affair.
ARGUMENTS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""

# A file's kind is the folder that Debian's own tool reads, or the path of the one file that it is.
SYSUSERS, TMPFILES, SYSCTL, SUDOERS = "/etc/sysusers.d", "/etc/tmpfiles.d", "/etc/sysctl.d", "/etc/sudoers.d"
NFTABLES, SSHD = "/etc/tenantfleet/nftables.d", "/etc/ssh/sshd_config"
READ = {SUDOERS: "[^.~]+", NFTABLES: r".+\.nft"} | dict.fromkeys((SYSUSERS, TMPFILES, SYSCTL), r".+\.conf")
# Each judges a candidate on its standard input, before it is put in place.
VALIDATORS = {
    SYSUSERS: ("systemd-sysusers", "--dry-run", "-"),
    TMPFILES: ("systemd-tmpfiles", "--dry-run", "--create", "-"),
    NFTABLES: ("nft", "-c", "-f", "-"),
    SSHD: ("/usr/sbin/sshd", "-t", "-f", "/dev/stdin"),
    SUDOERS: ("visudo", "-cf", "-"),
}
# Each takes effect before the file is put in place: after a crash between the two, the file still differs.
LOADERS = {TMPFILES: ("systemd-tmpfiles", "--create", "-"), NFTABLES: ("nft", "-f", "-")}
UNIT_FOLDERS = ("/etc/systemd/system/", "/etc/containers/systemd/")
UNIT_PROPERTIES = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,WantedBy,RequiredBy"
UNIT_TIMES = "ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic"
UP = ("active", "reloading", "refreshing")
QUADLET = "/usr/lib/systemd/system-generators/podman-system-generator"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8"}
KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFREG: "file"}
SHOWN_BYTES = 1 << 18  # of an old file in a diff


class Action(StrEnum):
    CREATE = "created"
    UPDATE = "updated"
    REMOVE = "removed"
    SET = "set"
    LOAD = "loaded"
    # of units: the name is systemctl's verb
    ENABLE = "enabled"
    DISABLE = "disabled"
    START = "started"
    STOP = "stopped"
    RESTART = "restarted"
    RELOAD = "reloaded"


DOWN = frozenset({Action.STOP, Action.DISABLE})


class Refused(Exception):  # noqa: N818 - what the operator reads is a refusal
    """The document, or what the host holds, does not allow to go on; the text is for the operator."""


class Directory(NamedTuple):
    path: str
    owner: str
    group: str
    mode: int


class File(NamedTuple):
    path: str
    owner: str
    group: str
    mode: int
    content: bytes

    @property
    def kind(self) -> str:
        return self.path if self.path == SSHD else self.path.rpartition("/")[0]

    @property
    def lines(self) -> list[str]:
        """Without blank lines and comments."""
        lines = map(str.strip, self.content.decode().splitlines())
        return [line for line in lines if line and line[0] not in "#;"]


class Link(NamedTuple):
    path: str
    target: str


class Unit(NamedTuple):
    name: str
    state: str
    enabled: bool | None = None  # None: left as it is
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()


class Document(NamedTuple):
    version: int
    absent: tuple[str, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    units: tuple[Unit, ...] = ()


class Scalar(NamedTuple):
    kind: type
    pattern: str  # of its text
    what: str
    convert: Callable[[Any], object] = lambda value: value


ACCOUNT = Scalar(str, r"[A-Za-z_][A-Za-z0-9_.-]*", "an account's name")
PATH = Scalar(str, r"(/(?!\.\.?(/|$))[ -.0-~]{1,200})+", "a normal absolute path")
UNIT = r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|path|target|mount|slice)"
FIELDS: dict[str, Any] = {  # a list holds the kind of its items
    "version": Scalar(int, "1", "1, the version that this host_state knows"),
    "path": PATH,
    "owner": ACCOUNT,
    "group": ACCOUNT,
    "mode": Scalar(str, "[0-7]{4}", "four octal digits in quotes such as '0644'", lambda text: int(text, 8)),
    "content": Scalar(str, r"[^\ud800-\udfff]*", "UTF-8 text", str.encode),
    "target": Scalar(str, "[ -~]+", "a link's target"),
    "name": Scalar(str, UNIT, "a unit's name with its suffix"),
    "state": Scalar(str, "started|stopped", "started or stopped"),
    "enabled": Scalar(bool, "True|False", "true or false"),
    "absent": [PATH],
    "restart_on": [PATH],
    "reload_on": [PATH],
    "directories": [Directory],
    "files": [File],
    "links": [Link],
    "units": [Unit],
}


def parsed(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - `kind` says what comes out
    """`value` as a `kind`: a scalar, a list of one kind, or a mapping of exactly a tuple's fields."""
    if isinstance(kind, Scalar):
        if type(value) is not kind.kind or not re.fullmatch(kind.pattern, str(value)):
            raise Refused(f"{where}: must be {kind.what}, not {value!r:.80}")
        return kind.convert(value)
    if isinstance(kind, list):
        if not isinstance(value, list):
            raise Refused(f"{where}: must be a list, not {value!r:.80}")
        return tuple(parsed(kind[0], item, f"{where}[{at}]") for at, item in enumerate(value))
    if not isinstance(value, dict):
        raise Refused(f"{where}: must be a mapping, not {value!r:.80}")
    if unknown := set(value) - set(kind._fields):
        raise Refused(f"{where}: unknown key {min(map(str, unknown))!r}")
    if missing := set(kind._fields) - set(kind._field_defaults) - set(value):
        raise Refused(f"{where}: {min(missing)} is missing")
    return kind(**{key: parsed(FIELDS[key], item, f"{where}.{key}") for key, item in value.items()})


def document_of(arguments: dict[str, Any]) -> Document:
    """The document, or a refusal: something unknown, missing, of a wrong type, or against something else."""
    document: Document = parsed(Document, arguments, "host_state")
    kept = [item.path for items in (document.directories, document.files, document.links) for item in items]
    for names in ([*kept, *document.absent], [unit.name for unit in document.units]):
        if twice := {name for name in names if names.count(name) > 1}:
            raise Refused(f"named twice: {', '.join(sorted(twice))}")
    leaves = {*document.absent, *kept} - {item.path for item in document.directories}
    for path in kept:
        parts = path.split("/")
        if above := leaves & {"/".join(parts[:n]) for n in range(2, len(parts))}:
            raise Refused(f"{path}: lies below {above.pop()}, which is not to be a directory")
    for file in document.files:
        if not re.fullmatch(READ.get(file.kind, ".+"), file.path.rpartition("/")[2]):
            raise Refused(f"{file.path}: a file of that name is not read there")
        if file.kind == NFTABLES:
            tables_of(file)
    return document


def tables_of(file: File) -> set[str]:
    """The file's own table in each family; a refusal when a statement (`flush ruleset`) touches more."""
    text = re.sub(r'"[^"\n]*"|#[^\n]*', " ", file.content.decode())
    blocks = 1
    while blocks:
        text, blocks = re.subn(r"\{[^{}]*\}", ";", text)
    tables = set()
    for sentence in filter(None, map(str.split, re.split("[;\n]", text))):
        match sentence if sentence[0] != "table" else ["add", *sentence]:
            case ["define", *_]:
                pass
            case [("add" | "create" | "delete" | "destroy" | "flush"), "table", *names] if len(names) in (
                1,
                2,
            ):
                tables.add(" ".join(["table", *(["ip"] if len(names) == 1 else []), *names]))
            case _:
                raise Refused(f"{file.path}: {' '.join(sentence)!r}: may only name its own table")
    if len({table.split()[-1] for table in tables}) != 1:
        raise Refused(f"{file.path}: must name one table, not {', '.join(sorted(tables)) or 'none'}")
    return tables


class Call:
    """One call: how it runs, and what it did or, in a check, would do."""

    def __init__(self, *, check: bool, diff: bool) -> None:
        self.check, self.diff = check, diff
        self.resources: list[dict[str, str]] = []
        self.diffs: list[dict[str, object]] = []
        self.warnings: list[str] = []
        self.paths: set[str] = set()  # created, updated or removed
        self.planned: set[str] = set()  # accounts that a check found missing and listed

    def did(self, kind: str, name: str, action: Action, before: object = None, after: object = None) -> None:
        self.resources.append({"kind": kind, "name": name, "action": action})
        if kind in ("file", "directory", "link"):
            self.paths.add(name)
        if self.diff and before != after:
            self.diffs.append({"before_header": name, "after_header": name, "before": before, "after": after})

    def owner(self, item: Directory | File) -> tuple[int, int, int]:
        """Uid, gid and mode; an id of -1, nobody's, where a check goes on as the account is still to come."""
        ids = uid, gid = number_of(item.owner, pwd.getpwnam), number_of(item.group, grp.getgrnam)
        for name in (name for name, number in zip((item.owner, item.group), ids, strict=True) if number < 0):
            if not self.check:
                raise Refused(f"{item.path}: there is no user or group {name}")
            if name not in self.planned:
                self.warnings.append(f"{item.path}: there is no user or group {name} yet")
        return uid, gid, item.mode


def number_of(name: str, find: Callable[[str], Sequence[Any]]) -> int:
    """Uid or gid, -1 for nobody; both databases have it third."""
    try:
        return int(find(name)[2])
    except KeyError:
        return -1


def run(*argv: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(argv, input=content, capture_output=True, check=False, env=ENVIRONMENT)
    except FileNotFoundError:
        return subprocess.CompletedProcess(argv, 127, b"", b"is not installed")


def must(argv: Sequence[str], what: str, content: bytes = b"", *, more: Callable[[], str] = str) -> None:
    """Run a program; when it fails, a refusal in its own words and, if there is, more to read."""
    done = run(*argv, content=content)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise Refused(f"{what}: {' '.join(argv)}: {said[-2000:]}{more()}")


@contextlib.contextmanager
def parent_of(path: str) -> Iterator[tuple[int, str]]:
    """The open directory that holds `path`, and the last name in it; FileNotFoundError when there is none.

    Where others than root may write, no symbolic link is followed: they could have put it there.
    """
    *folders, name = path[1:].split("/")
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for folder in folders:
            status = os.fstat(here)
            trusted = status.st_uid == 0 and not status.st_mode & 0o022
            flags = os.O_PATH | os.O_DIRECTORY | (0 if trusted else os.O_NOFOLLOW)
            below = os.open(folder, flags, dir_fd=here)
            os.close(here)
            here = below
        yield here, name
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise Refused(f"{path}: on its way is no directory, or a link that not only root can make") from None
    finally:
        os.close(here)


class Found(NamedTuple):
    """What is at a path, itself not followed."""

    kind: str
    owner: tuple[int, int, int] = (-1, -1, 0)  # uid, gid, mode
    content: bytes = b""  # of a file as far as asked for, or the target of a link


def look(path: str, *kinds: str, limit: int = 0) -> Found:
    """What is at `path`, with `limit` bytes of its content; a refusal when it is none of `kinds`."""
    found = Found("nothing")
    with contextlib.suppress(FileNotFoundError), parent_of(path) as (parent, name):
        status = os.lstat(name, dir_fd=parent)
        kind, content = KINDS.get(stat.S_IFMT(status.st_mode), "thing of another kind"), b""
        if kind == "link":
            content = os.fsencode(os.readlink(name, dir_fd=parent))
        elif kind == "file" and limit:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
            with os.fdopen(handle, "rb") as stream:
                content = stream.read(limit)
        found = Found(kind, (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), content)
    if found.kind not in (*kinds, "nothing"):
        raise Refused(f"{path}: there is already a {found.kind}; it is left alone")
    return found


@contextlib.contextmanager
def placing(path: str) -> Iterator[tuple[int, str]]:
    """A temporary name beside `path`, renamed onto it when the body is done, gone when the body fails."""
    with parent_of(path) as (parent, name):
        temporary = f".{name}.host_state~"  # sudo, run-parts and systemd ignore it; what a crash left goes
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        try:
            yield parent, temporary
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)


def write_file(path: str, content: bytes, owner: tuple[int, int, int]) -> None:
    """Put a new inode in place: readers see the old file, or all of the new one with its owner and mode."""
    with placing(path) as (parent, temporary):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(handle, *owner[:2])
            os.fchmod(handle, owner[2])
            os.fsync(handle)


def shown(found: Found, wanted: tuple[int, int, int] | None = None) -> str:
    """The old side of a diff; a file closed to others and not yet as wanted may hold somebody's secret."""
    if found.kind == "file" and not found.owner[2] & stat.S_IROTH and found.owner != wanted:
        return f"(not shown: mode {found.owner[2]:04o})\n"
    return found.content.decode(errors="replace")


def attributes(owner: tuple[int, int, int]) -> dict[str, object]:
    return {"owner": owner[0], "group": owner[1], "mode": f"{owner[2]:04o}"}


def ensure_directory(call: Call, item: Directory) -> None:
    found, wanted = look(item.path, "directory"), call.owner(item)
    if found.owner == wanted:
        return
    if not call.check:
        with parent_of(item.path) as (parent, name), contextlib.ExitStack() as stack:
            if found.kind == "nothing":
                os.mkdir(name, 0o700, dir_fd=parent)
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            stack.callback(os.close, handle)
            os.fchown(handle, *wanted[:2])
            os.fchmod(handle, wanted[2])
    fresh = found.kind == "nothing"
    before = {} if fresh else attributes(found.owner)
    call.did("directory", item.path, Action.CREATE if fresh else Action.UPDATE, before, attributes(wanted))


def ensure_file(call: Call, file: File) -> None:
    """The file as the document has it; its validator and its loader come first."""
    limit = max(len(file.content) + 1, SHOWN_BYTES if call.diff else 0)
    found, wanted = look(file.path, "file", "link", limit=limit), call.owner(file)
    same = found.kind == "file" and found.content == file.content
    if same and found.owner == wanted:
        return
    if not same:
        validate(call, file)
        if not call.check and file.kind in LOADERS:
            must(LOADERS[file.kind], file.path, file.content)
    if not call.check:
        write_file(file.path, file.content, wanted)
    action = Action.CREATE if found.kind == "nothing" else Action.UPDATE
    call.did("file", file.path, action, shown(found, wanted), file.content.decode())
    if call.diff and action is Action.UPDATE and found.owner != wanted:
        header = dict.fromkeys(("before_header", "after_header"), file.path)
        call.diffs.append({**header, "before": attributes(found.owner), "after": attributes(wanted)})


def validate(call: Call, file: File) -> None:
    try:
        if file.kind in VALIDATORS:
            must(VALIDATORS[file.kind], file.path, file.content)
    except Refused as refusal:
        if not (call.check and call.resources):
            raise
        # A check of a host that still lacks what this document lists before: the verdict may be premature.
        call.warnings.append(f"as the host is now: {refusal}")


def ensure_link(call: Call, link: Link) -> None:
    found = look(link.path, "link")
    if found.content == link.target.encode():
        return
    if not call.check:
        with placing(link.path) as (parent, temporary):
            os.symlink(link.target, temporary, dir_fd=parent)
    action = Action.CREATE if found.kind == "nothing" else Action.UPDATE
    call.did("link", link.path, action, shown(found), link.target)


def ensure_absent(call: Call, path: str) -> None:
    """Neither file nor link nor empty directory; what it once brought (accounts, settings, rules) stays."""
    found = look(path, "file", "link", "directory", limit=SHOWN_BYTES if call.diff else 0)
    if found.kind == "nothing":
        return
    if found.kind == "directory":
        entries = sorted(os.listdir(path))  # noqa: PTH208 - importing pathlib costs 10 ms a call
        if left := [entry for entry in entries if f"{path}/{entry}" not in call.paths]:
            raise Refused(f"{path}: is not empty: {', '.join(left[:5])}")
    if not call.check:
        with parent_of(path) as (parent, name):
            (os.rmdir if found.kind == "directory" else os.unlink)(name, dir_fd=parent)
    call.did(found.kind, path, Action.REMOVE, shown(found), "")


def account_gap(line: str, where: str) -> bool:
    """Whether a line of sysusers.d is unfulfilled; a refusal when it never will be."""
    import shlex  # noqa: PLC0415 - only documents with accounts pay for it

    kind, name, number, _, home, shell = (*shlex.split(line), "-", "-", "-", "-")[:6]
    if kind[0] == "m":
        return number_of(number, grp.getgrnam) < 0 or name not in grp.getgrnam(number).gr_mem
    has = number_of(name, pwd.getpwnam if kind[0] == "u" else grp.getgrnam)
    if kind[0] not in "ug" or has < 0:
        return kind[0] in "ug"
    pairs = [(number.partition(":")[0], str(has))]
    if kind[0] == "u":
        pairs += [(home, pwd.getpwnam(name).pw_dir), (shell, pwd.getpwnam(name).pw_shell)]
    for asked, actual in pairs:
        if asked not in ("", "-", actual):
            raise Refused(
                f"{where}: {name} exists with {actual}, not {asked}: systemd-sysusers never changes that"
            )
    return False


def ensure_accounts(call: Call, file: File) -> None:
    gaps = [line for line in file.lines if account_gap(line, file.path)]
    for line in gaps:
        call.did("account", line.split()[1], Action.UPDATE if line[0] == "m" else Action.CREATE)
        call.planned.add(line.split()[1])
    if gaps and not call.check:
        must(("systemd-sysusers", file.path), file.path)
        if left := [line for line in gaps if account_gap(line, file.path)]:
            raise Refused(f"{file.path}: systemd-sysusers left out {left[0]!r}")


def declared_directories(file: File) -> Iterator[Directory]:
    """Those of the plain `d` lines; the other lines take effect when the file changes, or at boot."""
    name = r"(?:\s+(?:-|([\w-]+)))?"
    for line in file.lines:
        if match := re.fullmatch(
            rf"[dD]\s+(/[\w/.@+-]*\w)/?(?:\s+(?:-|([0-7]{{3,4}})))?{name}{name}(\s.*)?", line
        ):
            path, mode, owner, group, _ = match.groups()
            yield Directory(path, owner or "root", group or "root", int(mode or "0755", 8))


def settings_of(file: File) -> dict[str, str]:
    """Path below /proc/sys → value, of the settings that must hold: no globs, none that may fail."""
    settings = {}
    for line in file.lines:
        name, _, value = (part.strip() for part in line.partition("="))
        if name[0] != "-" and not set(name) & set("*?["):
            dotted = re.match("[^/]*[.]", name)
            settings[name.translate(str.maketrans("./", "/.")) if dotted else name] = " ".join(value.split())
    return settings


def live(key: str) -> str:
    """A kernel setting as it is now; empty when there is none of that name."""
    return " ".join(look(f"/proc/sys/{key}", "file", limit=4096).content.decode().split())


def ensure_settings(call: Call, file: File) -> None:
    settings = settings_of(file)
    wrong = [key for key, value in settings.items() if live(key) != value]
    for key in wrong:
        call.did("sysctl", key, Action.SET, live(key), settings[key])
    if not call.check and (wrong or file.path in call.paths):
        must(("/usr/lib/systemd/systemd-sysctl", "--strict", file.path), file.path)
        for key in wrong:
            if live(key) != settings[key]:
                raise Refused(f"{file.path}: {key} is {live(key)!r} after {settings[key]!r} was written")


def ensure_tables(call: Call, file: File) -> None:
    """The file's table loaded: a flush or a reboot takes it away while the file stays."""
    missing = tables_of(file) - set(run("nft", "list", "tables").stdout.decode().splitlines())
    if not missing or (call.check and file.path in call.paths):
        return
    for table in sorted(missing):
        call.did("nftables", table, Action.LOAD)
    if not call.check:
        must(LOADERS[NFTABLES], file.path, file.content)


def statuses(units: Sequence[Unit]) -> dict[str, dict[str, str]]:
    """Each unit's properties, from one question to systemd."""
    if not units:
        return {}
    names = [unit.name for unit in units]
    done = run("systemctl", "show", f"--property={UNIT_PROPERTIES},{UNIT_TIMES}", "--", *names)
    blocks = done.stdout.decode().strip().split("\n\n")
    if done.returncode or len(blocks) != len(names):
        raise Refused(f"systemctl show: {done.stderr.decode(errors='replace')}")
    properties = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks)
    return dict(zip(names, properties, strict=True))


def written_at(path: str) -> float:
    """When the file or link was last written, in seconds of the monotonic clock.

    A unit that started before has not read it: so the next call does what one that died left undone.
    A directory's time says nothing, for its service may write there; nor does one in the future.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    now = time.time()
    known = not stat.S_ISDIR(status.st_mode) and status.st_mtime <= now
    return status.st_mtime - now + time.monotonic() if known else 0


def is_enabled(status: Mapping[str, str]) -> bool:
    """Whether something starts it at boot; a static or generated unit (a quadlet) only when pulled in."""
    if status["UnitFileState"] in ("static", "generated"):
        return bool(status["WantedBy"] or status["RequiredBy"])
    return status["UnitFileState"] in ("enabled", "enabled-runtime", "alias")


def actions_for(unit: Unit, status: Mapping[str, str], fresh: Callable[[str, float], bool]) -> list[Action]:
    """What leads from `status` to the document; `fresh(path, since)`: whether a path is newer than that."""
    actions = []
    if unit.enabled is not None and unit.enabled != is_enabled(status):
        actions.append(Action.ENABLE if unit.enabled else Action.DISABLE)
    if unit.state == "stopped":
        return [Action.STOP, *actions] if status["ActiveState"] in (*UP, "activating") else actions
    if status["ActiveState"] not in UP:
        return [*actions, Action.START]
    started, changed = (int(status[name]) / 1e6 for name in UNIT_TIMES.split(","))
    if status["NeedDaemonReload"] == "yes" or any(fresh(path, started) for path in unit.restart_on):
        return [*actions, Action.RESTART]
    return [*actions, *([Action.RELOAD] if any(fresh(path, changed) for path in unit.reload_on) else [])]


def act(call: Call, unit: Unit, status: Mapping[str, str], allowed: frozenset[Action]) -> bool:
    """Do the due ones of the allowed actions; whether there were any."""
    actions = actions_for(unit, status, lambda path, since: path in call.paths or written_at(path) > since)
    due = [action for action in actions if action in allowed]
    for action in due:
        if not call.check:
            if status["ActiveState"] == "failed":
                run(
                    "systemctl", "reset-failed", "--", unit.name
                )  # else a spent start limit outlives its cause
            command = ("systemctl", action.name.lower(), "--", unit.name)
            must(command, unit.name, more=lambda: journal_of(unit))
        call.did("unit", unit.name, action)
    return bool(due)


def journal_of(unit: Unit) -> str:
    """The last 20 lines that the unit wrote, and what the quadlet generator refuses."""
    lines = run("journalctl", "--unit", unit.name, "--lines=20", "--no-pager", "--quiet").stdout
    quadlet = run(QUADLET, "--dryrun")
    said = lines + (quadlet.stderr[-1000:] if quadlet.returncode == 1 else b"")
    return f"\nits last journal lines:\n{said.decode(errors='replace')}"


def ensure_units(call: Call, units: Sequence[Unit], now: dict[str, dict[str, str]]) -> None:
    """Unit files read again when this call, or one that died, changed them; then each unit."""
    changed = any(path.startswith(UNIT_FOLDERS) for path in call.paths)
    unread = {name for name, status in now.items() if status["NeedDaemonReload"] == "yes"}
    unknown = [
        unit for unit in units if unit.state == "started" and now[unit.name]["LoadState"] == "not-found"
    ]
    if changed or unread or (unknown and not call.check):
        call.did("systemd", "unit files", Action.RELOAD)
        if not call.check:
            must(("systemctl", "daemon-reload"), "unit files")
            now = statuses(units)
            now |= {name: now[name] | {"NeedDaemonReload": "yes"} for name in unread}
    allowed = frozenset(Action) if call.check else frozenset(Action) - DOWN
    acted = [unit for unit in units if act(call, unit, now[unit.name], allowed)]
    for name, status in statuses([] if call.check else acted).items():
        unit = next(unit for unit in acted if unit.name == name)
        if unit.state == "started" and status["ActiveState"] not in UP:
            raise Refused(f"{name}: is {status['ActiveState']} after its start{journal_of(unit)}")
        if unit.enabled is not None and unit.enabled != is_enabled(status):
            raise Refused(f"{name}: its unit file is {status['UnitFileState']}, whatever `enabled` says")


def ensure(call: Call, item: Directory | File | Link) -> None:
    if isinstance(item, Directory):
        return ensure_directory(call, item)
    if isinstance(item, Link):
        return ensure_link(call, item)
    for directory in declared_directories(item) if item.kind == TMPFILES else ():
        ensure_directory(call, directory)
    ensure_file(call, item)
    effects = {SYSUSERS: ensure_accounts, SYSCTL: ensure_settings, NFTABLES: ensure_tables}
    return effects[item.kind](call, item) if item.kind in effects else None


def converge(call: Call, document: Document) -> None:
    """Bring the host to the document: accounts before what they own, directories before what lies in them."""
    units, files = document.units, document.files
    now = statuses(units)
    if not call.check:  # while their files are still there
        now |= statuses([unit for unit in units if act(call, unit, now[unit.name], DOWN)])
    for path in sorted(document.absent, key=len, reverse=True):
        ensure_absent(call, path)
    accounts = tuple(file for file in files if file.kind == SYSUSERS)
    shallow = sorted(document.directories, key=lambda item: item.path.count("/"))
    above = tuple(item for item in shallow if accounts and f"{SYSUSERS}/".startswith(f"{item.path}/"))
    rest = sorted(files, key=lambda file: file.kind != TMPFILES)
    items: tuple[Directory | File | Link, ...] = (*above, *accounts, *shallow, *rest, *document.links)
    for item in dict.fromkeys(items):
        ensure(call, item)
    ensure_units(call, units, now)


def respond(arguments: dict[str, Any]) -> dict[str, object]:
    """Ansible's result for the task's arguments; a refusal fails it, with what was done until then."""
    own = {key: value for key, value in arguments.items() if not key.startswith("_ansible_")}
    call = Call(check=bool(arguments["_ansible_check_mode"]), diff=bool(arguments["_ansible_diff"]))
    failure = None
    try:
        converge(call, document_of(own))
    except Refused as refusal:
        failure = str(refusal)
    except OSError as error:
        failure = f"{error.filename or 'host_state'}: {error.strerror}"
    result = {"changed": bool(call.resources), "resources": call.resources, "diff": call.diffs}
    result |= {"warnings": call.warnings}
    return result | ({"failed": True, "msg": failure} if failure else {})


if __name__ == "__main__":
    answer = respond(json.loads(ARGUMENTS))
    sys.stdout.write(json.dumps(answer))
    sys.exit(bool(answer.get("failed")))
