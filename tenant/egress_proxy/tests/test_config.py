from pathlib import Path
from typing import Any

import pytest
from egress_proxy.config import ConfigError, Limits, Redaction, parse_config
from egress_world import configuration


def with_provider(**changes: object) -> dict[str, Any]:
    document = configuration(Path("/run"), "https://api.example.test/v1")
    document["providers"][0].update(changes)
    return document


def test_a_minimal_configuration_has_the_documented_limits() -> None:
    document = with_provider()
    del document["limits"]
    config = parse_config(document)
    assert config.limits == Limits(8 << 20, 8 << 20, 16, 120)
    assert config.redaction == Redaction(structural=True, entropy=True)
    assert (config.host, config.port) == ("127.0.0.1", 0)


@pytest.mark.parametrize("listen", ["127.0.0.1:18080", "127.1.2.3:1", "[::1]:18080"])
def test_any_loopback_address_will_do(listen: str) -> None:
    assert parse_config({**with_provider(), "listen": listen}).port > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"upstream": "http://api.example.test/v1"},
        {"upstream": "https://api.example.test/v2"},
        {"upstream": "https://user@api.example.test/v1"},
        {"upstream": "https://api.example.test/v1?x=1"},
        {"upstream": "ftp://127.0.0.1/v1"},
        {"id": "../x"},
        {"id": ""},
        {"credential": "registry"},
        {"credential": "provider.../x"},
        {"paths": ["/v1/responses"]},
        {"paths": []},
        {"ca_file": "relative.pem"},
        {"api_key": "x"},
    ],
)
def test_a_provider_that_is_not_understood_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"providers\[0\]"):
        parse_config(with_provider(**changes))


def test_two_providers_of_one_id_are_refused() -> None:
    document = with_provider()
    document["providers"] *= 2
    with pytest.raises(ConfigError, match="each id once"):
        parse_config(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": "0.0.0.0:18080"},
        {"listen": "[::]:18080"},
        {"listen": "10.0.0.1:18080"},
        {"listen": "localhost:18080"},
        {"listen": "127.0.0.1"},
        {"surprise": 1},
        {"version": 2},
        {"version": True},
        {"limits": {"body_bytes": 0}},
        {"limits": {"body_bytes": True}},
        {"limits": {"bodybytes": 1}},
        {"redaction": {"exact": False}},
        {"redaction": {"entropy": 0}},
        {"admission_socket": "relative.sock"},
        {"providers": []},
    ],
)
def test_anything_else_than_version_1_on_loopback_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_config({**with_provider(), **changes})
