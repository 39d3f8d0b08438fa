"""listener_info reads the kernel's own tables."""

import importlib.util
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "library/listener_info.py"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("listener_info", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


listener_info = loaded()


@pytest.mark.parametrize(
    ("family", "kind", "address"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
        (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1"),
        (socket.AF_INET6, socket.SOCK_DGRAM, "::1"),
    ],
)
def test_a_socket_that_listens_is_found_with_its_owner(family: int, kind: int, address: str) -> None:
    with socket.socket(family, kind) as listening:
        listening.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            listening.listen()
        proto = "tcp" if kind == socket.SOCK_STREAM else "udp"
        port = listening.getsockname()[1]
        found = [one for one in listener_info.all_listeners() if (one["proto"], one["port"]) == (proto, port)]
    assert [(one["address"], one["uid"], one["loopback"]) for one in found] == [(address, os.getuid(), True)]


def test_a_connection_is_no_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        ports = {one["port"] for one in listener_info.all_listeners() if one["proto"] == "tcp"}
        assert server.getsockname()[1] in ports
        assert client.getsockname()[1] not in ports


@pytest.mark.skipif(sys.byteorder != "little", reason="the sample is of a little-endian machine")
@pytest.mark.parametrize(
    ("hexadecimal", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("0500000A", "10.0.0.5"),
        ("00000000000000000000000001000000", "::1"),
        ("B80D01200000000000000000010000FF", "2001:db8::ff00:1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
    ],
)
def test_an_address_is_read_in_the_kernels_byte_order(hexadecimal: str, address: str) -> None:
    assert str(listener_info.address_of(hexadecimal)) == address


def listener(**how: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of a listener
    return {"proto": "tcp", "address": "10.0.0.5", "port": 22, "loopback": False, **how}


EVERYWHERE = {"proto": "tcp", "port": 22, "address": None}


def test_what_is_listed_is_expected_and_nothing_else_off_the_loopback() -> None:
    assert listener_info.is_expected(listener(), [EVERYWHERE])
    assert listener_info.is_expected(listener(port=18080, loopback=True), [])
    assert not listener_info.is_expected(listener(port=18080), [EVERYWHERE])
    assert not listener_info.is_expected(listener(proto="udp"), [EVERYWHERE])
    assert not listener_info.is_expected(listener(), [{**EVERYWHERE, "address": "10.0.0.1"}])
