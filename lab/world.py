"""The lab's commands on hosts: up, reset, stop, down."""

import contextlib
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace

from lab import cloud_seed, image, lookups, machine, network, services
from lab import host as hosts
from lab.cgroup import Group
from lab.host import Host
from lab.progress import step
from lab.state import Lab, LabError

_BOOT_TIMEOUT_S = 120.0  # a loaded machine; an idle one needs two or three


def up(lab: Lab, names: list[str], *, region: str, disk: str | None) -> None:
    """Create or boot hosts, and what they stand on; return when SSH answers on each."""
    with lab.locked():
        _prepare(lab)
        existing = {host.name: host for host in Host.all(lab)}
        for name in names:
            if name in existing and disk and existing[name].disk != disk:
                raise LabError(f"{name} exists with another disk: `lab down {name}` first")
            if name not in existing:
                fresh = hosts.new(lab, name, region=region, disk=disk)
                fresh.make_pristine(cloud_seed.seed(fresh))
        _publish(lab)
        _start([Host.load(lab, name) for name in names])


def reset(lab: Lab, names: list[str]) -> None:
    """Put hosts back to a pristine disk, as a provider's reinstallation: new machine-id and host key."""
    with lab.locked():
        chosen = [Host.load(lab, name) for name in names]
        _prepare(lab)
        _power_off(chosen)
        chosen = [replace(host, image=image.HOST.name, machine_uuid=str(uuid.uuid4())) for host in chosen]
        for host in chosen:
            host.make_pristine(cloud_seed.seed(host))
        _start(chosen)
        lab.empty_trash()


def stop(lab: Lab, names: list[str]) -> None:
    with lab.locked():
        _power_off([Host.load(lab, name) for name in names])


def remove(lab: Lab, names: list[str]) -> None:
    """Remove some hosts for good."""
    with lab.locked():
        for name in [Host.load(lab, name).name for name in names]:
            hosts.remove(lab, name)
        _publish(lab)
        lab.empty_trash()


def down(lab: Lab, *, purge: bool) -> None:
    """Leave nothing but images, caches and keys; with `purge` nothing at all. Works after any crash."""
    with lab.locked():
        for name in hosts.leftovers(lab):
            hosts.remove(lab, name)
        Group.of(lab).remove()
        with contextlib.suppress(LabError):
            network.down(lab)
        for name in ("ssh_config", "known_hosts", "machines.yml"):
            (lab.root / name).unlink(missing_ok=True)
        for recorded in (*lab.services.glob("*/log"), lab.services / "model/records"):
            lab.discard(recorded)
        lab.discard(lab.hosts)
        for old in set(lab.images.glob("*")) - {image.HOST.path(lab), image.SERVICES.path(lab)}:
            lab.discard(old)
        if purge:
            for path in lab.root.iterdir():
                if path.name not in {"lock", "trash"}:
                    lab.discard(path)
        lab.empty_trash()
        if purge:
            (lab.root / "lock").unlink()
            lab.root.rmdir()


def rows(lab: Lab) -> list[dict[str, str | None]]:
    """What `lab list` tells of each host."""
    return [
        {
            "name": host.name,
            "address": host.address,
            "address6": host.address6,
            "state": "up" if host.running else "off",
            "region": host.region,
            "disk": host.disk,
            "image": host.image,
        }
        for host in Host.all(lab)
    ]


def _prepare(lab: Lab) -> None:
    missing = machine.missing_packages()
    if missing:
        with step(f"install on this machine: {' '.join(missing)}"):
            machine.install(missing)
    for needed in (image.HOST, image.SERVICES):
        if not needed.built(lab):
            with step(f"build {needed.name}"):
                needed.build(lab)
    network.up(lab)
    with step("services"):
        services.start_all(lab)


def _publish(lab: Lab) -> None:
    lookups.write(lab)
    services.publish_names(lab, {host.name: (host.address, host.address6) for host in Host.all(lab)})


def _power_off(chosen: Iterable[Host]) -> None:
    for host in chosen:
        host.group.kill()  # all at once, then wait for each
    for host in chosen:
        host.power_off()


def _start(chosen: list[Host]) -> None:
    with step(f"boot {' '.join(host.name for host in chosen)}"):
        for host in chosen:
            if not host.running:
                _supervise(host)
        for host in chosen:
            _wait_for_ssh(host)
    for host in chosen:
        print(f"{host.name} {host.address} {host.address6}")  # noqa: T201 (the command's output)


def _supervise(host: Host) -> None:
    Group(host.group.path / "supervisor").create()
    with host.console.open("ab") as console:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor", str(host.lab.root), host.name],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd="/",
        )
    while supervisor.poll() is None and not host.running:
        time.sleep(0.01)


def _wait_for_ssh(host: Host) -> None:
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host.address, 22), timeout=2) as link:
            if link.recv(4) == b"SSH-":
                return
        if not host.running:
            break
        time.sleep(0.03)
    raise LabError(
        f"{host.name} does not answer on port 22; its console says: {host.console.read_text()[-1500:]}"
    )
