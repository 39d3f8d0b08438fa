"""Proves that each layer works, through the same HTTP server and gate as a real call, into a sink of its own.

The connection is a socket pair inside this process: it has no address, so nobody else can take this way.
"""

import asyncio
import base64
import json
import logging
import secrets
import socket
import string
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from aiohttp import web

from egress_proxy.admission import Admitted, Ended, Question, Route
from egress_proxy.encodings import Encoding, variants
from egress_proxy.exit import Outbound, Reply
from egress_proxy.gate import Gate
from egress_proxy.metrics import Metrics
from egress_proxy.span import Layer
from egress_proxy.state import State

DEADLINE_S = 20
log = logging.getLogger(__name__)
log.setLevel(logging.ERROR)  # its matches are no news


@dataclass(frozen=True)
class Probe:
    """A secret on its way out: ``message`` holds it, no needle may leave, ``layer`` must catch it."""

    name: str
    message: dict[str, Any]
    needles: tuple[str, ...]
    layer: Layer


class _Admitting:
    """Admits everything into the sink."""

    async def admit(self, question: Question) -> Admitted:
        return Admitted(admission_id="selftest", run_id=question.provider, route=Route.SINK)

    async def end(self, admitted: Admitted, ended: Ended) -> None:
        """Nobody meters a self-test."""


class _Capture:
    """Keeps what would leave."""

    def __init__(self) -> None:
        self.wire: bytes | None = None

    @asynccontextmanager
    async def open(self, outbound: Outbound) -> AsyncIterator[Reply]:
        self.wire = outbound.wire

        async def chunks() -> AsyncIterator[bytes]:
            yield b"{}"

        yield Reply(200, {"Content-Type": "application/json"}, chunks())


async def failures(state: State) -> list[str]:
    """Send every probe; return the names of those whose secret left or was not caught by its layer."""
    capture = _Capture()
    metrics = Metrics()
    gate = Gate(
        state=lambda: state, admission=_Admitting(), upstream=capture, sink=capture, metrics=metrics, log=log
    )
    server = web.Server(gate.handle, auto_decompress=False, access_log=None)
    failed = []
    try:
        for probe in probes(state):
            capture.wire = None
            caught = _caught(metrics, probe.layer)
            async with asyncio.timeout(DEADLINE_S):
                status = await _send(server, _request(state, probe))
            wire = (capture.wire or b"").decode()
            leaked = not wire or any(needle in wire for needle in probe.needles)
            if status != b"200" or leaked or _caught(metrics, probe.layer) == caught:
                failed.append(probe.name)
    finally:
        await server.shutdown()
    return failed


def _caught(metrics: Metrics, layer: Layer) -> int:
    return sum(count for (found, _rule), count in metrics.matches.items() if found is layer)


def _request(state: State, probe: Probe) -> bytes:
    provider = next(iter(state.config.providers.values()))
    path = f"/{provider.id}{min(provider.paths)}"
    body = json.dumps({"model": "selftest", "messages": [probe.message]}).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: selftest\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {state.credentials.bearer}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _send(server: web.Server, request: bytes) -> bytes:
    """Return the status of the answer."""
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(server, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        writer.write(request)
        answer = await reader.read()
    finally:
        writer.close()
    return answer.split(b" ", 2)[1] if answer.count(b" ") > 1 else b""


def probes(state: State) -> Iterator[Probe]:
    """Yield a probe for each layer in force and, for the exact layer, each encoding and place."""
    forms = tuple(variant.text for variant in variants(state.canary))
    for name, text in _encoded(state.canary):
        yield Probe(name, {"role": "user", "content": f"a {text} z"}, forms, Layer.EXACT)
    inside = {"role": "assistant", "content": json.dumps({"output": [{"a": state.canary}]})}
    yield Probe("json in json", inside, forms, Layer.EXACT)
    yield Probe("key", {"role": "user", "content": [], "x": {state.canary: 1}}, forms, Layer.EXACT)
    key = "ghp_" + "".join(secrets.choice(string.ascii_letters) for _ in range(36))
    yield Probe("pattern", {"role": "user", "content": f"use {key}"}, (key,), Layer.PATTERN)
    if state.redactor.structural:
        word = "".join(secrets.choice(string.ascii_lowercase) for _ in range(10))
        named = {"role": "assistant", "content": json.dumps({"db_password": word})}
        yield Probe("structural", named, (word,), Layer.STRUCTURAL)
    if state.redactor.entropy:
        random = "0aZ1" + secrets.token_urlsafe(48).replace("-", "x").replace("_", "y")
        yield Probe("entropy", {"role": "user", "content": f"see {random} there"}, (random,), Layer.ENTROPY)


def _encoded(canary: str) -> Iterator[tuple[str, str]]:
    data = canary.encode()
    yield Encoding.PLAIN, canary
    yield Encoding.JSON, json.dumps(canary)
    yield Encoding.URL, quote(canary, safe="")
    yield Encoding.HEX, data.hex()
    for offset in range(3):
        shifted = b"xyz"[:offset] + data + b"tail"
        yield f"{Encoding.BASE64} {offset}", base64.b64encode(shifted).decode()
        yield f"{Encoding.BASE64URL} {offset}", base64.urlsafe_b64encode(shifted).decode()
