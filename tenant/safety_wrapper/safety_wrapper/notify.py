"""sd_notify(3), as much of it as this daemon needs."""

import os
import socket


def notify(*states: str) -> None:
    """Tell systemd the states (``READY=1``, …); without a service manager there is nobody to tell."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        connection.sendall("\n".join(states).encode())
