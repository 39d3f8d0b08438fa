"""Who is at the other end of a unix socket: told by the kernel, never by the peer."""

import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

SO_PEERPIDFD = 77  # linux/socket.h, since 6.5; Python has no name for it yet
CREDENTIALS = struct.Struct("3i")
CONTAINER_DEPTH = 2  # the host's pid namespace and the container's


class UntrustedPeerError(Exception):
    """The peer is not who this socket is for; the text says why and goes to the journal only."""


@dataclass(frozen=True)
class Peer:
    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return the process that connected. Its pid means something only while the process lives."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _gid = CREDENTIALS.unpack(raw)
    return Peer(pid=pid, uid=uid)


def pidfd_of(connection: socket.socket) -> int:
    """Return a pidfd of the process that connected; the caller closes it.

    Raises:
        UntrustedPeerError: the process is gone, or the kernel cannot tell.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        raise UntrustedPeerError(f"no pidfd of the peer: {error.strerror}") from error


def _check_alive(pidfd: int) -> None:
    """Checked last: /proc spoke of this process then, and not of a successor with its pid."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)  # a pidfd turns readable when its process ends
    if poll.poll(0):
        raise UntrustedPeerError("the peer is gone")


def gateway_peer(connection: socket.socket, *, uid: int, control_group: str) -> tuple[Peer, int]:
    """Return the gateway's process and a pidfd of it, which the caller closes.

    It must be the first process of the container of the unit whose cgroup is ``control_group``: of the
    gateway's user, in that cgroup or below, pid 1 of a pid namespace directly under ours. No child is that.

    Raises:
        UntrustedPeerError: one of these does not hold.
    """
    peer = peer_of(connection)
    if peer.uid != uid:
        raise UntrustedPeerError(f"uid {peer.uid} is not the gateway's")
    pidfd = pidfd_of(connection)
    try:
        _check_place(peer.pid, control_group)
        _check_alive(pidfd)
    except BaseException:
        os.close(pidfd)
        raise
    return peer, pidfd


def _check_place(pid: int, control_group: str) -> None:
    pids = _status_line(pid, "NSpid").split()
    if len(pids) != CONTAINER_DEPTH or pids[-1] != "1":
        raise UntrustedPeerError(f"pid {pid} is not the first process of a container: NSpid {' '.join(pids)}")
    place = _cgroup(pid)
    if not control_group.strip("/") or not f"{place}/".startswith(f"{control_group.rstrip('/')}/"):
        raise UntrustedPeerError(f"pid {pid} is in cgroup {place}, not under {control_group or 'any unit'}")


def _status_line(pid: int, key: str) -> str:
    for line in _proc(pid, "status").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return value
    raise UntrustedPeerError(f"pid {pid} has no {key}")


def _cgroup(pid: int) -> str:
    for line in _proc(pid, "cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        if hierarchy == "0":  # the unified hierarchy, the only one that systemd uses on our hosts
            return rest.partition(":")[2]
    raise UntrustedPeerError(f"pid {pid} is in no unified cgroup")


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UntrustedPeerError(f"/proc/{pid}/{name}: {error.strerror}") from error
