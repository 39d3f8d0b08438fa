#!/usr/bin/python3
"""Bring one role's directories, files, links and units to their declared state, in one call.

Runs on the host from standard input, so it imports little. host_state.yml beside it documents the task.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import shlex
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Ansible replaces the marker with ASCII JSON, which never has three bare quotes in a row; a raw literal pairs
# backslashes as JSON does. So no content can end the literal; true, null and surrogates stay json's affair.
ARGUMENTS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""

# A file's kind is the folder that Debian's own tool reads, or the path of the one file that it is.
SYSUSERS = "/etc/sysusers.d"
TMPFILES = "/etc/tmpfiles.d"
SYSCTL = "/etc/sysctl.d"
SUDOERS = "/etc/sudoers.d"
NFTABLES = "/etc/tenantfleet/nftables.d"
SSHD = "/etc/ssh/sshd_config"
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
# A table without its counters: the kernel's own, and the one that a file makes in an empty network namespace.
KERNEL = ("nft", "--json", "--stateless", "list", "table")
UNTOUCHED = ("unshare", "--net", "sh", "-c", f'nft -f - && exec {" ".join(KERNEL)} "$@"', "sh")
NFT_TABLE = r"(?:(?:add|create|delete|destroy|flush) )?table(?: (ip6?|inet|arp|bridge|netdev))? (\w[\w-]*)"
NFT_STATEMENT = rf"{NFT_TABLE}|define .+"
DIRECTORY_LINE = r"[dD] (/[\w/.@+-]*\w)/? (?:-|([0-7]{3,4})) (?:-|([\w-]+)) (?:-|([\w-]+))"
UNIT_FOLDERS = ("/etc/systemd/system/", "/etc/containers/systemd/")
UNIT_PROPERTIES = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,WantedBy,RequiredBy"
UNIT_TIMES = "ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic"
UP = ("active", "reloading", "refreshing")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8"}
KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFREG: "file"}
SHOWN_BYTES = 1 << 18  # of an old file in a diff
Action = Literal["created", "updated", "removed", "set", "loaded", "reloaded"]
UnitAction = Literal["enabled", "disabled", "started", "stopped", "restarted", "reloaded"]
VERBS: dict[UnitAction, str] = {"enabled": "enable", "started": "start", "restarted": "restart"}
VERBS |= {"disabled": "disable", "stopped": "stop", "reloaded": "reload"}
DOWN: frozenset[UnitAction] = frozenset({"disabled", "stopped"})


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
}
FIELDS |= {"absent": [PATH], "restart_on": [PATH], "reload_on": [PATH]}
FIELDS |= {"directories": [Directory], "files": [File], "links": [Link], "units": [Unit]}


def parsed(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - `kind` says what comes out
    """`value` as a `kind`: a scalar, a list of one kind, or a mapping of exactly a tuple's fields."""
    if isinstance(kind, Scalar):
        if type(value) is not kind.kind or not re.fullmatch(kind.pattern, str(value)):
            raise Refused(f"{where}: must be {kind.what}, not {value!r:.80}")
        return kind.convert(value)
    shape: type[Any] = list if isinstance(kind, list) else dict
    if not isinstance(value, shape):
        raise Refused(f"{where}: must be a {shape.__name__}, not {value!r:.80}")
    if isinstance(kind, list):
        return tuple(parsed(kind[0], item, f"{where}[{at}]") for at, item in enumerate(value))
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
    while text != (text := re.sub(r"\{[^{}]*\}", ";", text)):
        pass
    tables = set()
    for sentence in filter(None, (" ".join(part.split()) for part in re.split("[;\n]", text))):
        if not (match := re.fullmatch(NFT_STATEMENT, sentence)):
            raise Refused(f"{file.path}: {sentence!r}: may only name its own table")
        if match[2]:
            tables.add(f"table {match[1] or 'ip'} {match[2]}")
    if len({table.split()[-1] for table in tables}) != 1:
        raise Refused(f"{file.path}: must name one table, not {', '.join(sorted(tables)) or 'none'}")
    return tables


def rules_of(listing: bytes) -> object:
    """A table's sets and rules, without what differs from load to load: handles, and callers in a set."""

    def lasting(item: dict[str, object]) -> dict[str, object]:
        passing = {"handle", "elem"} if "timeout" in item else {"handle"}
        return {key: value for key, value in item.items() if key not in passing}

    return json.loads(listing or b"null", object_hook=lasting)


def number_of(name: str, find: Callable[[str], Sequence[Any]], planned: Mapping[str, int] = {}) -> int:
    """Uid or gid, -1 for nobody; both databases have it third."""
    with contextlib.suppress(KeyError):
        return int(find(name)[2])
    return planned.get(name, -1)


def run(argv: Sequence[str], what: str = "", content: bytes = b"", more: Callable[[], str] = str) -> bytes:
    """A program's output; when it fails in `what`, a refusal in its own words and `more` to read."""
    try:
        done = subprocess.run(argv, input=content, capture_output=True, check=False, env=ENVIRONMENT)
    except FileNotFoundError:
        done = subprocess.CompletedProcess(argv, 127, b"", b"is not installed")
    if done.returncode and what:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise Refused(f"{what}: {' '.join(argv)}: {said[-2000:]}{more()}")
    return done.stdout


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
            follow = 0 if status.st_uid == 0 and not status.st_mode & 0o022 else os.O_NOFOLLOW
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | follow, dir_fd=here)
            os.close(here)
            here = below
        yield here, name
    except NotADirectoryError:
        raise Refused(f"{path}: on its way is no directory, or a link that not only root can make") from None
    finally:
        os.close(here)


class Found(NamedTuple):
    kind: str  # of KINDS, or "nothing"
    owner: tuple[int, int, int] = (-1, -1, 0)  # uid, gid, mode
    content: bytes = b""  # of a file as far as asked for, or the target of a link

    @property
    def change(self) -> Action:
        return "created" if self.kind == "nothing" else "updated"


def look(path: str, *kinds: str, limit: int = 0) -> Found:
    """What is at `path`, itself not followed, with `limit` bytes of content; refused if not of `kinds`."""
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


def shown(found: Found, wanted: tuple[int, int, int] | None = None) -> str:
    """The old side of a diff; a file closed to others and not yet as wanted may hold somebody's secret."""
    if found.kind == "file" and not found.owner[2] & stat.S_IROTH and found.owner != wanted:
        return f"(not shown: mode {found.owner[2]:04o})\n"
    return found.content.decode(errors="replace")


def attributes(owner: tuple[int, int, int]) -> dict[str, object]:
    return {"owner": owner[0], "group": owner[1], "mode": f"{owner[2]:04o}"}


def account_gap(line: str, where: str) -> bool:
    """Whether a line of sysusers.d is unfulfilled; a refusal when it never will be."""
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
            raise Refused(f"{where}: {name} exists with {actual}, not {asked}; only a person changes that")
    return False


def declared_directories(file: File) -> Iterator[Directory]:
    """Those of the plain `d` lines; the other lines take effect when the file changes, or at boot."""
    for line in file.lines:
        fields = " ".join((*line.split(), "-", "-", "-")[:5])
        if match := re.fullmatch(DIRECTORY_LINE, fields):
            path, mode, owner, group = match.groups()
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


def statuses(units: Sequence[Unit]) -> dict[str, dict[str, str]]:
    """Each unit's properties, from one question to systemd."""
    names = [unit.name for unit in units]
    command = ("systemctl", "show", f"--property={UNIT_PROPERTIES},{UNIT_TIMES}", "--", *names)
    blocks = run(command, "units").decode().strip().split("\n\n") if names else []
    properties = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks)
    return dict(zip(names, properties, strict=True))


def is_enabled(status: Mapping[str, str]) -> bool:
    """Whether something starts it at boot; a static or generated unit (a quadlet) only when pulled in."""
    if status["UnitFileState"] in ("static", "generated"):
        return bool(status["WantedBy"] or status["RequiredBy"])
    return status["UnitFileState"] in ("enabled", "enabled-runtime", "alias")


def actions_for(unit: Unit, status: Mapping[str, str], written: Callable[[str], float]) -> list[UnitAction]:
    """What leads from `status` to the document; `written(path)`: when, on the monotonic clock."""
    actions: list[UnitAction] = []
    if unit.enabled is not None and unit.enabled != is_enabled(status):
        actions.append("enabled" if unit.enabled else "disabled")
    if unit.state == "stopped":
        return ["stopped", *actions] if status["ActiveState"] in (*UP, "activating") else actions
    if status["ActiveState"] not in UP:
        return [*actions, "started"]
    started, changed = (int(status[name]) / 1e6 for name in UNIT_TIMES.split(","))
    if status["NeedDaemonReload"] == "yes" or any(written(path) > started for path in unit.restart_on):
        return [*actions, "restarted"]
    if any(written(path) > changed for path in unit.reload_on):
        actions.append("reloaded")
    return actions


def journal_of(unit: Unit) -> str:
    """The last lines that the unit wrote or that systemd wrote of it, and why a quadlet became no unit."""
    matches = f"_SYSTEMD_UNIT={unit.name} + UNIT={unit.name} + SYSLOG_IDENTIFIER=quadlet-generator".split()
    lines = run(("journalctl", "--lines=20", "--no-pager", "--quiet", *matches))
    return f"\nits last journal lines:\n{lines.decode(errors='replace')}"


class Call:
    """One call: how it runs, and what it did or, in a check, would do."""

    def __init__(self, *, check: bool, diff: bool) -> None:
        self.check, self.diff = check, diff
        self.resources: list[dict[str, str]] = []
        self.diffs: list[dict[str, object]] = []
        self.warnings: list[str] = []
        self.paths: set[str] = set()  # created, updated or removed
        self.planned: dict[str, int] = {}  # accounts that were found missing, and their ids to be

    def did(self, kind: str, name: str, action: str, before: object = None, after: object = None) -> None:
        self.resources.append({"kind": kind, "name": name, "action": action})
        if kind in ("file", "directory", "link"):
            self.paths.add(name)
        if self.diff and before != after:
            self.diffs.append({"before_header": name, "after_header": name, "before": before, "after": after})

    def doubt(self, problem: str, *, early: bool) -> None:
        """Refuse; or only warn, in a check of a host that is not yet as the document says."""
        if not (self.check and early):
            raise Refused(problem)
        self.warnings.append(f"as the host is now: {problem}")

    def owner_of(self, item: Directory | File) -> tuple[int, int, int]:
        """Uid, gid and mode; an id is -1, nobody's, when a check goes on as the account is still to come."""
        uid = number_of(item.owner, pwd.getpwnam, self.planned)
        gid = number_of(item.group, grp.getgrnam, self.planned)
        for name, number in ((item.owner, uid), (item.group, gid)):
            if number < 0 and name not in self.planned:
                self.doubt(f"{item.path}: there is no user or group {name}", early=True)
        return uid, gid, item.mode

    def ensure_directory(self, item: Directory) -> None:
        found, wanted = look(item.path, "directory"), self.owner_of(item)
        if found.owner == wanted:
            return
        if not self.check:
            with parent_of(item.path) as (parent, name), contextlib.ExitStack() as stack:
                if found.kind == "nothing":
                    os.mkdir(name, 0o700, dir_fd=parent)
                handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                stack.callback(os.close, handle)
                os.fchown(handle, *wanted[:2])
                os.fchmod(handle, wanted[2])
        before = attributes(found.owner) if found.kind == "directory" else {}
        self.did("directory", item.path, found.change, before, attributes(wanted))

    def ensure_file(self, file: File) -> None:
        """The file as the document has it; its validator and its loader come first."""
        limit = max(len(file.content) + 1, SHOWN_BYTES if self.diff else 0)
        found, wanted = look(file.path, "file", "link", limit=limit), self.owner_of(file)
        same = found.kind == "file" and found.content == file.content
        if same and found.owner == wanted:
            return
        if not same:
            self.validate(file)
            if not self.check and file.kind in LOADERS:
                run(LOADERS[file.kind], file.path, file.content)
        if not self.check:
            with placing(file.path) as (parent, temporary):
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(file.content)
                    stream.flush()
                    os.fchown(handle, *wanted[:2])
                    os.fchmod(handle, file.mode)
                    os.fsync(handle)
        self.did("file", file.path, found.change, shown(found, wanted), file.content.decode())
        if self.diff and found.kind != "nothing" and found.owner != wanted:
            header = dict.fromkeys(("before_header", "after_header"), file.path)
            self.diffs.append({**header, "before": attributes(found.owner), "after": attributes(wanted)})

    def validate(self, file: File) -> None:
        try:
            if file.kind in VALIDATORS:
                run(VALIDATORS[file.kind], file.path, file.content)
        except Refused as refusal:  # premature, when what the document lists before is still to come
            self.doubt(str(refusal), early=bool(self.resources))

    def ensure_link(self, link: Link) -> None:
        found = look(link.path, "link")
        if found.content == link.target.encode():
            return
        if not self.check:
            with placing(link.path) as (parent, temporary):
                os.symlink(link.target, temporary, dir_fd=parent)
        self.did("link", link.path, found.change, shown(found), link.target)

    def ensure_absent(self, path: str) -> None:
        """Neither file nor link nor empty directory; what it brought (accounts, settings, rules) stays."""
        found = look(path, "file", "link", "directory", limit=SHOWN_BYTES if self.diff else 0)
        if found.kind == "nothing":
            return
        if found.kind == "directory":
            entries = sorted(os.listdir(path))  # noqa: PTH208 - importing pathlib costs 10 ms a call
            if left := [entry for entry in entries if f"{path}/{entry}" not in self.paths]:
                raise Refused(f"{path}: is not empty: {', '.join(left[:5])}")
        if not self.check:
            with parent_of(path) as (parent, name):
                (os.rmdir if found.kind == "directory" else os.unlink)(name, dir_fd=parent)
        self.did(found.kind, path, "removed", shown(found), "")

    def ensure_accounts(self, file: File) -> None:
        gaps = [line for line in file.lines if account_gap(line, file.path)]
        if gaps and not self.check:
            run(("systemd-sysusers", file.path), file.path)
            if left := [line for line in gaps if account_gap(line, file.path)]:
                raise Refused(f"{file.path}: systemd-sysusers left out {left[0]!r}")
        for line in gaps:
            name, number = line.split()[1], (*line.split(), "-")[2].partition(":")[0]
            self.did("account", name, "updated" if line[0] == "m" else "created")
            self.planned |= {name: int(number) if number.isdigit() else -1} if line[0] in "ug" else {}

    def ensure_settings(self, file: File) -> None:
        settings = settings_of(file)
        wrong = {key: live(key) for key in settings if live(key) != settings[key]}
        if not self.check and (wrong or file.path in self.paths):
            run(("/usr/lib/systemd/systemd-sysctl", "--strict", file.path), file.path)
        for key, before in wrong.items():
            if not self.check and live(key) != settings[key]:
                raise Refused(f"{file.path}: {key} is {live(key)!r} after {settings[key]!r} was written")
            self.did("sysctl", key, "set", before, settings[key])

    def ensure_tables(self, file: File) -> None:
        """The file's tables as the file makes them: a flush, a reboot or a hand may have changed them."""
        for table in () if self.check and file.path in self.paths else sorted(tables_of(file)):
            words = table.split()[1:]
            made = run((*UNTOUCHED, *words), file.path, file.content)
            if rules_of(run((*KERNEL, *words))) != rules_of(made):
                if not self.check:
                    run(LOADERS[NFTABLES], file.path, file.content)
                self.did("nftables", table, "loaded")

    def written_at(self, path: str) -> float:
        """When the file or link was last written, in seconds of the monotonic clock.

        A unit that started before has not read it: so the next call does what one that died left undone.
        A directory's time says nothing, for its service may write there; nor does one in the future.
        """
        if path in self.paths:
            return time.monotonic()
        with contextlib.suppress(OSError):
            status, now = os.lstat(path), time.time()
            if not stat.S_ISDIR(status.st_mode) and status.st_mtime <= now:
                return status.st_mtime - now + time.monotonic()
        return 0

    def act(self, unit: Unit, status: Mapping[str, str], allowed: frozenset[UnitAction]) -> bool:
        """Do the due ones of the allowed actions; whether there were any."""
        due = [action for action in actions_for(unit, status, self.written_at) if action in allowed]
        for action in due:
            if not self.check:
                run(("systemctl", "reset-failed", "--", unit.name))  # a spent start limit outlives its cause
                run(("systemctl", VERBS[action], "--", unit.name), unit.name, more=lambda: journal_of(unit))
            self.did("unit", unit.name, action)
        return bool(due)

    def ensure_units(self, units: Sequence[Unit], now: dict[str, dict[str, str]]) -> None:
        """Unit files read again when this call, or one that died, changed them; then each unit."""
        changed = any(path.startswith(UNIT_FOLDERS) for path in self.paths)
        unread = {name for name, status in now.items() if status["NeedDaemonReload"] == "yes"}
        unknown = any(u.state == "started" and now[u.name]["LoadState"] == "not-found" for u in units)
        if changed or unread or (unknown and not self.check):
            self.did("systemd", "unit files", "reloaded")
            if not self.check:
                run(("systemctl", "daemon-reload"), "unit files")
                now = statuses(units)
                now |= {name: now[name] | {"NeedDaemonReload": "yes"} for name in unread}
        allowed = frozenset(VERBS) - (frozenset() if self.check else DOWN)
        acted = [unit for unit in units if self.act(unit, now[unit.name], allowed)]
        for name, status in statuses([] if self.check else acted).items():
            unit = next(unit for unit in acted if unit.name == name)
            if unit.state == "started" and status["ActiveState"] not in UP:
                raise Refused(f"{name}: is {status['ActiveState']} after its start{journal_of(unit)}")
            if unit.enabled is not None and unit.enabled != is_enabled(status):
                raise Refused(f"{name}: its unit file is {status['UnitFileState']}, whatever `enabled` says")

    def ensure(self, item: Directory | File | Link) -> None:
        if isinstance(item, Directory):
            return self.ensure_directory(item)
        if isinstance(item, Link):
            return self.ensure_link(item)
        for directory in declared_directories(item) if item.kind == TMPFILES else ():
            self.ensure_directory(directory)
        self.ensure_file(item)
        more = {SYSUSERS: self.ensure_accounts, SYSCTL: self.ensure_settings, NFTABLES: self.ensure_tables}
        return more[item.kind](item) if item.kind in more else None

    def converge(self, document: Document) -> None:
        """Bring the host to the document: accounts before what they own, directories before their content."""
        units, files = document.units, document.files
        now = statuses(units)
        if not self.check:  # while their files are still there
            now |= statuses([unit for unit in units if self.act(unit, now[unit.name], DOWN)])
        accounts = tuple(file for file in files if file.kind == SYSUSERS)
        shallow = sorted(document.directories, key=lambda item: item.path.count("/"))
        above = tuple(item for item in shallow if accounts and f"{SYSUSERS}/".startswith(f"{item.path}/"))
        rest = sorted(files, key=lambda file: file.kind != TMPFILES)
        try:
            for path in sorted(document.absent, key=len, reverse=True):
                self.ensure_absent(path)
            items: tuple[Directory | File | Link, ...] = (*above, *accounts, *shallow, *rest, *document.links)
            for item in dict.fromkeys(items):
                path = item.path
                self.ensure(item)
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from None
        self.ensure_units(units, now)


def respond(arguments: dict[str, Any]) -> dict[str, object]:
    """Ansible's result for the task's arguments; a refusal fails it, with what was done until then."""
    own = {key: value for key, value in arguments.items() if not key.startswith("_ansible_")}
    call = Call(check=bool(arguments["_ansible_check_mode"]), diff=bool(arguments["_ansible_diff"]))
    failure = None
    try:
        call.converge(document_of(own))
    except Refused as refusal:
        failure = str(refusal)
    result: dict[str, object] = {"failed": True, "msg": failure} if failure else {}
    result |= {"changed": bool(call.resources), "resources": call.resources}
    return result | {"diff": call.diffs, "warnings": call.warnings}


if __name__ == "__main__":
    answer = respond(json.loads(ARGUMENTS))
    sys.stdout.write(json.dumps(answer))
    sys.exit(bool(answer.get("failed")))
