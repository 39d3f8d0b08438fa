"""The proxy that counts bytes and turns."""

import socket
import threading

from benchmarks import wire


def echo(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        while data := peer.recv(100):
            peer.sendall(data * 2)


def test_bytes_of_each_direction_and_turns_are_counted_once() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with wire.counting({"a": ("127.0.0.1", server.getsockname()[1])}) as counter:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", counter.ports["a"]), timeout=30) as client:
            for _ in range(3):
                client.sendall(b"12345")
                assert client.recv(10, socket.MSG_WAITALL) == b"1234512345"
        assert counter.taken() == wire.Passed(connections=1, sent=15, received=30, turns=3)
        assert counter.taken() == wire.Passed()
    server.close()
