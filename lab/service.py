"""One service of the lab on this machine: what runs, how it is configured, how it shows that it serves."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.cgroup import Group
from lab.state import Lab, LabError, write_whole

_START_TIMEOUT_S = 60.0

SERVICE_FOLDER = "/srv/lab"  # of a service, as it sees it in the services' root file system
STORE_FOLDER = "/srv/store"


@dataclass(frozen=True)
class Service:
    """A process in the services' root file system, or (`on_machine`) on this machine as it is.

    Attributes:
        files: configuration by name, written into the service's folder before each start.
        folders: made in its folder, kept by `down`.
        ready: whether it serves; must not raise anything but OSError.
    """

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    files: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    on_machine: bool = False

    def folder(self, lab: Lab) -> Path:
        return lab.services / self.name

    def group(self, lab: Lab) -> Group:
        return Group.of(lab, "services", self.name)

    def running(self, lab: Lab) -> bool:
        return self.group(lab).populated()

    def start(self, lab: Lab) -> None:
        """Start it unless it runs. Returns before it serves."""
        if self.running(lab):
            return
        folder = self.folder(lab)
        for name in self.folders:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_whole(folder / name, content)
        folder.mkdir(parents=True, exist_ok=True)
        group = self.group(lab)
        group.create()
        place = "machine" if self.on_machine else "image"
        launcher = [sys.executable, "-m", "lab.service_process", str(lab.root), self.name, place, *self.argv]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                launcher, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        while process.poll() is None and not group.populated():
            time.sleep(0.01)

    def wait(self, lab: Lab) -> None:
        """Return when it serves. Raises LabError with the end of its log when it ends or takes too long."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self.running(lab):
            with contextlib.suppress(OSError):
                if self.ready():
                    return
            time.sleep(0.03)
        log = (self.folder(lab) / "log").read_text(errors="replace")
        raise LabError(f"service {self.name} does not serve; its log ends: {log[-1500:]}")


def answers_tcp(*endpoints: tuple[str, int]) -> bool:
    for endpoint in endpoints:
        with socket.create_connection(endpoint, timeout=2):
            pass
    return True


def answers_ntp(address: str) -> bool:
    """Whether a time server answers a client's request (RFC 5905, figure 8: version 4, mode 3)."""
    request = bytes([0x23]) + bytes(47)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(0.5)
        link.sendto(request, (address, 123))
        return len(link.recv(512)) == len(request)
