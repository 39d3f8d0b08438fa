"""Runs on a host as root: tries every destination as every account and prints what became of it as JSON.

Argument: {"accounts": [name], "destinations": [[protocol, address, port]], "listen": [[protocol, port]]}.
Result: {account: ["out" | "refused: why"]}, in the destinations' order.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT_S = 10.0
DNS_QUESTION = bytes.fromhex("beef01000001000000000000") + b"\x08registry\x03lab\x04test\x00\x00\x01\x00\x01"
NTP_QUESTION = b"\x23" + bytes(47)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen(protocol: str, port: int) -> list[socket.socket]:
    """Open a port on every address of the host, so that only the firewall can refuse it."""
    opened = []
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - meant so
        listener = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((anywhere, port))
        if protocol == "tcp":
            listener.listen(512)
        opened.append(listener)
    return opened


def connect(address: str, port: int) -> None:
    with socket.socket(family_of(address), socket.SOCK_STREAM) as stream:
        stream.settimeout(TIMEOUT_S)
        stream.connect(socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][4])


def ask(address: str, port: int) -> None:
    """Send a datagram and wait for the answer, or for the refusal that a second sending brings to light."""
    question = {53: DNS_QUESTION, 123: NTP_QUESTION}.get(port, b"?")
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as datagram:
        datagram.settimeout(TIMEOUT_S)
        datagram.connect(socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0][4])
        datagram.send(question)
        datagram.recv(512)


def ping(address: str) -> None:
    six = family_of(address) == socket.AF_INET6
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with socket.socket(family_of(address), socket.SOCK_DGRAM, protocol) as echo:
        echo.settimeout(TIMEOUT_S)
        echo.connect((address, 0))
        echo.send(bytes([128 if six else 8, 0, 0, 0, 0, 1, 0, 1]))
        echo.recv(512)


def attempt(destination: tuple[str, str, int]) -> str:
    protocol, address, port = destination
    try:
        match protocol:
            case "tcp":
                connect(address, port)
            case "udp":
                ask(address, port)
            case _:
                ping(address)
    except ConnectionRefusedError:
        return "out"  # the other end itself said no: the packet had left
    except TimeoutError:
        return "refused: silence"
    except OSError as error:
        return f"refused: {errno.errorcode.get(error.errno or 0, error.errno)}"
    return "out"


def start_as(account: str, destinations: list[tuple[str, str, int]]) -> int:
    """Try everything in a child that has become the account for good; return where it writes its verdicts."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return reading
    user = pwd.getpwnam(account)
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    with ThreadPoolExecutor(16) as pool:
        os.write(writing, json.dumps(list(pool.map(attempt, destinations))).encode())
    os._exit(0)


def verdicts(reading: int) -> list[str]:
    with os.fdopen(reading, "rb") as answer:
        return [str(verdict) for verdict in json.loads(answer.read())]


def main() -> None:
    task = json.loads(sys.argv[1])
    held = [listener for protocol, port in task["listen"] for listener in listen(protocol, port)]
    destinations = [
        (str(protocol), str(address), int(port)) for protocol, address, port in task["destinations"]
    ]
    running = {account: start_as(account, destinations) for account in task["accounts"]}
    json.dump({account: verdicts(reading) for account, reading in running.items()}, sys.stdout)
    for listener in held:
        listener.close()


if __name__ == "__main__":
    main()
