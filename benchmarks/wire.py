"""A proxy before each host's SSH that counts what passes: bytes of each direction, and turns.

A turn is a change from answering to asking: an upper bound of round trips, whatever the machine's speed.
"""

import asyncio
import json
import multiprocessing
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

CHUNK = 1 << 18


@dataclass
class Passed:
    """What passed since the last question."""

    connections: int = 0
    sent: int = 0  # bytes to the hosts
    received: int = 0
    turns: int = 0


@dataclass(frozen=True)
class Wire:
    """The proxy as its user sees it; `ports`: host name → port on 127.0.0.1."""

    ports: Mapping[str, int]
    pipe: Connection

    def taken(self) -> Passed:
        """What passed since the last call."""
        self.pipe.send("take")
        return Passed(**json.loads(self.pipe.recv()))


@contextmanager
def counting(addresses: Mapping[str, tuple[str, int]]) -> Iterator[Wire]:
    """Serve one port a host in a process of its own, so that its CPU time is nobody's.

    Args:
        addresses: host name → IPv4 address and port.
    """
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in addresses}
    ports = {name: int(listener.getsockname()[1]) for name, listener in sockets.items()}
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(sockets, dict(addresses), theirs), daemon=True
    )
    process.start()
    for listener in sockets.values():
        listener.close()
    try:
        yield Wire(ports, ours)
    finally:
        process.terminate()
        process.join()


def _serve(
    sockets: dict[str, socket.socket], addresses: dict[str, tuple[str, int]], pipe: Connection
) -> None:
    asyncio.run(_Proxy(addresses, pipe).run(sockets))


class _Proxy:
    def __init__(self, addresses: dict[str, tuple[str, int]], pipe: Connection) -> None:
        self.addresses, self.pipe, self.passed = addresses, pipe, Passed()

    async def run(self, sockets: dict[str, socket.socket]) -> None:
        for name, listener in sockets.items():
            await asyncio.start_server(lambda r, w, name=name: self.carry(name, r, w), sock=listener)  # type: ignore[misc]
        done = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.pipe.fileno(), self.answer, done)
        await done.wait()

    def answer(self, done: asyncio.Event) -> None:
        try:
            self.pipe.recv()
        except EOFError:
            done.set()
            return
        self.pipe.send(json.dumps(asdict(self.passed)))
        self.passed = Passed()

    async def carry(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self.addresses[name], limit=CHUNK)
        self.passed.connections += 1
        asked = [False]  # of this connection: who spoke last
        await asyncio.gather(
            self.pump(reader, back, asked, asking=True), self.pump(there, writer, asked, asking=False)
        )

    async def pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, asked: list[bool], *, asking: bool
    ) -> None:
        try:
            while data := await source.read(CHUNK):
                if asking:
                    self.passed.turns += not asked[0]
                    self.passed.sent += len(data)
                else:
                    self.passed.received += len(data)
                asked[0] = asking
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # one side hung up hard: so does the other
        finally:
            sink.close()
