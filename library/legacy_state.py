#!/usr/bin/python3
"""Take away what an older product left on a host, keep what is to be kept, name what nobody listed.

Runs on the host from standard input. legacy_state.yml beside it documents the task.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# Ansible replaces the marker with ASCII JSON, which never has three bare quotes in a row.
ARGUMENTS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""

REMOVE, KEEP, UNKNOWN = "remove", "keep", "unknown"
SIGNS = {REMOVE: "-", KEEP: "=", UNKNOWN: "?"}
OURS = re.compile(r"(tf-|tenantfleet|openclaw|podman)")  # at the start of a name; never touched nor reported
OURS_INSIDE = (
    "/opt/tenantfleet/",
    "/usr/lib/systemd/",
    "/dev/null",
)  # where a link of ours or Debian's leads
PATH = r"(/(?!\.\.?(/|$))[ -.0-~]{1,200})+"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
KEYS = {  # of each mapping to remove or keep
    "projects": NAME,
    "containers": NAME,
    "networks": NAME,
    "images": r"(sha256:[0-9a-f]{64}|[a-z0-9][A-Za-z0-9._/:@-]{0,254})",
    "volumes": NAME,
    "units": r"[A-Za-z0-9:_.\\-]+\.(service|socket|timer|path|target|mount)",
    "cron_files": rf"/etc/cron\.(d|hourly|daily|weekly|monthly)/{NAME}",
    "nginx_sites": NAME,
    "paths": PATH,
}
# Too wide to be removed, and but for two to be a root: what Debian itself lays out.
WIDE = re.compile(r"/[^/]+|/(usr|var)/[^/]+")
WIDE_BUT_A_ROOT = {"/opt", "/srv"}
PROTECTED = (
    *("/opt/tenantfleet", "/etc/tenantfleet", "/var/lib/tenantfleet", "/usr/local/lib/tenantfleet"),
    *("/run", "/proc", "/sys", "/dev", "/boot", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share"),
    *("/etc/ssh", "/etc/systemd", "/etc/containers", "/etc/nginx", "/root/.ssh"),
    *(
        "/var/lib/containers",
        "/var/lib/docker",
        "/var/lib/containerd",
        "/var/lib/openclaw",
        "/var/log/journal",
    ),
)
DOCKER_SOCKET = "/run/docker.sock"
DOCKER_UNITS = ("docker.socket", "docker.service", "containerd.service")
BUILT_IN_NETWORKS = ("bridge", "host", "none", "ingress", "docker_gwbridge")
PROJECT = "com.docker.compose.project"
SYSTEM_UNITS = "/etc/systemd/system"
CRON_FOLDERS = [f"/etc/cron.{each}" for each in ("d", "hourly", "daily", "weekly", "monthly")]
CRONTABS = "/var/spool/cron/crontabs"
NGINX_FOLDERS = [f"/etc/nginx/{each}" for each in ("sites-enabled", "conf.d", "sites-available")]
ASIDE = ".legacy~"  # nginx reads no name that starts with a dot
CALL_S, STOP_S, AT_ONCE = 60, 30, 16
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8"}


class Refused(Exception):  # noqa: N818 - what the operator reads is a refusal
    """The inventory, or what the host holds, does not allow to go on; the text is for the operator."""


class Thing(NamedTuple):
    """One thing on the host; `ref` is what its own program calls it, `binds` what it mounts of the host."""

    kind: str
    name: str
    fate: str
    detail: str = ""
    ref: str = ""
    binds: tuple[str, ...] = ()

    def line(self) -> str:
        return f"{SIGNS[self.fate]} {self.kind} {self.name}{f'  ({self.detail})' if self.detail else ''}"


class Inventory(NamedTuple):
    """The declared things, name → remove or keep; an absent name is unknown."""

    fates: Mapping[str, Mapping[str, str]]
    crontabs: Mapping[str, Mapping[str, str]]
    roots: tuple[str, ...]
    docker: str  # keep or disable

    def fate(self, kind: str, name: str) -> str:
        return self.fates[kind].get(name, UNKNOWN)

    def listed(self, kind: str) -> Iterable[tuple[str, str]]:
        return self.fates[kind].items()


def is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above.rstrip('/')}/")


def fates_of(value: object, where: str, pattern: str) -> dict[str, str]:
    """A mapping of names to remove or keep."""
    if not isinstance(value, dict):
        raise Refused(f"{where}: must be a mapping of names to `remove` or `keep`, not {value!r:.80}")
    for name, fate in value.items():
        if not isinstance(name, str) or not re.fullmatch(pattern, name):
            raise Refused(f"{where}: {name!r:.120} is not an exact name of that kind")
        if fate not in (REMOVE, KEEP):
            raise Refused(f"{where}.{name}: must be `remove` or `keep`, not {fate!r:.80}")
    return value


def refuse_paths(roots: Iterable[str], paths: Mapping[str, str], protected: Iterable[str]) -> None:
    """Every path lies in a declared root, and neither holds nor lies in what is not the older product's."""
    for root in roots:
        if not re.fullmatch(PATH, root) or (WIDE.fullmatch(root) and root not in WIDE_BUT_A_ROOT):
            raise Refused(f"roots: {root!r:.120} is too wide, or not a normal absolute path")
    for path, fate in paths.items():
        if not any(is_below(path, root) for root in roots):
            raise Refused(f"paths: {path} lies in none of the declared roots")
        if WIDE.fullmatch(path):
            raise Refused(f"paths: {path} is too wide to be one thing")
        if near := [each for each in protected if is_below(path, each) or is_below(each, path)]:
            raise Refused(f"paths: {path} touches {near[0]}, which is not the older product's")
        for kept in (other for other, its in paths.items() if its == KEEP and fate == REMOVE):
            if is_below(kept, path):
                raise Refused(
                    f"paths: {path} is to go and {kept} in it to stay: list its other parts instead"
                )


def inventory_of(arguments: dict[str, Any]) -> Inventory:
    """The inventory, or a refusal of what is unknown, of a wrong type, or reaches too far."""
    if unknown := set(arguments) - {"version", "inventory", "timeout_s"}:
        raise Refused(f"unknown key {min(map(str, unknown))!r}")
    if type(arguments.get("version")) is not int or arguments["version"] != 1:
        raise Refused("version: must be 1, the one that this legacy_state knows")
    declared = arguments.get("inventory")
    if not isinstance(declared, dict):
        raise Refused(f"inventory: must be a mapping, not {declared!r:.80}")
    if unknown := set(declared) - {"roots", "crontabs", "docker", *KEYS}:
        raise Refused(f"inventory: unknown key {min(map(str, unknown))!r}")
    if (docker := declared.get("docker", KEEP)) not in (KEEP, "disable"):
        raise Refused(f"docker: must be `keep` or `disable`, not {docker!r:.80}")
    roots, crontabs = declared.get("roots", []), declared.get("crontabs", {})
    if not isinstance(roots, list) or not all(isinstance(root, str) for root in roots):
        raise Refused("roots: must be a list of paths")
    fates = {key: fates_of(declared.get(key, {}), key, pattern) for key, pattern in KEYS.items()}
    if not isinstance(crontabs, dict) or not all(re.fullmatch(NAME, str(user)) for user in crontabs):
        raise Refused("crontabs: must be a mapping of users to their lines")
    lines = {user: fates_of(of, f"crontabs.{user}", r"[^\n]*\S[^\n]*") for user, of in crontabs.items()}
    for key, names in fates.items():
        # docker's own names cannot be confused: podman's things are not in dockerd
        if key in ("units", "cron_files", "nginx_sites") and (
            ours := [name for name in names if OURS.match(name.rpartition("/")[2])]
        ):
            raise Refused(f"{key}: {ours[0]} has a name of this platform's own; it is never touched")
    refuse_paths(roots, fates["paths"], PROTECTED)
    return Inventory(fates, lines, tuple(roots), docker)


def run(*argv: str, what: str = "", timeout_s: int = 2 * CALL_S) -> str:
    """A program's output; when it fails in `what`, a refusal in its own words."""
    try:
        done = subprocess.run(
            argv, capture_output=True, check=False, env=ENVIRONMENT, text=True, timeout=timeout_s
        )
    except FileNotFoundError:
        done = subprocess.CompletedProcess(argv, 127, "", "is not installed")
    except subprocess.TimeoutExpired:
        raise Refused(f"{what or argv[0]}: {' '.join(argv)} took longer than {timeout_s} s") from None
    if done.returncode and what:
        raise Refused(f"{what}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def entries(folder: str) -> list[str]:
    """Names in a folder, none when there is no such folder; temporary names and placeholders are nobody's."""
    try:
        return sorted(name for name in os.listdir(folder) if name[0] != "." or name.endswith(ASIDE))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_ours(path: str) -> bool:
    """Whether this platform wrote the file, by its name, by where the link leads, or by its first line."""
    if OURS.match(path.rpartition("/")[2]) or os.path.realpath(path).startswith(OURS_INSIDE):
        return True
    with contextlib.suppress(OSError), open(path, "rb") as stream:  # noqa: PTH123
        return stream.readline(200).startswith(b"# Managed by tenantfleet")
    return False


def foreign(paths: Iterable[str]) -> list[str]:
    """Those that neither this platform nor a Debian package put there."""
    mine = [path for path in paths if not is_ours(path)]
    real = {path: os.path.realpath(path) for path in mine}
    owned = run("dpkg-query", "-S", *real.values()) if real else ""
    packaged = {line.partition(": ")[2] for line in owned.splitlines()}
    return [path for path in mine if real[path] not in packaged]


@contextlib.contextmanager
def parent_of(path: str) -> Iterator[tuple[int, str]]:
    """The open directory that holds `path`, and its last name. No symbolic link is followed on the way."""
    *folders, name = path[1:].split("/")
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        yield here, name
    except NotADirectoryError:
        raise Refused(f"{path}: a symbolic link, or no directory, is on the way to it") from None
    finally:
        os.close(here)


def kind_at(path: str) -> str:
    """What is at a path: file, directory, link, other, or empty when nothing is."""
    try:
        with parent_of(path) as (parent, name):
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return ""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "other")


def remove_path(path: str) -> None:
    """A file, a link (not what it leads to) or a whole directory without crossing into another mount."""
    with contextlib.suppress(FileNotFoundError), parent_of(path) as (parent, name):
        if kind_at(path) == "directory":
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)


def mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:  # noqa: PTH123
        fields = [line.split()[4] for line in stream]
    return [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field) for field in fields]


class Engine(http.client.HTTPConnection):
    """dockerd's API on its socket: it takes no shell, no program of docker's, and answers in JSON."""

    def __init__(self) -> None:
        super().__init__("docker", timeout=CALL_S)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(DOCKER_SOCKET)

    def ask(self, method: str, path: str) -> Any:  # noqa: ANN401 - whatever the API says
        """Its answer; None when the thing is not there, as an interrupted run may have removed it."""
        try:
            self.request(method, path)
            answer = self.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"dockerd: {method} {path}: {error or type(error).__name__}") from None
        if answer.status in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.NOT_MODIFIED):
            return None
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise Refused(f"dockerd: {method} {path}: {said.decode(errors='replace').strip()[:500]}")
        return json.loads(said) if said.strip() else None


def unit_properties(*names: str) -> list[dict[str, str]]:
    """Each unit's state, from one question to systemd."""
    if not names:
        return []
    asked = "--property=Id,LoadState,ActiveState,UnitFileState,FragmentPath,TriggeredBy"
    blocks = run("systemctl", "show", asked, "--", *names, what="units").strip().split("\n\n")
    return [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]


def container_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A container of dockerd's list, without the nulls that one half removed has."""
    return {**raw, "Names": raw["Names"] or [], "Labels": raw["Labels"] or {}, "Mounts": raw["Mounts"] or []}


class Survey:
    """What there is on the host now, each thing with its fate; changes nothing."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.things: list[Thing] = []
        self.notes: list[str] = []
        self.data_root = data_root()
        units = unit_properties(*DOCKER_UNITS)
        self.docker_units = [unit for unit in units if unit["LoadState"] not in ("not-found", "masked")]
        # asked of systemd first: a connection to the socket alone would start dockerd, and all its containers
        self.engine = Engine() if units[1]["ActiveState"] == "active" else None
        self.look_at_units()
        self.look_at_cron()
        if self.engine:
            self.look_at_docker(self.engine)
        else:
            self.look_at_docker_on_disk()
        self.look_at_nginx()
        self.look_at_paths()
        self.look_at_engine()

    def of(self, *kinds: str, fate: str = "") -> list[Thing]:
        return [thing for thing in self.things if thing.kind in kinds and fate in ("", thing.fate)]

    def found(self, kind: str, name: str, fate: str, detail: str = "", ref: str = "") -> None:
        self.things.append(Thing(kind, name, fate, detail, ref or name))

    def look_at_docker(self, engine: Engine) -> None:
        parts = [part["Name"] for part in engine.ask("GET", "/version").get("Components", [])]
        if "Podman Engine" in parts:
            raise Refused(f"behind {DOCKER_SOCKET} is podman, which is the tenant's own")
        info = engine.ask("GET", "/info")
        self.data_root = info["DockerRootDir"]
        if info["Swarm"]["LocalNodeState"] != "inactive":
            raise Refused(
                "dockerd is part of a swarm, which would start again what is removed: leave it first"
            )
        containers = [container_of(each) for each in engine.ask("GET", "/containers/json?all=1")]
        for each in containers:
            self.things.append(self.container(each))
        using = [(thing, each) for thing, each in zip(self.of("container"), containers, strict=True)]
        staying = [(thing, each) for thing, each in using if thing.fate != REMOVE]
        projects = {each["Labels"][PROJECT] for each in containers if PROJECT in each["Labels"]}
        for each in engine.ask("GET", "/networks"):
            if each["Name"] not in BUILT_IN_NETWORKS:
                users = [t for t, c in staying if each["Name"] in c["NetworkSettings"]["Networks"]]
                projects.add((each["Labels"] or {}).get(PROJECT, ""))
                self.docker_thing("network", each["Name"], each["Labels"], users, ref=each["Id"])
        for each in engine.ask("GET", "/volumes")["Volumes"] or []:
            users = [t for t, c in staying if each["Name"] in [m.get("Name") for m in c["Mounts"]]]
            projects.add((each["Labels"] or {}).get(PROJECT, ""))
            anonymous = [t.name for t, c in using if each["Name"] in [m.get("Name") for m in c["Mounts"]]]
            note = f", of {anonymous[0]}" if anonymous else ""
            self.docker_thing(
                "volume", each["Name"], each["Labels"], users, detail=f"{each['Mountpoint']}{note}"
            )
        for each in engine.ask("GET", "/images/json"):
            users = [t for t, c in staying if c["ImageID"] == each["Id"]]
            for tag in [tag for tag in each["RepoTags"] or [] if tag != "<none>:<none>"] or [each["Id"]]:
                self.docker_thing("image", tag, None, users, detail=f"{each['Size'] // 10**6} MB")
        for name in sorted(projects - {""} - self.inventory.fates["projects"].keys()):
            self.found("project", name, UNKNOWN, "a compose project that the inventory does not list")

    def container(self, each: Mapping[str, Any]) -> Thing:
        name = next((name[1:] for name in each["Names"] if name.count("/") == 1), each["Id"])
        project = each["Labels"].get(PROJECT, "")
        fate = self.inventory.fate("containers", name)
        if fate == UNKNOWN and project:
            fate = self.inventory.fate("projects", project)
        detail = ", ".join(filter(None, (project and f"project {project}", each["Image"], each["State"])))
        sources = tuple(mount["Source"] for mount in each["Mounts"] if mount["Type"] == "bind")
        return Thing("container", name, fate, detail, each["Id"], sources)

    def docker_thing(
        self,
        kind: str,
        name: str,
        labels: Mapping[str, str] | None,
        users: list[Thing],
        *,
        detail: str = "",
        ref: str = "",
    ) -> None:
        """A network goes with its project; an image or a volume only when it is itself listed."""
        project = (labels or {}).get(PROJECT, "")
        fate = self.inventory.fate(f"{kind}s", name)
        if fate == UNKNOWN and project:
            its = self.inventory.fate("projects", project)
            fate = its if its == KEEP or kind == "network" else UNKNOWN
        if fate == REMOVE and users:
            raise Refused(
                f"{kind} {name} is to go, but {users[0].kind} {users[0].name}, which stays, uses it"
            )
        if fate == UNKNOWN and (kept := [user for user in users if user.fate == KEEP]):
            fate, detail = KEEP, f"{detail}, used by {kept[0].name}"
        self.found(kind, name, fate, ", ".join(filter(None, (project and f"project {project}", detail))), ref)

    def look_at_docker_on_disk(self) -> None:
        """Without dockerd running. It is not started here: that would start every container it knows."""
        containers = entries(f"{self.data_root}/containers")
        volumes = [
            name
            for name in entries(f"{self.data_root}/volumes")
            if name not in ("metadata.db", "backingFsBlockDev")
        ]
        held = [("volume", name, f"{self.data_root}/volumes/{name}/_data") for name in volumes]
        held += [("image", tag, f"in {self.data_root}") for tag in tags_on_disk(self.data_root)]
        doomed = [name for kind, name, _ in held if self.inventory.fate(f"{kind}s", name) == REMOVE]
        if containers or doomed:
            raise Refused(
                f"dockerd is not running, and {self.data_root} holds {len(containers)} containers and "
                f"{len(doomed)} volumes or images to remove. Nothing was changed. Start it (`systemctl "
                "unmask docker.service docker.socket containerd.service; systemctl start docker.service`; it "
                "starts its containers too) and run this again"
            )
        for kind, name, detail in held:
            self.found(kind, name, self.inventory.fate(f"{kind}s", name), detail)

    def look_at_units(self) -> None:
        listed = dict(self.inventory.listed("units"))
        for unit in unit_properties(*listed):
            name, path = unit["Id"], unit["FragmentPath"]
            links = [
                f"{SYSTEM_UNITS}/{folder}/{name}"
                for folder in entries(SYSTEM_UNITS)
                if folder.endswith((".wants", ".requires"))
            ]
            if unit["LoadState"] == "masked":  # it cannot be started by anything
                continue
            if unit["LoadState"] == "not-found" and not any(
                map(os.path.lexists, [f"{SYSTEM_UNITS}/{name}", *links])
            ):
                continue
            if listed.get(name) != REMOVE:
                self.found("unit", name, KEEP, unit["ActiveState"])
                continue
            if path and (not is_below(path, SYSTEM_UNITS) or is_ours(path)):
                raise Refused(
                    f"unit {name} is {path}, a package's or this platform's: remove its package instead"
                )
            if woken := [each for each in unit["TriggeredBy"].split() if listed.get(each) != REMOVE]:
                raise Refused(f"unit {name} is started by {woken[0]}: list that one to be removed too")
            self.found(
                "unit", name, REMOVE, f"{unit['ActiveState']}, {unit['UnitFileState'] or 'not installed'}"
            )
        files = [
            f"{SYSTEM_UNITS}/{name}" for name in entries(SYSTEM_UNITS) if re.fullmatch(KEYS["units"], name)
        ]
        for path in foreign(path for path in files if path.rpartition("/")[2] not in listed):
            self.found("unit", path.rpartition("/")[2], UNKNOWN, path)

    def look_at_cron(self) -> None:
        fates = self.inventory.fates["cron_files"]
        files = [f"{folder}/{name}" for folder in CRON_FOLDERS for name in entries(folder)]
        unowned = foreign(files)
        for path in files:
            if path in fates and fates[path] == REMOVE and path not in unowned:
                raise Refused(f"{path} is a package's or this platform's")
            if path in fates or path in unowned:
                self.found("cron file", path, fates.get(path, UNKNOWN))
        for user in entries(CRONTABS):
            fates = self.inventory.crontabs.get(user, {})
            for number, line in enumerate(crontab_lines(user), start=1):
                if line.strip() and not line.lstrip().startswith("#"):
                    fate = fates.get(line.strip(), UNKNOWN)
                    shown = line.strip() if fate != UNKNOWN else f"line {number}: {guarded(line)}"
                    self.found("crontab", f"{user}: {shown}", fate, "", user)

    def look_at_nginx(self) -> None:
        fates = self.inventory.fates["nginx_sites"]
        files = [f"{folder}/{name}" for folder in NGINX_FOLDERS for name in entries(folder)]
        unowned = foreign(files)
        for path in files:
            name = path.rpartition("/")[2]
            if name.endswith(ASIDE):  # a run that died had taken it out already
                name = name.removeprefix(".").removesuffix(ASIDE)
            fate = fates.get(name, UNKNOWN)
            if fate == REMOVE and path not in unowned:
                raise Refused(f"{path} is a package's or this platform's")
            if fate != UNKNOWN or (path in unowned and not path.startswith(NGINX_FOLDERS[2])):
                self.found("nginx site", name, fate, path, path)

    def look_at_paths(self) -> None:
        fates, mounted = self.inventory.fates["paths"], mounts()
        stays = [thing for thing in self.of("container") if thing.fate != REMOVE]
        refuse_paths(self.inventory.roots, fates, [self.data_root])
        for path, fate in fates.items():
            if not (kind := kind_at(path)):
                continue
            if fate == REMOVE and (inside := [each for each in mounted if is_below(each, path)]):
                raise Refused(f"paths: {inside[0]} is mounted there: unmount it first")
            if fate == REMOVE and not foreign([path]):
                raise Refused(f"paths: {path} is a package's or this platform's")
            if fate == REMOVE and (
                users := [each for each in stays if any(is_below(at, path) for at in each.binds)]
            ):
                raise Refused(
                    f"paths: {path} is to go, but container {users[0].name}, which stays, has it mounted"
                )
            self.found("path", path, fate, kind)
        for root in self.inventory.roots:
            if fates.get(root) != REMOVE and kind_at(root) == "directory":
                for path in foreign(f"{root}/{name}" for name in entries(root)):
                    if not any(is_below(path, each) or is_below(each, path) for each in [*fates, *PROTECTED]):
                        self.found("path", path, UNKNOWN, kind_at(path))

    def look_at_engine(self) -> None:
        """The engine goes when the inventory says so and no container needs it; its data stays."""
        staying = [thing for thing in self.of("container") if thing.fate != REMOVE]
        goes = self.inventory.docker == "disable" and not staying
        detail = f"stop, disable and mask; data stays in {self.data_root}"
        if not goes:
            detail = f"container {staying[0].name} needs it" if staying else "the inventory keeps it"
        others = [name for name in entries("/run/containerd/io.containerd.runtime.v2.task") if name != "moby"]
        for unit in self.docker_units:
            if unit["Id"] != "containerd.service" or not others:
                self.found("engine", unit["Id"], REMOVE if goes else KEEP, detail)
        running = bool(self.engine) and not goes
        if self.inventory.docker == "disable" and not running and os.path.exists("/sys/class/net/docker0"):  # noqa: PTH110
            self.notes.append(
                "docker's bridges and packet filter rules stay in the kernel until the next boot"
            )

    def of_fate(self, fate: str) -> list[Thing]:
        return [thing for thing in self.things if thing.fate == fate]


def data_root() -> str:
    """Where dockerd keeps its data, by its own configuration."""
    with contextlib.suppress(OSError, ValueError), open("/etc/docker/daemon.json", "rb") as stream:  # noqa: PTH123
        return str(json.load(stream).get("data-root", "/var/lib/docker"))
    return "/var/lib/docker"


def tags_on_disk(root: str) -> list[str]:
    """Names of dockerd's images by its own record, which is there also while it does not run."""
    tags: list[str] = []
    for driver in entries(f"{root}/image"):
        with contextlib.suppress(OSError), open(f"{root}/image/{driver}/repositories.json", "rb") as stream:  # noqa: PTH123
            names = [name for its in json.load(stream)["Repositories"].values() for name in its]
            tags += sorted(name for name in names if "@" not in name)
    return tags


def crontab_lines(user: str) -> list[str]:
    with open(f"{CRONTABS}/{user}", encoding="utf-8", errors="surrogateescape") as stream:  # noqa: PTH123
        return stream.read().splitlines()


def guarded(line: str) -> str:
    """A crontab line that nobody listed, up to its program: what follows may hold a password."""
    if setting := re.match(r"\s*\w+\s*=", line):
        return f"{setting[0].strip()} …"
    words = line.split()
    return " ".join([*words[: 2 if words[0].startswith("@") else 6], "…"])


def remove_units(units: list[Thing]) -> None:
    """What starts others first; then the files, so that nothing is left to be started by."""
    for unit in sorted(units, key=lambda each: each.name.endswith((".service", ".target"))):
        run("systemctl", "stop", "--", unit.name)
        if run("systemctl", "is-active", "--", unit.name).strip() in ("active", "deactivating", "reloading"):
            raise Refused(f"unit {unit.name} does not stop")
        run("systemctl", "disable", "--", unit.name)
        folders = [each for each in entries(SYSTEM_UNITS) if each.endswith((".wants", ".requires"))]
        for path in (unit.name, f"{unit.name}.d", *(f"{folder}/{unit.name}" for folder in folders)):
            remove_path(f"{SYSTEM_UNITS}/{path}")
    run("systemctl", "daemon-reload", what="unit files")
    for unit in units:
        run("systemctl", "reset-failed", "--", unit.name)


def remove_crontab_lines(user: str, doomed: Mapping[str, str]) -> None:
    """The crontab without these lines; cron reads it again by itself."""
    left = [line for line in crontab_lines(user) if doomed.get(line.strip()) != REMOVE]
    content = "".join(f"{line}\n" for line in left).encode(errors="surrogateescape")
    with parent_of(f"{CRONTABS}/{user}") as (parent, name):
        before = os.stat(name, dir_fd=parent, follow_symlinks=False)
        fresh = f"tmp.{name}.legacy"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=parent)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            os.fchown(handle, before.st_uid, before.st_gid)
        os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)


def remove_containers(engine: Engine, containers: list[Thing]) -> None:
    """Each is asked to end first, so that a database in a volume to be kept closes its files."""
    with ThreadPoolExecutor(AT_ONCE) as pool:  # one that does not listen takes its whole time
        list(
            pool.map(lambda each: Engine().ask("POST", f"/containers/{each.ref}/stop?t={STOP_S}"), containers)
        )
    for each in containers:
        engine.ask("DELETE", f"/containers/{each.ref}?force=true&v=false")


def remove_sites(paths: list[str]) -> None:
    """Out of nginx's sight, tested, reloaded, and only then removed; back in place when nginx refuses."""
    moved = {
        path: f"{path.rpartition('/')[0]}/.{path.rpartition('/')[2]}{ASIDE}"
        for path in paths
        if not path.endswith(ASIDE)
    }
    for path, aside in moved.items():
        os.rename(path, aside)  # noqa: PTH104
    if os.path.exists("/usr/sbin/nginx"):  # noqa: PTH110
        try:
            run("nginx", "-t", "-q", what="nginx refuses to be without these sites")
        except Refused:
            for path, aside in moved.items():
                os.rename(aside, path)  # noqa: PTH104
            raise
        if run("systemctl", "is-active", "nginx.service").strip() == "active":
            run("systemctl", "reload", "nginx.service", what="nginx")
    for path in paths:
        remove_path(moved.get(path, path))


def remove_engine(units: list[Thing]) -> None:
    """Sockets first, as each of them would start its service again."""
    for unit in units:
        run("systemctl", "disable", "--now", "--", unit.name, what=unit.name)
        run("systemctl", "mask", "--", unit.name, what=unit.name)


def engine_of(survey: Survey) -> Engine:
    """The survey's connection, of which there is one whenever it found something of docker's to remove."""
    if survey.engine is None:
        raise Refused("dockerd is not running")
    return survey.engine


def remove(survey: Survey, done: list[str]) -> None:
    """Starters before the started, users before what they use; a run that died is finished by the next."""
    inventory = survey.inventory

    def every(act: Callable[[str], object]) -> Callable[[list[Thing]], object]:
        return lambda things: [act(thing.ref) for thing in things]

    def asked(path: str) -> Callable[[list[Thing]], object]:
        return every(lambda ref: engine_of(survey).ask("DELETE", path.format(quote(ref, safe="/:@"))))

    steps: dict[str, Callable[[list[Thing]], object]] = {
        "unit": remove_units,
        "cron file": every(remove_path),
        "crontab": every(lambda user: remove_crontab_lines(user, inventory.crontabs[user])),
        "container": lambda things: remove_containers(engine_of(survey), things),
        "network": asked("/networks/{}"),
        "volume": asked("/volumes/{}"),
        "image": asked("/images/{}"),
        "nginx site": lambda things: remove_sites([thing.ref for thing in things]),
        "path": every(remove_path),
        "engine": remove_engine,
    }
    for kind, step in steps.items():
        if doomed := survey.of(kind, fate=REMOVE):
            step(doomed)
            done += [thing.line() for thing in doomed]
    if back := Survey(inventory).of_fate(REMOVE):
        raise Refused(f"{back[0].kind} {back[0].name} is there again: something makes it anew")


def report_of(survey: Survey) -> dict[str, Any]:
    """The list that an operator reads, the same as data, and the verdict."""
    things = sorted(survey.things, key=lambda thing: list(SIGNS).index(thing.fate))
    lines = [thing.line() for thing in things] + [f"! {note}" for note in survey.notes]
    shown = [{key: getattr(thing, key) for key in ("kind", "name", "fate", "detail")} for thing in things]
    return {"lines": lines, "things": shown, "notes": survey.notes, "unknown": len(survey.of_fate(UNKNOWN))}


def too_long(*_: object) -> NoReturn:
    raise Refused("it took longer than timeout_s; what is removed is removed, the next run goes on")


def timeout_of(arguments: dict[str, Any]) -> int:
    seconds = arguments.get("timeout_s", 600)
    if type(seconds) is not int or not 10 <= seconds <= 3600:  # noqa: PLR2004 - as the schema says
        raise Refused(f"timeout_s: must be whole seconds from 10 to 3600, not {seconds!r:.80}")
    return seconds


def respond(arguments: dict[str, Any]) -> dict[str, object]:
    """Ansible's result for the task's arguments; a refusal fails it, with what was done until then."""
    own = {key: value for key, value in arguments.items() if not key.startswith("_ansible_")}
    check = bool(arguments["_ansible_check_mode"])
    done: list[str] = []
    result: dict[str, object] = {"removed": done}
    signal.signal(signal.SIGALRM, too_long)
    try:
        signal.alarm(timeout_of(own))
        survey = Survey(inventory_of(own))
        doomed, unknown = survey.of_fate(REMOVE), survey.of_fate(UNKNOWN)
        clean = not unknown and not (check and doomed)
        result["report"] = report = {**report_of(survey), "clean": clean}
        if arguments["_ansible_diff"]:
            result["diff"] = {"prepared": "".join(f"{line}\n" for line in report["lines"])}
        if unknown:
            names = ", ".join(f"{thing.kind} {thing.name}" for thing in unknown[:5])
            result["warnings"] = [
                f"not clean: {len(unknown)} things that the inventory does not list: {names}"
            ]
        if not check:
            remove(survey, done)
        result |= {"changed": bool(doomed), "clean": clean}
    except (Refused, OSError) as refusal:
        result |= {"failed": True, "msg": str(refusal), "changed": bool(done), "clean": False}
    signal.alarm(0)
    return result


if __name__ == "__main__":
    answer = respond(json.loads(ARGUMENTS))
    sys.stdout.write(json.dumps(answer))
    sys.exit(bool(answer.get("failed")))
