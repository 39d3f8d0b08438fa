"""One host as the lab remembers it: a folder with a record, a seed and a disk."""

import contextlib
import json
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from lab import image
from lab.cgroup import Group
from lab.machine import run
from lab.state import Lab, LabError, write_whole

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SIZE = re.compile(r"[1-9][0-9]{0,5}[MGT]")


@dataclass(frozen=True)
class Host:
    """A host that exists, running or not.

    Attributes:
        number: the last part of its addresses, 11 to 254.
        image: name of the root file system below it.
        machine_uuid: becomes its machine-id at first boot; new at each reset.
        region: what machines.yml says of it.
        disk: size of its disk as truncate(1) writes it (`12G`), or None to share this machine's file system.
    """

    lab: Lab
    name: str
    number: int
    image: str
    machine_uuid: str
    region: str
    disk: str | None

    @classmethod
    def load(cls, lab: Lab, name: str) -> Self:
        try:
            record = json.loads((lab.hosts / name / "host.json").read_text())
        except FileNotFoundError:
            raise LabError(f"no host {name}") from None
        return cls(lab=lab, name=name, **record)

    @classmethod
    def all(cls, lab: Lab) -> list[Self]:
        return [cls.load(lab, path.parent.name) for path in sorted(lab.hosts.glob("*/host.json"))]

    @property
    def folder(self) -> Path:
        return self.lab.hosts / self.name

    @property
    def image_folder(self) -> Path:
        return self.lab.images / self.image

    @property
    def disk_folder(self) -> Path:
        return self.folder / "disk"

    @property
    def disk_image(self) -> Path:
        return self.folder / "disk.img"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def address(self) -> str:
        return self.lab.address(self.number)

    @property
    def address6(self) -> str:
        return self.lab.address6(self.number)

    @property
    def group(self) -> Group:
        """Everything of this host: `supervisor` and, below `inside`, what the host sees as its own root."""
        return Group.of(self.lab, "hosts", self.name)

    @property
    def inside(self) -> Group:
        return Group(self.group.path / "inside")

    @property
    def running(self) -> bool:
        return self.group.populated()

    def init_pid(self) -> int | None:
        """This machine's number of the host's systemd, once that has set itself up."""
        pids = Group(self.inside.path / "init.scope").pids()
        return pids[0] if pids else None

    def make_pristine(self, seed: dict[str, str]) -> None:
        """Lay out an empty disk and the seed of the first boot. The host must be off."""
        for old in (self.disk_folder, self.disk_image, self.folder / "seed", self.console):
            self.lab.discard(old)
        for folder in ("disk", "root", "seed"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for name, content in seed.items():
            write_whole(self.folder / "seed" / name, content, mode=0o600)
        if self.disk:
            run("truncate", "--size", self.disk, self.disk_image)
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", self.disk_image)
        record = asdict(self)
        del record["lab"], record["name"]
        write_whole(self.folder / "host.json", json.dumps(record))

    def power_off(self) -> None:
        """Stop it at once, like a power cut."""
        self.group.remove()


def new(lab: Lab, name: str, *, region: str, disk: str | None) -> Host:
    """Describe a host that does not exist yet, on the next free address."""
    if not _NAME.fullmatch(name):
        raise LabError(f"not a host name (a-z, 0-9 and -, at most 32): {name!r}")
    if disk and not _SIZE.fullmatch(disk):
        raise LabError(f"not a disk size such as 12G or 800M: {disk!r}")
    taken = {host.number for host in Host.all(lab)}
    free = [number for number in range(11, 255) if number not in taken]
    if not free:
        raise LabError("no free address")
    return Host(lab, name, free[0], image.HOST.name, str(uuid.uuid4()), region, disk)


def remove(lab: Lab, name: str) -> None:
    """Remove whatever there is of a host, also of one half made."""
    Group.of(lab, "hosts", name).remove()
    with contextlib.suppress(FileNotFoundError):
        lab.discard(lab.hosts / name)


def leftovers(lab: Lab) -> list[str]:
    """Names of all hosts, and of those of which a crash has left only a part."""
    groups = Group.of(lab, "hosts").path
    folders = [*lab.hosts.glob("*"), *(path for path in groups.glob("*") if path.is_dir())]
    return sorted({path.name for path in folders})
