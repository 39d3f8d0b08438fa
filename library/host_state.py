#!/usr/bin/python3
"""Bring one role's directories, files, links and units to their declared state, in one call.

Runs on the host from standard input and imports little: a call with nothing to do must cost next to nothing.
host_state.yml beside it documents the task, host_state.schema.json the document; neither travels to the host.
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

# A file's kind is the folder that Debian's own tool reads, or the path of the one file it is.
SYSUSERS, TMPFILES, SYSCTL, SUDOERS = "/etc/sysusers.d", "/etc/tmpfiles.d", "/etc/sysctl.d", "/etc/sudoers.d"
NFTABLES, SSHD, SSHD_PARTS = "/etc/tenantfleet/nftables.d", "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d"
SUFFIXES = {SYSUSERS: ".conf", TMPFILES: ".conf", SYSCTL: ".conf", SSHD_PARTS: ".conf", NFTABLES: ".nft"}
# Each judges a candidate on its standard input, before it is put in place.
VALIDATORS = {
    SYSUSERS: ("systemd-sysusers", "--dry-run", "-"),
    TMPFILES: ("systemd-tmpfiles", "--dry-run", "--create", "-"),
    NFTABLES: ("nft", "-c", "-f", "-"),
    SSHD: ("/usr/sbin/sshd", "-t", "-f", "/dev/stdin"),
    SSHD_PARTS: ("/usr/sbin/sshd", "-t", "-f", "/dev/stdin"),
    SUDOERS: ("visudo", "-cf", "-"),
}
# Each takes effect before the file is put in place: after a crash between the two, the file still differs.
LOADERS = {TMPFILES: ("systemd-tmpfiles", "--create", "-"), NFTABLES: ("nft", "-f", "-")}
UNIT_FOLDERS = ("/etc/systemd/system/", "/etc/containers/systemd/")
UNIT_NAME = r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|path|target|mount|slice)"
UNIT_PROPERTIES = (
    "LoadState,ActiveState,UnitFileState,NeedDaemonReload,ActiveEnterTimestampMonotonic,"
    "StateChangeTimestampMonotonic,WantedBy,RequiredBy"
)
UP = ("active", "reloading", "refreshing")
QUADLET = "/usr/lib/systemd/system-generators/podman-system-generator"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8"}
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

    @property
    def started(self) -> bool:
        return self.state == "started"


class Document(NamedTuple):
    version: int
    absent: tuple[str, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    units: tuple[Unit, ...] = ()


# --- the document: all of it is judged before the first effect ---


def matching(pattern: str, what: str) -> Callable[[object, str], str]:
    def parse(value: object, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise Refused(f"{where}: must be {what}, not {value!r:.80}")
        return value

    return parse


def path_of(value: object, where: str) -> str:
    path = matching(r"/[^\x00-\x1f\x7f]+", "an absolute path")(value, where)
    parts = path[1:].split("/")
    if {"", ".", ".."} & set(parts) or max(len(part.encode()) for part in parts) > 200:  # noqa: PLR2004 - see placing()
        raise Refused(f"{where}: must be a normal path, not {path!r:.80}")
    return path


def mode_of(value: object, where: str) -> int:
    return int(matching("[0-7]{4}", "four octal digits in quotes such as '0644'")(value, where), 8)


def content_of(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(f"{where}: must be text, not {value!r:.80}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"{where}: is no UTF-8: {error.reason}") from None


def exactly(*allowed: object) -> Callable[[object, str], Any]:
    def parse(value: object, where: str) -> object:
        if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
            raise Refused(f"{where}: must be {' or '.join(map(str, allowed))}, not {value!r:.80}")
        return value

    return parse


def list_of[T](parse: Callable[[object, str], T]) -> Callable[[object, str], tuple[T, ...]]:
    def parse_all(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Refused(f"{where}: must be a list, not {value!r:.80}")
        return tuple(parse(item, f"{where}[{at}]") for at, item in enumerate(value))

    return parse_all


def record[T: (Directory, File, Link, Unit, Document)](kind: type[T]) -> Callable[[object, str], T]:
    """Parser of a mapping of exactly the kind's fields; those with a default may be left out."""

    def parse(value: object, where: str) -> T:
        if not isinstance(value, dict):
            raise Refused(f"{where}: must be a mapping, not {value!r:.80}")
        if unknown := set(value) - set(kind._fields):
            raise Refused(f"{where}: unknown key {min(map(str, unknown))!r}")
        if missing := set(kind._fields) - set(kind._field_defaults) - set(value):
            raise Refused(f"{where}: {min(missing)} is missing")
        return kind(**{key: FIELDS[key](item, f"{where}.{key}") for key, item in value.items()})

    return parse


NAME = matching(r"[A-Za-z_][A-Za-z0-9_.-]*", "a user's or group's name")
FIELDS: Mapping[str, Callable[[object, str], Any]] = {
    "path": path_of,
    "owner": NAME,
    "group": NAME,
    "mode": mode_of,
    "content": content_of,
    "target": matching(r"[^\x00-\x1f\x7f]+", "a link's target"),
    "name": matching(UNIT_NAME, "a unit's name with its suffix"),
    "state": exactly("started", "stopped"),
    "enabled": exactly(True, False),  # noqa: FBT003 - the two values themselves
    "restart_on": list_of(path_of),
    "reload_on": list_of(path_of),
    "version": exactly(1),
    "absent": list_of(path_of),
    "directories": list_of(record(Directory)),
    "files": list_of(record(File)),
    "links": list_of(record(Link)),
    "units": list_of(record(Unit)),
}


def document_of(arguments: object) -> Document:
    """The document, or a refusal: something unknown, missing, of a wrong type, or against something else."""
    document = record(Document)(arguments, "host_state")
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
        if not file.path.endswith(SUFFIXES.get(file.kind, "")):
            raise Refused(f"{file.path}: only *{SUFFIXES[file.kind]} is read there")
        if file.kind == SUDOERS and set(file.path.rpartition("/")[2]) & set(".~"):
            raise Refused(f"{file.path}: sudo ignores a name with a dot or a tilde")
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


# --- the call ---


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

    def ids(self, owner: str, group: str, path: str) -> tuple[int, int]:
        """Numeric ids; -1, which nobody has, where a check may go on because the account is still to come."""
        ids = []
        for name, number in ((owner, uid_of(owner)), (group, gid_of(group))):
            if number < 0 and not self.check:
                raise Refused(f"{path}: there is no user or group {name}")
            if number < 0 and name not in self.planned:
                self.warnings.append(f"{path}: there is no user or group {name} yet")
            ids.append(number)
        return ids[0], ids[1]


def uid_of(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return -1


def gid_of(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return -1


def run(*argv: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(argv, input=content, capture_output=True, check=False, env=ENVIRONMENT)
    except FileNotFoundError:
        raise Refused(f"{argv[0]} is not installed") from None


def must(argv: Sequence[str], what: str, content: bytes = b"") -> None:
    """Run a program; when it fails, a refusal in its own words."""
    done = run(*argv, content=content)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise Refused(f"{what}: {' '.join(argv)}: {said[-2000:]}")


# --- paths ---


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

    kind: str  # file, directory, link, other, nothing
    owner: tuple[int, int, int] = (-1, -1, 0)  # uid, gid, mode
    content: bytes = b""  # of a file as far as asked for, or the target of a link

    def refuse_unless(self, path: str, *kinds: str) -> None:
        if self.kind not in (*kinds, "nothing"):
            raise Refused(f"{path}: there is already something else (a {self.kind}); it is left alone")


def look(path: str, limit: int = 0) -> Found:
    try:
        with parent_of(path) as (parent, name):
            status = os.lstat(name, dir_fd=parent)
            owner = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
            if stat.S_ISDIR(status.st_mode):
                return Found("directory", owner)
            if stat.S_ISLNK(status.st_mode):
                return Found("link", owner, os.fsencode(os.readlink(name, dir_fd=parent)))
            if not stat.S_ISREG(status.st_mode):
                return Found("other", owner)
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
            with os.fdopen(handle, "rb") as stream:
                return Found("file", owner, stream.read(limit))
    except FileNotFoundError:
        return Found("nothing")


@contextlib.contextmanager
def placing(path: str) -> Iterator[tuple[int, str]]:
    """A temporary name beside `path`, renamed onto it when the body is done, gone when the body fails."""
    with parent_of(path) as (parent, name):
        temporary = (
            f".{name}.host_state~"  # sudo, run-parts and systemd ignore it; what a crash left is taken over
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        try:
            yield parent, temporary
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise


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


def set_directory(path: str, owner: tuple[int, int, int]) -> None:
    with parent_of(path) as (parent, name):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchown(handle, *owner[:2])
            os.fchmod(handle, owner[2])
        finally:
            os.close(handle)


def shown(found: Found, wanted: tuple[int, int, int] | None = None) -> str:
    """The old side of a diff; a file closed to others and not yet as wanted may hold somebody's secret."""
    if found.kind == "file" and not found.owner[2] & stat.S_IROTH and found.owner != wanted:
        return f"(not shown: mode {found.owner[2]:04o})\n"
    return found.content.decode(errors="replace")


def attributes(owner: tuple[int, int, int]) -> dict[str, object]:
    return {"owner": owner[0], "group": owner[1], "mode": f"{owner[2]:04o}"}


def ensure_directory(call: Call, item: Directory) -> None:
    found = look(item.path)
    found.refuse_unless(item.path, "directory")
    wanted = (*call.ids(item.owner, item.group, item.path), item.mode)
    if found.owner == wanted:
        return
    if not call.check:
        set_directory(item.path, wanted)
    fresh = found.kind == "nothing"
    before = {} if fresh else attributes(found.owner)
    call.did("directory", item.path, Action.CREATE if fresh else Action.UPDATE, before, attributes(wanted))


def ensure_file(call: Call, file: File) -> None:
    """The file as the document has it; its validator and its loader come first."""
    found = look(file.path, max(len(file.content) + 1, SHOWN_BYTES if call.diff else 0))
    found.refuse_unless(file.path, "file", "link")
    wanted = (*call.ids(file.owner, file.group, file.path), file.mode)
    same = found.kind == "file" and found.content == file.content
    if same and found.owner == wanted:
        return
    if not same:
        validate(call, file)
    if not call.check:
        if not same and file.kind in LOADERS:
            must(LOADERS[file.kind], file.path, file.content)
        write_file(file.path, file.content, wanted)
    fresh = found.kind == "nothing"
    after = file.content.decode()
    call.did("file", file.path, Action.CREATE if fresh else Action.UPDATE, shown(found, wanted), after)
    if call.diff and not fresh and found.owner != wanted:
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
    found = look(link.path)
    found.refuse_unless(link.path, "link")
    if found.content == link.target.encode():
        return
    if not call.check:
        with placing(link.path) as (parent, temporary):
            os.symlink(link.target, temporary, dir_fd=parent)
    action = Action.CREATE if found.kind == "nothing" else Action.UPDATE
    call.did("link", link.path, action, shown(found), link.target)


def ensure_absent(call: Call, path: str) -> None:
    """Neither file nor link nor empty directory; what it once brought (accounts, settings, rules) stays."""
    found = look(path, SHOWN_BYTES if call.diff else 0)
    found.refuse_unless(path, "file", "link", "directory")
    if found.kind == "nothing":
        return
    with parent_of(path) as (parent, name):
        if found.kind == "directory":
            entries = sorted(os.listdir(path))  # noqa: PTH208 - importing pathlib costs 10 ms a call
            if left := [entry for entry in entries if f"{path}/{entry}" not in call.paths]:
                raise Refused(f"{path}: is not empty: {', '.join(left[:5])}")
        if not call.check:
            (os.rmdir if found.kind == "directory" else os.unlink)(name, dir_fd=parent)
    call.did(found.kind, path, Action.REMOVE, shown(found), "")


# --- what Debian's tools make of files: compared with the host whether the file changed or not ---


def account_gap(line: str, where: str) -> bool:
    """Whether a line of sysusers.d is unfulfilled; a refusal when it never will be."""
    import shlex  # noqa: PLC0415 - only documents with accounts pay for it

    kind, name, number, _, home, shell = (*shlex.split(line), "-", "-", "-", "-")[:6]
    if kind[0] == "m":
        members = grp.getgrnam(number).gr_mem if gid_of(number) >= 0 else []
        return name not in members
    if kind[0] not in "ug" or (has := gid_of(name) if kind[0] == "g" else uid_of(name)) < 0:
        return kind[0] in "ug"
    wanted = [(number.partition(":")[0], str(has))]
    if kind[0] == "u":
        wanted += [(home, pwd.getpwnam(name).pw_dir), (shell, pwd.getpwnam(name).pw_shell)]
    for asked, actual in wanted:
        if asked not in ("-", actual) and not asked.startswith("/" if asked is number else "%"):
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


def ensure_tmpfiles(call: Call, file: File) -> None:
    """The file, and the directories of its plain `d` lines; other lines take effect when the file changes."""
    probe = Call(check=True, diff=call.diff)
    probe.planned = call.planned
    for line in file.lines:
        kind, path, mode, owner, group = (*line.split(), "-", "-", "-")[:5]
        plain = not set(line) & set('%:~"\\')
        if kind in ("d", "D") and plain:
            owner, group = ("root" if name == "-" else name for name in (owner, group))
            octal = "0755" if mode == "-" else mode
            ensure_directory(probe, Directory(path.rstrip("/"), owner, group, int(octal, 8)))
    ensure_file(call, file)
    call.resources += probe.resources
    call.diffs += probe.diffs
    call.warnings += probe.warnings
    call.paths |= probe.paths
    if probe.resources and file.path not in call.paths and not call.check:
        must(LOADERS[TMPFILES], file.path, file.content)


def settings_of(file: File) -> dict[str, str]:
    """Path below /proc/sys → value, of the settings that must hold: no globs, none that may fail."""
    settings = {}
    for line in file.lines:
        name, _, value = (part.strip() for part in line.partition("="))
        if name[0] != "-" and not set(name) & set("*?["):
            dotted = min(name.find(mark) % (len(name) + 1) for mark in "./") == name.find(".")
            key = name.translate(str.maketrans("./", "/.")) if dotted else name
            settings[key] = " ".join(value.split())
    return settings


def live_setting(key: str) -> str | None:
    try:
        with open(f"/proc/sys/{key}", encoding="utf-8") as stream:  # noqa: PTH123 - importing pathlib costs 10 ms
            return " ".join(stream.read().split())
    except OSError:
        return None


def ensure_settings(call: Call, file: File) -> None:
    settings = settings_of(file)
    wrong = [key for key, value in settings.items() if live_setting(key) != value]
    for key in wrong:
        call.did("sysctl", key, Action.SET, live_setting(key), settings[key])
    if call.check or not (wrong or file.path in call.paths):
        return
    must(("/usr/lib/systemd/systemd-sysctl", "--strict", file.path), file.path)
    for key in wrong:
        if (live := live_setting(key)) != settings[key]:
            raise Refused(f"{file.path}: {key} reads {live!r} after {settings[key]!r} was written")


def ensure_tables(call: Call, files: list[File]) -> None:
    """Every table loaded: a flush or a reboot takes tables away while the files stay."""
    try:
        loaded = set(run("nft", "list", "tables").stdout.decode().splitlines()) if files else set()
    except Refused:
        if not call.check:
            raise
        loaded = set()
    for file in files:
        missing = tables_of(file) - loaded
        if call.check and file.path in call.paths:
            continue  # the file's own line says it
        for table in sorted(missing):
            call.did("nftables", table, Action.LOAD)
        if missing and not call.check:
            must(LOADERS[NFTABLES], file.path, file.content)


# --- units ---


class Status(NamedTuple):
    """A unit as systemd has it; times are seconds of the monotonic clock, 0 for never."""

    load: str
    active: str
    file: str
    stale: bool  # its files changed since systemd read them
    wanted: bool  # another unit pulls it in
    started_at: float
    changed_at: float


def status_of(block: str) -> Status:
    value = dict(line.partition("=")[::2] for line in block.splitlines())
    return Status(
        value["LoadState"],
        value["ActiveState"],
        value["UnitFileState"],
        value["NeedDaemonReload"] == "yes",
        bool(value["WantedBy"] or value["RequiredBy"]),
        int(value["ActiveEnterTimestampMonotonic"]) / 1e6,
        int(value["StateChangeTimestampMonotonic"]) / 1e6,
    )


def statuses(units: Sequence[Unit]) -> dict[str, Status]:
    if not units:
        return {}
    names = [unit.name for unit in units]
    done = run("systemctl", "show", f"--property={UNIT_PROPERTIES}", "--", *names)
    blocks = done.stdout.decode().strip().split("\n\n")
    if done.returncode or len(blocks) != len(names):
        raise Refused(f"systemctl show: {done.stderr.decode(errors='replace')}")
    return dict(zip(names, map(status_of, blocks), strict=True))


def written_at(path: str) -> float:
    """When the file or link was last written, in seconds of the monotonic clock.

    A unit that started before has not read it: so the next call does what one that died left undone. A directory's
    time says nothing, for its service may write there; nor does one in the future.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    now = time.time()
    known = not stat.S_ISDIR(status.st_mode) and status.st_mtime <= now
    return status.st_mtime - now + time.monotonic() if known else 0


def is_enabled(status: Status) -> bool:
    """Whether something starts it at boot; a static or generated unit (a quadlet) only when pulled in."""
    return status.file in ("enabled", "enabled-runtime", "alias") or (
        status.file in ("static", "generated") and status.wanted
    )


def actions_for(unit: Unit, status: Status, fresh: Callable[[str, float], bool]) -> list[Action]:
    """What leads from `status` to the document; `fresh(path, since)`: whether a path is newer than that."""
    actions = []
    if unit.enabled is not None and unit.enabled != is_enabled(status):
        actions.append(Action.ENABLE if unit.enabled else Action.DISABLE)
    if not unit.started:
        return [Action.STOP, *actions] if status.active in (*UP, "activating") else actions
    if status.active not in UP:
        return [*actions, Action.START]
    if status.stale or any(fresh(path, status.started_at) for path in unit.restart_on):
        return [*actions, Action.RESTART]
    reload = any(fresh(path, status.changed_at) for path in unit.reload_on)
    return [*actions, Action.RELOAD] if reload else actions


def act(call: Call, unit: Unit, status: Status, allowed: frozenset[Action]) -> bool:
    """Do the due ones of the allowed actions; whether there were any."""
    actions = actions_for(unit, status, lambda path, since: path in call.paths or written_at(path) > since)
    due = [action for action in actions if action in allowed]
    for action in due:
        call.did("unit", unit.name, action)
        if call.check:
            continue
        if status.active == "failed" and action is Action.START:
            run("systemctl", "reset-failed", "--", unit.name)  # else a spent start limit outlives its cause
        try:
            must(("systemctl", action.name.lower(), "--", unit.name), unit.name)
        except Refused as refusal:
            raise Refused(f"{refusal}\n{journal_of(unit)}") from None
    return bool(due)


def journal_of(unit: Unit) -> str:
    """The last 20 lines that the unit wrote, and what the quadlet generator says if there is one."""
    lines = run("journalctl", "--unit", unit.name, "--lines=20", "--no-pager", "--quiet").stdout
    with contextlib.suppress(Refused):
        lines += run(QUADLET, "--dryrun").stderr[-1000:]
    return f"its last journal lines:\n{lines.decode(errors='replace')}"


def ensure_definitions(call: Call, units: Sequence[Unit], before: dict[str, Status]) -> dict[str, Status]:
    """Have systemd read its unit files again when this call, or one that died, changed them."""
    changed = any(path.startswith(UNIT_FOLDERS) for path in call.paths)
    unread = any(status.stale for status in before.values())
    unknown = not call.check and any(before[unit.name].load == "not-found" and unit.started for unit in units)
    if not (changed or unread or unknown):
        return before
    call.did("systemd", "unit files", Action.RELOAD)
    if call.check:
        return before
    must(("systemctl", "daemon-reload"), "unit files")
    return {name: status._replace(stale=before[name].stale) for name, status in statuses(units).items()}


def ensure_units(call: Call, units: Sequence[Unit], before: dict[str, Status]) -> None:
    now = ensure_definitions(call, units, before)
    allowed = frozenset(Action) if call.check else frozenset(Action) - DOWN
    acted = [unit for unit in units if act(call, unit, now[unit.name], allowed)]
    if call.check:
        return
    after = statuses(acted)
    for unit in acted:
        status = after[unit.name]
        if unit.started and status.active not in UP:
            raise Refused(f"{unit.name}: is {status.active} after its start\n{journal_of(unit)}")
        if unit.enabled is not None and unit.enabled != is_enabled(status):
            raise Refused(
                f"{unit.name}: enabled cannot be {unit.enabled}: its unit file is {status.file or 'missing'}"
            )


# --- all of it ---


def converge(call: Call, document: Document) -> None:
    """Bring the host to the document, in an order in which each thing finds what it needs."""
    before = statuses(document.units)
    if not call.check:  # while their files are still there
        stopped = [unit for unit in document.units if act(call, unit, before[unit.name], DOWN)]
        before |= statuses(stopped)
    for path in sorted(document.absent, key=len, reverse=True):
        ensure_absent(call, path)
    of = {
        kind: [file for file in document.files if file.kind == kind]
        for kind in (SYSUSERS, TMPFILES, SYSCTL, NFTABLES)
    }
    directories = sorted(document.directories, key=lambda item: item.path.count("/"))
    above_accounts = [
        item for item in directories if of[SYSUSERS] and f"{SYSUSERS}/".startswith(f"{item.path}/")
    ]
    for item in above_accounts:
        ensure_directory(call, item)
    for file in of[SYSUSERS]:
        ensure_file(call, file)
        ensure_accounts(call, file)
    for item in directories:
        if item not in above_accounts:
            ensure_directory(call, item)
    for file in of[TMPFILES]:
        ensure_tmpfiles(call, file)
    for file in document.files:
        if file.kind not in (SYSUSERS, TMPFILES):
            ensure_file(call, file)
    for link in document.links:
        ensure_link(call, link)
    for file in of[SYSCTL]:
        ensure_settings(call, file)
    ensure_tables(call, of[NFTABLES])
    ensure_units(call, document.units, before)


def respond(arguments: dict[str, Any]) -> dict[str, object]:
    """Ansible's result for the task's arguments; a refusal fails it, with what was done until then."""
    own = {key: value for key, value in arguments.items() if not key.startswith("_ansible_")}
    call = Call(check=bool(arguments["_ansible_check_mode"]), diff=bool(arguments["_ansible_diff"]))
    result: dict[str, object] = {}
    try:
        converge(call, document_of(own))
    except Refused as refusal:
        result = {"failed": True, "msg": str(refusal)}
    except OSError as error:
        result = {"failed": True, "msg": f"{error.filename or 'host_state'}: {error.strerror}"}
    result |= {"changed": bool(call.resources), "resources": call.resources}
    result |= {"diff": call.diffs} if call.diff else {}
    return result | ({"warnings": call.warnings} if call.warnings else {})


if __name__ == "__main__":
    answer = respond(json.loads(ARGUMENTS))
    sys.stdout.write(json.dumps(answer))
    sys.exit(bool(answer.get("failed")))
