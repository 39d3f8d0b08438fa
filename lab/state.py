"""Where a lab keeps its files, what its things on this machine are called, and its one lock."""

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

DEFAULT_DIR = "/var/tmp/tenantfleet-lab"  # noqa: S108 (a folder that only root writes, not a temporary file)


class LabError(Exception):
    """Something to tell the user in one line."""


@dataclass(frozen=True)
class Lab:
    """One lab: a folder, and names derived from it, so that two labs never meet on one machine."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Lab":
        return cls(Path(os.environ.get("LAB_DIR", DEFAULT_DIR)).resolve())

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:6]

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def hosts(self) -> Path:
        return self.root / "hosts"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def services(self) -> Path:
        return self.root / "services"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def ca_file(self) -> Path:
        return self.root / "ca.crt"

    @property
    def bridge(self) -> str:
        return f"tflab{self.id}"

    @property
    def nft_table(self) -> str:
        return f"tenantfleet_lab_{self.id}"

    @property
    def subnet_file(self) -> Path:
        return self.root / "subnet.json"

    @cached_property
    def number(self) -> int:
        """The N of 10.77.N.0/24 and fd77:N::/64, chosen when the network first came up."""
        try:
            return int(json.loads(self.subnet_file.read_text())["number"])
        except FileNotFoundError:
            raise LabError(f"no lab in {self.root} yet: run `lab up NAME`") from None

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.77.{self.number}.0/24")

    @property
    def subnet6(self) -> ipaddress.IPv6Network:
        # The decimal N stands as hexadecimal digits: 10.77.31.11 is fd77:31::11, easy to read in a log.
        return ipaddress.IPv6Network(f"fd77:{self.number}::/64")

    def address(self, host: int) -> str:
        return f"10.77.{self.number}.{host}"

    def address6(self, host: int) -> str:
        return f"fd77:{self.number}::{host}"

    @property
    def gateway(self) -> str:
        return self.address(1)

    @property
    def gateway6(self) -> str:
        return self.address6(1)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Admit one changing command at a time; the lock goes with its process."""
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def discard(self, path: Path) -> None:
        """Move a tree out of the way, so that a crash leaves nothing half deleted in its place."""
        if path.exists():
            trash = self.root / "trash"
            trash.mkdir(exist_ok=True)
            path.rename(trash / uuid.uuid4().hex)

    def empty_trash(self) -> None:
        trash = self.root / "trash"
        if trash.exists():
            # A host's root may have made files immutable, which not even this machine's root can remove.
            subprocess.run(["chattr", "-R", "-f", "-i", "-a", trash], capture_output=True, check=False)
            shutil.rmtree(trash)


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as handle:
        handle.write(text)
    fresh.replace(path)
