"""The configuration file and the credentials: read once, strictly, then trusted."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from egress_proxy.json_body import NotStrictJsonError, parse_json

VERSION = 1
# The only protocol that the proxy understands well enough to redact and meter.
KNOWN_PATHS = frozenset({"/v1/chat/completions"})
PROVIDER_ID = re.compile(r"[a-z][a-z0-9-]{0,39}")
MIN_REDACTION_KEY_BYTES = 16


class ConfigError(ValueError):
    """The configuration or a credential is wrong; the text names the place, never a value of a secret."""


@dataclass(frozen=True)
class Provider:
    """One model provider.

    ``upstream`` is its base URL and ends in ``/v1``; ``credential`` names the file that holds its key;
    ``paths`` are the paths that callers may use below ``/<id>``; ``ca_file`` replaces the system's CA bundle.
    """

    id: str
    upstream: str
    credential: str
    paths: frozenset[str]
    ca_file: Path | None


@dataclass(frozen=True)
class Limits:
    """Bounds: bytes on the wire and decoded, requests at a time, seconds of silence from an upstream."""

    body_bytes: int = 8 * 1024 * 1024
    decoded_bytes: int = 8 * 1024 * 1024
    concurrent: int = 16
    upstream_timeout_s: int = 120


@dataclass(frozen=True)
class Redaction:
    """The best-effort layers that a tenant may switch off; the registry and known patterns are always on."""

    structural: bool = True
    entropy: bool = True


@dataclass(frozen=True)
class Config:
    host: str
    port: int
    providers: Mapping[str, Provider]
    admission_socket: Path
    limits: Limits
    redaction: Redaction


@dataclass(frozen=True)
class Credentials:
    """Secrets from systemd's credentials directory; never printed."""

    bearer: str = field(repr=False)
    redaction_key: bytes = field(repr=False)
    registry: Mapping[str, str] = field(repr=False)
    provider_keys: Mapping[str, str] = field(repr=False)


def load_config(path: Path) -> Config:
    """Read and check the configuration file.

    Raises:
        ConfigError: it cannot be read, is not version 1, or has a key or value that is not known.
    """
    try:
        return parse_config(parse_json(path.read_bytes()))
    except (OSError, NotStrictJsonError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(document: object) -> Config:
    top = _fields(
        document,
        "configuration",
        required={"version", "listen", "providers", "admission_socket"},
        optional={"limits", "redaction"},
    )
    if type(top["version"]) is not int or top["version"] != VERSION:
        raise ConfigError(f"configuration: version {VERSION} is required")
    host, port = _loopback(_text(top["listen"], "listen"))
    providers = [_provider(entry, index) for index, entry in enumerate(_list(top["providers"], "providers"))]
    by_id = {provider.id: provider for provider in providers}
    if not providers or len(by_id) != len(providers):
        raise ConfigError("providers: at least one, each id once")
    return Config(
        host=host,
        port=port,
        providers=by_id,
        admission_socket=_absolute(top["admission_socket"], "admission_socket"),
        limits=Limits(**_positive(top.get("limits", {}), "limits", Limits)),
        redaction=Redaction(**_switches(top.get("redaction", {}), "redaction", Redaction)),
    )


def _provider(entry: object, index: int) -> Provider:
    where = f"providers[{index}]"
    value = _fields(entry, where, required={"id", "upstream", "credential", "paths"}, optional={"ca_file"})
    identifier, credential = (
        _text(value["id"], f"{where}.id"),
        _text(value["credential"], f"{where}.credential"),
    )
    if not PROVIDER_ID.fullmatch(identifier):
        raise ConfigError(f"{where}.id: lower-case letters, digits and dashes only")
    if not credential.startswith("provider.") or "/" in credential:
        raise ConfigError(f"{where}.credential: must be named provider.<id>")
    paths = frozenset(_text(path, f"{where}.paths") for path in _list(value["paths"], f"{where}.paths"))
    if not paths or paths - KNOWN_PATHS:
        raise ConfigError(
            f"{where}.paths: one or more of {sorted(KNOWN_PATHS)}; no other protocol is supported"
        )
    return Provider(
        id=identifier,
        upstream=_upstream(_text(value["upstream"], f"{where}.upstream"), where),
        credential=credential,
        paths=paths,
        ca_file=_absolute(value["ca_file"], f"{where}.ca_file") if "ca_file" in value else None,
    )


def _upstream(url: str, where: str) -> str:
    parts = urlsplit(url)
    if (
        parts.query
        or parts.fragment
        or parts.username
        or not parts.hostname
        or not parts.path.endswith("/v1")
    ):
        raise ConfigError(f"{where}.upstream: https://host[:port]/…/v1 without user, query or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ConfigError(f"{where}.upstream: https, or http to a loopback address")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _loopback(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not _is_loopback(host):
        raise ConfigError("listen: refused, only a loopback address is allowed")
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ConfigError("listen: ADDRESS:PORT is required")
    return host, int(port)


def _fields(value: object, where: str, *, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: an object is required")
    if missing := required - value.keys():
        raise ConfigError(f"{where}: {sorted(missing)} missing")
    if unknown := value.keys() - required - optional:
        raise ConfigError(f"{where}: {sorted(unknown)} not known")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: a text is required")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: a list is required")
    return value


def _absolute(value: object, where: str) -> Path:
    path = Path(_text(value, where))
    if not path.is_absolute():
        raise ConfigError(f"{where}: an absolute path is required")
    return path


def _positive(value: object, where: str, kind: type[Limits]) -> dict[str, int]:
    limits = _fields(value, where, required=set(), optional=set(kind.__dataclass_fields__))
    if any(type(limit) is not int or limit < 1 for limit in limits.values()):
        raise ConfigError(f"{where}: positive whole numbers only")
    return limits


def _switches(value: object, where: str, kind: type[Redaction]) -> dict[str, bool]:
    switches = _fields(value, where, required=set(), optional=set(kind.__dataclass_fields__))
    if any(type(switch) is not bool for switch in switches.values()):
        raise ConfigError(f"{where}: true or false only")
    return switches


def load_credentials(directory: Path, config: Config) -> Credentials:
    """Read every credential that ``config`` needs from systemd's directory.

    Raises:
        ConfigError: one is missing, empty or malformed.
    """
    names = {provider.credential for provider in config.providers.values()}
    redaction_key = _secret(directory, "redaction_key").encode()
    if len(redaction_key) < MIN_REDACTION_KEY_BYTES:
        raise ConfigError(f"credential redaction_key: {MIN_REDACTION_KEY_BYTES} bytes at least")
    return Credentials(
        bearer=_secret(directory, "egress_bearer"),
        redaction_key=redaction_key,
        registry=_registry(_secret(directory, "registry")),
        provider_keys={name: _secret(directory, name) for name in sorted(names)},
    )


def _secret(directory: Path, name: str) -> str:
    try:
        value = (directory / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"credential {name}: {type(error).__name__}") from None
    if not value:
        raise ConfigError(f"credential {name}: empty")
    return value


def _registry(text: str) -> Mapping[str, str]:
    # No exception text from the parser may travel on: it could quote a secret.
    try:
        entries = parse_json(text.encode())
    except NotStrictJsonError:
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise ConfigError("credential registry: a JSON object from names to texts is required")
    return entries
