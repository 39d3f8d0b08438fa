"""What a host sees as its file system, laid out in its own mount namespace just before systemd starts."""

import contextlib
import os
import shutil
from pathlib import Path

from lab import kernel_settings
from lab.host import Host
from lab.kernel import Mount, bind, make_root, mount
from lab.machine import run

_PLAIN = Mount.NO_SUID | Mount.NO_DEVICES | Mount.NO_EXEC


def lay_out(host: Host) -> None:
    """Mount everything and make it this process's root. Needs new mount, pid, net and cgroup namespaces."""
    mount("none", "/", flags=Mount.RECURSIVE | Mount.PRIVATE)
    root = host.folder / "root"
    _mount_disk(host)
    _mount_root(host, root)
    mount("proc", root / "proc", kind="proc", flags=_PLAIN)
    mount("sysfs", root / "sys", kind="sysfs", flags=_PLAIN | Mount.READ_ONLY)
    mount("cgroup2", root / "sys/fs/cgroup", kind="cgroup2", flags=_PLAIN)
    mount(
        "tmpfs", root / "run", kind="tmpfs", flags=Mount.NO_SUID | Mount.NO_DEVICES, data="mode=755,size=20%"
    )
    _make_devices(root / "dev")
    # A container in a user namespace may mount /proc only if one without obstructions is in sight (the
    # kernel's rule). What follows obstructs /proc, so a second one is kept aside.
    aside = root / "dev/.lab/proc"
    aside.mkdir(parents=True)
    mount("proc", aside, kind="proc", flags=_PLAIN)
    aside.parent.chmod(0o700)
    kernel_settings.make_private(root)
    for name in ("sysrq-trigger", "kcore", "kmsg"):  # these speak to the machine's kernel
        with contextlib.suppress(OSError):
            bind(root / "dev/null", root / "proc" / name)  # the host's: a chmod there stays there
    make_root(root)
    mount("none", "/", flags=Mount.RECURSIVE | Mount.SHARED)  # as on a machine; LoadCredential= depends on it


def _mount_disk(host: Host) -> None:
    if host.disk:
        run("mount", "-o", "loop,discard", host.disk_image, host.disk_folder)
    for part in ("upper", "work", "containers"):
        (host.disk_folder / part).mkdir(exist_ok=True)


def _mount_root(host: Host, root: Path) -> None:
    disk = host.disk_folder
    # A power cut leaves this mark of "volatile", by which the kernel would refuse the same disk again.
    shutil.rmtree(disk / "work/work/incompat", ignore_errors=True)
    # volatile: no fsync reaches the disk (apt is several times faster). redirect_dir: directories of the
    # image can be renamed, as on a plain file system.
    layers = f"lowerdir={host.image_folder},upperdir={disk}/upper,workdir={disk}/work"
    mount("overlay", root, kind="overlay", data=f"{layers},redirect_dir=on,index=off,volatile")
    # podman's own overlays cannot stand on an overlay.
    bind(disk / "containers", root / "var/lib/containers")
    seed = root / "var/lib/cloud/seed/nocloud"
    if not seed.exists():
        shutil.copytree(host.folder / "seed", seed)


def _make_devices(dev: Path) -> None:
    mount("tmpfs", dev, kind="tmpfs", flags=Mount.NO_SUID, data="mode=755,size=4m")
    before = os.umask(0)
    for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun"):
        with contextlib.suppress(FileNotFoundError):
            number = Path("/dev", name).stat().st_rdev
            (dev / name).parent.mkdir(mode=0o755, exist_ok=True)
            os.mknod(dev / name, 0o020666, number)
    os.umask(before)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0"}
    links |= {"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
    for name, target in links.items():
        (dev / name).symlink_to(target)
    for folder in ("pts", "shm", "mqueue"):
        (dev / folder).mkdir()
    terminals = "newinstance,ptmxmode=0666,mode=620,gid=5"
    mount("devpts", dev / "pts", kind="devpts", flags=Mount.NO_SUID | Mount.NO_EXEC, data=terminals)
    mount("tmpfs", dev / "shm", kind="tmpfs", flags=Mount.NO_SUID | Mount.NO_DEVICES, data="mode=1777")
