"""Short questions to the programs beside us, over a unix socket or loopback, limited in time and size."""

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import override
from urllib.parse import urlsplit

from link.envelope import Json, canonical

TIMEOUT_S = 3.0
LIMIT_BYTES = 1 << 18


class Unanswered(Exception):  # noqa: N818 - what happened, not an error of ours
    """No usable answer; the text says why, and holds nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Json:
        """Return the body; fractions stay texts, as they have no canonical form. Raises Unanswered."""
        try:
            value: Json = json.loads(self.body, parse_float=str, parse_constant=str)
            canonical(value)  # half a surrogate pair parses, but could never be signed
        except (ValueError, RecursionError) as error:
            raise Unanswered("the answer is not JSON") from error
        return value


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def ask_socket(path: Path, target: str) -> Answer:
    """GET over a unix socket. Raises Unanswered."""
    return _ask(_UnixConnection(path), target)


def ask_url(url: str) -> Answer:
    """GET an http:// address. Raises Unanswered."""
    parts = urlsplit(url)
    return _ask(http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S), parts.path or "/")


def _ask(connection: http.client.HTTPConnection, target: str) -> Answer:
    try:
        connection.request("GET", target, headers={"Connection": "close"})
        with connection.getresponse() as response:  # it holds the socket open on its own account
            body = response.read(LIMIT_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unanswered(type(error).__name__) from error
    finally:
        connection.close()
    if len(body) > LIMIT_BYTES:
        raise Unanswered("the answer is too long")
    return Answer(response.status, body)
