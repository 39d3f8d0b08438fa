"""What an activation, a switch between two of them and its verdict are: what `activate` decides from."""
# ruff: noqa: INP001 - Ansible's folders are not packages

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

SYSTEMD_KINDS = frozenset({".service", ".timer", ".socket", ".target", ".path"})
OWN_PLACES = ("*", "*.d/*", "*.wants/*", "*.requires/*")
INSTALL_FOLDERS = {"WantedBy": "wants", "RequiredBy": "requires"}
QUADLET_KINDS = frozenset({".container", ".volume", ".network"})


class Verdict(StrEnum):
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things lie, below `root`, which is / but in tests."""

    unit: str
    root: Path = Path("/")

    @property
    def slots(self) -> Path:
        return self.root / "opt/tenantfleet" / self.unit

    @property
    def store(self) -> Path:
        return self.root / "opt/tenantfleet/store"

    @property
    def verdict(self) -> Path:
        return self.root / f"var/lib/tenantfleet/activations/{self.unit}.json"

    @property
    def in_progress(self) -> Path:
        return self.verdict.with_suffix(".in_progress.json")

    @property
    def through_current(self) -> str:
        return f"/opt/tenantfleet/{self.unit}/current/"

    def linked_id(self, link: str) -> str | None:
        try:
            return (self.slots / link).readlink().name
        except FileNotFoundError:
            return None

    def own_links(self) -> frozenset[str]:
        """Links below /etc that go through this unit's `current`, relative to the root."""
        folders = [self.root / "etc/systemd/system", self.root / "etc/containers/systemd"]
        found = [path for folder in folders for pattern in OWN_PLACES for path in folder.glob(pattern)]
        return frozenset(str(path.relative_to(self.root)) for path in found if self.owns(path))

    def owns(self, path: Path) -> bool:
        return path.is_symlink() and str(path.readlink()).startswith(self.through_current)


@dataclass(frozen=True, slots=True)
class File:
    path: str
    owner: str
    group: str
    mode: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Activation:
    """What `activation.json` says; `wants`: link below /etc that starts a service at boot → unit file."""

    id: str
    unit: str
    image: str | None
    services: tuple[str, ...]
    reloads: tuple[str, ...]
    dependents: tuple[str, ...]
    wants: dict[str, str]
    probe_argv: tuple[str, ...]
    probe_timeout_s: float
    files: tuple[File, ...]

    @property
    def links(self) -> dict[str, str]:
        """Link below /etc (relative to the root) → its target through `current`."""
        places = {file.path: link_of(file.path) for file in self.files}
        linked = {link: path for path, link in places.items() if link} | self.wants
        return {link: f"/opt/tenantfleet/{self.unit}/current/{path}" for link, path in linked.items()}


def link_of(path: str) -> str | None:
    """Where the unit file `units/…` of an activation is linked; None for what is no unit file."""
    top, _, name = path.partition("/")
    kind = Path(name.partition("/")[0].removesuffix(".d")).suffix
    if top != "units":
        return None
    if kind in SYSTEMD_KINDS:
        return f"etc/systemd/system/{name}"
    return f"etc/containers/systemd/{name}" if kind in QUADLET_KINDS else None


def wants_of(name: str, text: str) -> Iterator[str]:
    """Links that a unit file's [Install] asks for, as `systemctl enable` would make them.

    That program resolves `current` when it makes them: its links would name what is swept one day.

    Raises:
        ValueError: [Install] asks for something else than WantedBy and RequiredBy.
    """
    section = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            section = line
        elif section == "[Install]" and not line.startswith(("#", ";")):
            key, _, targets = line.partition("=")
            if key.strip() not in INSTALL_FOLDERS:
                raise ValueError(f"[Install] of {name}: {key.strip()} is not supported")
            folder = INSTALL_FOLDERS[key.strip()]
            yield from (f"etc/systemd/system/{target}.{folder}/{name}" for target in targets.split())


def load(paths: Paths, activation_id: str) -> Activation:
    slot = paths.slots / activation_id
    document: dict[str, Any] = json.loads((slot / "activation.json").read_bytes())
    files = tuple(File(**entry) for entry in document["files"])
    named = {file.path.removeprefix("units/") for file in files} & {*document["services"]}
    return Activation(
        id=activation_id,
        unit=paths.unit,
        image=document["image"],
        services=tuple(document["services"]),
        reloads=tuple(document["reloads"]),
        dependents=tuple(document["dependents"]),
        wants={
            link: f"units/{name}"
            for name in sorted(named)
            for link in wants_of(name, (slot / "units" / name).read_text())
        },
        probe_argv=tuple(document["probe"]["argv"]),
        probe_timeout_s=document["probe"]["timeout_s"],
        files=files,
    )


@dataclass(frozen=True, slots=True)
class Transition:
    """The effects of a switch, in the order in which they are done.

    `dependents` ran before: they stand still while the links move, so that none runs beside a new service.
    """

    stop: tuple[str, ...]
    unlink: tuple[str, ...]
    link: dict[str, str]
    start: tuple[str, ...]
    reload: tuple[str, ...]
    dependents: tuple[str, ...]


def transition(
    *, old: Activation | None, new: Activation | None, links: frozenset[str], active: tuple[str, ...]
) -> Transition:
    """Lead from `old` to `new` (None: not there), when `links` exist and `active` dependents ran before."""
    old_services, new_services = old.services if old else (), new.services if new else ()
    new_links = new.links if new else {}
    reloads = (*(new.reloads if new else ()), *(old.reloads if old else ()))
    both = (*new_services, *(name for name in old_services if name not in new_services))
    return Transition(
        stop=both[::-1],
        unlink=tuple(sorted(links - new_links.keys())),
        link=new_links,
        start=new_services,
        reload=tuple(dict.fromkeys(name for name in reloads if name not in both)),
        dependents=tuple(name for name in active if name not in both),
    )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A switch between its first effect and its verdict; `active`: dependents that ran before it."""

    attempt: str
    activation: str
    current: str | None
    previous: str | None
    active: tuple[str, ...]
    at: str


def units_in_progress() -> list[str]:
    found = Paths("any").verdict.parent.glob("*.in_progress.json")
    return sorted(path.name.partition(".")[0] for path in found)


def unproved(paths: Paths) -> Attempt | None:
    """The switch that began and never got its verdict, if any."""
    document = read_json(paths.in_progress)
    if not document or read_json(paths.verdict).get("attempt") == document["attempt"]:
        return None
    return Attempt(**{**document, "active": tuple(document["active"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of an attempt; `in_force`: the activation that runs and has passed its probe, if any."""

    unit: str
    attempt: str
    activation: str
    previous: str | None
    verdict: Verdict
    reason: str
    in_force: str | None
    at: str
    journal: tuple[str, ...] = ()


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - json.dumps takes anything
    """Atomic and durable: a reader, also one after a power cut, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        json.dump(content, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    fsync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return document


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
