"""A host's supervisor, a process of its own: boots the host, and again for as long as it ends by `reboot`.

    python -m lab.supervisor LAB_DIR NAME

Its death is a power cut: the kernel then kills the host's systemd, and with that all of the host.
"""

import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from lab import filesystem, network
from lab.cgroup import Group
from lab.host import Host
from lab.kernel import die_with_parent, give_up_powers
from lab.state import Lab

_SYSTEMD = "/lib/systemd/systemd"


def _become_init(host: Host) -> NoReturn:
    """Turn this process, first of its pid namespace, into the host's systemd."""
    die_with_parent()
    host.inside.enter()
    os.unshare(os.CLONE_NEWCGROUP)  # that group is its root of all groups
    filesystem.lay_out(host)
    socket.sethostname(host.name)
    give_up_powers()
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.closerange(3, 4096)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    environment = {
        "container": "lab",
        "container_uuid": host.machine_uuid,
        "TERM": "dumb",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    os.execve(_SYSTEMD, [_SYSTEMD, "--system", "--show-status=false"], environment)  # noqa: S606 (no shell, by intent)


def _in_child(action: str, host: Host) -> int:
    """Fork; run the named step in the child, which never returns. Returns the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if action == "boot":
            os._exit(_REBOOT if _boot(host) else 0)
        _become_init(host)
    except BaseException:  # noqa: BLE001 (a forked child must end here, whatever happened)
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


_REBOOT = 10


def _boot(host: Host) -> bool:
    """One boot from power on to power off. True: the host asked for another."""
    die_with_parent()
    machine, mtu = os.open("/proc/self/ns/net", os.O_RDONLY), network.uplink_mtu()
    os.unshare(os.CLONE_NEWNS | os.CLONE_NEWUTS | os.CLONE_NEWIPC | os.CLONE_NEWNET)
    network.plug_in(host.lab, number=host.number, machine_namespace=machine, mtu=mtu)
    os.unshare(os.CLONE_NEWPID)  # last: the next child is the namespace's first process
    _, status = os.waitpid(_in_child("init", host), 0)
    return (
        os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGHUP
    )  # what reboot(2) does in a pid namespace


def main() -> None:
    root, name = sys.argv[1:]
    host = Host.load(Lab(Path(root)), name)
    Group(host.group.path / "supervisor").enter()
    again = True
    while again:
        host.inside.remove()
        host.inside.create()
        _, status = os.waitpid(_in_child("boot", host), 0)
        again = os.waitstatus_to_exitcode(status) == _REBOOT


if __name__ == "__main__":
    main()
