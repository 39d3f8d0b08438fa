"""The role set's documents → the playbook that a good user of stock modules would write for the same host.

One resource, one task of ansible.builtin. Where a stock way is a matter of taste, the cheaper one is taken:
kernel settings are read in one command instead of a module call each, archives are skipped by `creates`, and
probes, measurements and self-checks, which the role set does in every run, are left out.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Arguments = dict[str, Any]
ROOTS = {"owner": "root", "group": "root"}
DPKG_QUERY = "/usr/bin/dpkg-query"
SLOTS = "/opt/tenantfleet"
UNIT_FOLDERS = ("/etc/systemd/system/", "/etc/containers/systemd/")
# A content is judged before it is put in place, as host_state does.
VALIDATE = {
    "/etc/ssh/sshd_config": "/usr/sbin/sshd -t -f %s",
    "/etc/sudoers.d": "/usr/sbin/visudo -cf %s",
    "/etc/tenantfleet/nftables.d": "/usr/sbin/nft -c -f %s",
}


class NotTranslatableError(Exception):
    """The role set declares something that has no counterpart here; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What one task of the role set declared on a host, see callbacks/bench_account.py."""

    action: str
    arguments: Arguments
    activation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One host: what was declared, what was found there (on_host/look.py), and whence its release came.

    Attributes:
        store_url: of the release store.
        image: of the gateway, by digest.
    """

    declared: Sequence[Declared]
    found: Mapping[str, Any]
    store_url: str
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task; `content`: text that `copy` delivers, which is laid down as a file beside the playbook."""

    module: str
    arguments: Arguments
    content: str | None = None
    keywords: Arguments = field(default_factory=dict)

    @property
    def shape(self) -> tuple[str, ...]:
        return (self.module, *sorted(self.arguments), *sorted(self.keywords))


def tasks_of(tenant: Tenant) -> list[Task]:
    """Every task of a host, packages and accounts first, then files, then what runs.

    Raises:
        NotTranslatableError: see there.
    """
    documents = [row.arguments for row in tenant.declared if row.action == "host_state"]
    slots = [row for row in tenant.declared if row.action == "release_slot"]
    files = [file for document in documents for file in document.get("files", ())]
    return [
        *packages(tenant.declared),
        *(task for file in files for task in accounts(file)),
        *(task for document in documents for task in places(document)),
        *(task for file in files for task in lasting_effects(file)),
        *fetched(tenant),
        *vault(tenant.found["vault"]),
        *(task for slot in slots for task in activation(slot, tenant.found)),
        *(task for document in documents for unit in document.get("units", ()) for task in service(unit)),
        *(started(name) for slot in slots for name in slot.arguments.get("services") or ()),
    ]


def named_packages(row: Declared) -> list[str]:
    """The packages that a task wants or asks for."""
    match row.action:
        case "ansible.builtin.apt":
            return row.arguments.get("name") or []
        case "baseline_info":
            return row.arguments.get("packages") or []
        case "ansible.builtin.command" if (argv := row.arguments.get("argv") or [""])[0] == DPKG_QUERY:
            return [word for word in argv[1:] if not word.startswith("-")]
        case _:
            return []


def packages(declared: Iterable[Declared]) -> Iterator[Task]:
    """One task a list of packages; an `apt` of nothing is one that the survey made needless."""
    lists = [named_packages(row) for row in declared]
    for names in dict.fromkeys(tuple(sorted(names)) for names in lists if names):
        yield Task(
            module="apt",
            arguments={
                "name": list(names),
                "state": "present",
                "install_recommends": False,
                "update_cache": True,
                "cache_valid_time": 86400,
                "lock_timeout": 300,
            },
        )


def lines_of(file: Arguments) -> Iterator[str]:
    lines = map(str.strip, file["content"].splitlines())
    return (line for line in lines if line and line[0] not in "#;-")


def accounts(file: Arguments) -> Iterator[Task]:
    """The accounts of a sysusers.d file: a group for each, then users, with their memberships."""
    if not file["path"].startswith("/etc/sysusers.d/"):
        return
    rows = [(*shlex.split(line), "", "", "", "")[:6] for line in lines_of(file)]
    members: dict[str, list[str]] = {}
    for kind, user, group, *_ in rows:
        if kind == "m":
            members.setdefault(user, []).append(group)
    for kind, name, number, *_ in rows:
        if kind[0] in "ug":
            yield Task(module="group", arguments={"name": name, "gid": int(number)})
    for kind, name, number, about, home, shell in rows:
        if kind[0] == "u":
            yield Task(
                module="user",
                arguments={"name": name, "uid": int(number), "group": name, "comment": about, "home": home}
                | {"shell": shell, "create_home": False, "groups": members.get(name, []), "append": True},
            )


def places(document: Arguments) -> Iterator[Task]:
    """Directories, files and links of one document, and what must not be."""
    watched = {path for unit in document.get("units", ()) for path in reactions(unit)}
    for path in document.get("absent", ()):
        yield Task(module="file", arguments={"path": path, "state": "absent"})
    for directory in sorted(document.get("directories", ()), key=lambda item: item["path"].count("/")):
        yield Task(module="file", arguments={**directory, "state": "directory"})
    for file in document.get("files", ()):
        yield copied(file, watched)
    for link in document.get("links", ()):
        yield linked(link["path"], link["target"])


def reactions(unit: Arguments) -> dict[str, str]:
    """Path → the handler that a change of it calls."""
    restart = dict.fromkeys(unit.get("restart_on", ()), f"restarted {unit['name']}")
    return restart | dict.fromkeys(unit.get("reload_on", ()), f"reloaded {unit['name']}")


def copied(file: Arguments, watched: Iterable[str] = ()) -> Task:
    path = file["path"]
    arguments = {"dest": path, **{key: file[key] for key in ("owner", "group", "mode")}}
    if validate := VALIDATE.get(path) or VALIDATE.get(path.rpartition("/")[0]):
        arguments["validate"] = validate
    notify = ["unit files"] if path.startswith(UNIT_FOLDERS) else []
    notify += [f"changed {path}"] if path in set(watched) else []
    return Task(
        module="copy",
        arguments=arguments,
        content=file["content"],
        keywords={"notify": notify} if notify else {},
    )


def linked(path: str, target: str) -> Task:
    notify = {"notify": ["unit files"]} if path.startswith(UNIT_FOLDERS) else {}
    arguments = {"path": path, "src": target, "state": "link", "force": True, "follow": False}
    return Task(module="file", arguments=arguments, keywords=notify)


def lasting_effects(file: Arguments) -> Iterator[Task]:
    """What a file brings about besides being there: directories, kernel settings, a loaded table."""
    path = file["path"]
    match path.split("/")[1:-1]:
        case ["etc", "tmpfiles.d"]:
            yield from map(standing, lines_of(file))
        case ["etc", "sysctl.d"]:
            yield from kernel(file)
        case ["etc", "tenantfleet", "nftables.d"]:
            yield from packet_filter(file)


def standing(line: str) -> Task:
    """A directory or an empty file that a line of tmpfiles.d asks for.

    Raises:
        NotTranslatableError: a line of another kind.
    """
    kind, place, mode, owner, group, *_ = line.split()
    arguments = {"owner": owner, "group": group, "mode": mode}
    match kind:
        case "d":
            return Task(module="file", arguments={**arguments, "path": place, "state": "directory"})
        case "f":  # with what is in it already
            return Task(module="copy", arguments={**arguments, "dest": place, "force": False}, content="")
    raise NotTranslatableError(f"tmpfiles.d: {line}")


def kernel(file: Arguments) -> Iterator[Task]:
    """All settings by one command; loaded again when one differs. Globs and what may fail are left out."""
    pairs = [[part.strip() for part in line.split("=", 1)] for line in lines_of(file)]
    wanted = {name: " ".join(value.split()) for name, value in pairs if "*" not in name}
    yield Task(
        module="command",
        arguments={"argv": ["/usr/sbin/sysctl", "--values", *wanted]},
        keywords={"register": "kernel", "changed_when": False},
    )
    yield Task(
        module="command",
        arguments={"argv": ["/usr/lib/systemd/systemd-sysctl", file["path"]]},
        keywords={
            "when": f"kernel.stdout_lines | map('split') | map('join', ' ') != {list(wanted.values())!r}"
        },
    )


def packet_filter(file: Arguments) -> Iterator[Task]:
    """The table loaded, if the kernel has it not."""
    words = next(line.split() for line in lines_of(file) if line.startswith("table "))
    yield Task(
        module="command",
        arguments={"argv": ["/usr/sbin/nft", "--terse", "list", "table", *words[1:3]]},
        keywords={"register": "table", "changed_when": False, "failed_when": False},
    )
    yield Task(
        module="command",
        arguments={"argv": ["/usr/sbin/nft", "-f", file["path"]]},
        keywords={"when": "table.rc != 0"},
    )


def fetched(tenant: Tenant) -> Iterator[Task]:
    """The release: its manifest by digest, its trees once, its image by digest."""
    for name in tenant.found["manifests"]:
        digest = name.removesuffix(".json")
        yield Task(
            module="get_url",
            arguments={
                "url": f"{tenant.store_url}/manifests/{name}",
                "dest": f"/var/lib/tenantfleet/manifests/{name}",
                "checksum": f"sha256:{digest}",
                "mode": "0644",
            },
        )
    for digest in tenant.found["trees"]:
        place = f"{SLOTS}/store/{digest}"
        source = {"src": f"{tenant.store_url}/trees/{digest}.tar.gz", "remote_src": True}
        yield Task(module="unarchive", arguments={**source, "dest": place, "creates": place})
    yield Task(
        module="command",
        arguments={"argv": ["/usr/bin/podman", "image", "exists", tenant.image]},
        keywords={"changed_when": False},
    )


def vault(names: Iterable[str]) -> Iterator[Task]:
    """The sealed blobs, which are there with their mode: only who holds the secrets could make one again."""
    folder = "/var/lib/tenantfleet/vault"
    yield Task(module="file", arguments={"path": folder, "state": "directory", "mode": "0700", **ROOTS})
    for name in names:
        yield Task(
            module="file", arguments={"path": f"{folder}/{name}", "state": "file", "mode": "0600", **ROOTS}
        )


def activation(slot: Declared, found: Mapping[str, Any]) -> Iterator[Task]:
    """An activation's folder, its links and files, in the place where release_slot puts it."""
    unit, here = slot.arguments["unit"], f"{SLOTS}/{slot.arguments['unit']}/{slot.activation}"
    kept = found["activations"][unit]
    if kept["id"] != slot.activation:
        raise NotTranslatableError(f"{unit} declares {slot.activation}, the host runs {kept['id']}")
    files = slot.arguments.get("files") or ()
    folders = {f"{here}/{file['path'].rpartition('/')[0]}" for file in files}
    for place in (f"{SLOTS}/{unit}", here, *sorted({f"{here}/config", f"{here}/units"} | folders)):
        yield Task(module="file", arguments={"path": place, "state": "directory", "mode": "0755", **ROOTS})
    if code := slot.arguments.get("code"):
        yield linked(f"{here}/code", f"../../store/{code}")
    document = {"path": "activation.json", "content": kept["document"], "mode": "0644", **ROOTS}
    for file in (*files, document):
        yield copied({**file, "path": f"{here}/{file['path']}"})
    yield linked(f"{SLOTS}/{unit}/current", slot.activation)
    for path, target in found["links"].items():
        if target.startswith(f"{SLOTS}/{unit}/current/"):
            yield Task(
                module="file",
                arguments={"path": path.rpartition("/")[0], "state": "directory", "mode": "0755", **ROOTS},
            )
            yield linked(path, target)


def service(unit: Arguments) -> Iterator[Task]:
    arguments = {"name": unit["name"], "state": unit["state"]}
    if "enabled" in unit:
        arguments["enabled"] = unit["enabled"]
    yield Task(module="systemd_service", arguments=arguments)


def started(name: str) -> Task:
    return Task(module="systemd_service", arguments={"name": name, "state": "started"})


def handlers(declared: Iterable[Declared]) -> list[Arguments]:
    """Unit files read again first, then each unit that one of its files concerns."""
    found: list[Arguments] = [
        {"name": "Read the unit files again", "listen": "unit files"}
        | {"ansible.builtin.systemd_service": {"daemon_reload": True}}
    ]
    units = [
        unit for row in declared if row.action == "host_state" for unit in row.arguments.get("units", ())
    ]
    for unit in units:
        for path, verb in reactions(unit).items():
            call = {"name": unit["name"], "state": verb.partition(" ")[0]}
            found.append(
                {"name": f"{unit['name']} {path}", "listen": f"changed {path}"}
                | {"ansible.builtin.systemd_service": call}
            )
    return found


def merged(hosts: Mapping[str, Sequence[Task]]) -> tuple[list[Arguments], dict[str, dict[str, Any]]]:
    """One list of tasks for all hosts, and each host's values of what differs between them.

    Raises:
        NotTranslatableError: hosts do not have the same tasks in the same order.
    """
    values: dict[str, dict[str, Any]] = {host: {} for host in hosts}
    playbook = []
    if len({len(tasks) for tasks in hosts.values()}) > 1:
        raise NotTranslatableError(f"tasks a host: { {host: len(tasks) for host, tasks in hosts.items()} }")
    for number, alike in enumerate(zip(*hosts.values(), strict=True)):
        first = alike[0]
        if len({task.shape for task in alike}) > 1:
            raise NotTranslatableError(f"task {number} differs in kind: {[task.shape for task in alike]}")
        arguments = dict(first.arguments)
        for key in first.arguments:
            if len({json.dumps(task.arguments[key]) for task in alike}) > 1:
                name = f"own_{number}_{key}"
                arguments[key] = f"{{{{ {name} }}}}"
                for host, task in zip(hosts, alike, strict=True):
                    values[host][name] = task.arguments[key]
        if first.content is not None:
            same = len({task.content for task in alike}) == 1
            arguments["src"] = f"{'all' if same else '{{ inventory_hostname }}'}/{number}"
        about = next((first.arguments[key] for key in ("path", "dest", "name") if key in first.arguments), "")
        title = f"{number:03} {first.module} {about if isinstance(about, str) else ''}"
        playbook.append(
            {"name": title.strip(), f"ansible.builtin.{first.module}": arguments, **first.keywords}
        )
    return playbook, values


def contents(hosts: Mapping[str, Sequence[Task]]) -> dict[str, str]:
    """Name below files/ → text of what `copy` delivers."""
    found: dict[str, str] = {}
    for number, alike in enumerate(zip(*hosts.values(), strict=True)):
        texts = {
            host: task.content for host, task in zip(hosts, alike, strict=True) if task.content is not None
        }
        if len(set(texts.values())) == 1:
            found[f"all/{number}"] = next(iter(texts.values()))
        else:
            found |= {f"{host}/{number}": text for host, text in texts.items()}
    return found
