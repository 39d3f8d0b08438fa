"""The daemon's own configuration, a JSON file that its activation renders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_wrapper.strict import InvalidDocumentError, check_keys, integer, name, read_object

HIGHEST_UID = 2**32 - 2
SHA256_DIGITS = 64


@dataclass(frozen=True)
class Sockets:
    plugin: Path
    admission: Path
    status: Path


@dataclass(frozen=True)
class Config:
    """What the daemon is told about its host; see docs/contracts/host.md."""

    plugin_sha256: str
    plugin_mount: Path
    plugin_store: Path
    gateway_unit: str
    gateway_uid: int
    egress_uid: int
    link_uid: int
    ops_uid: int
    policy: Path
    tenant: Path
    sockets: Sockets


DEFAULTS: Mapping[str, Any] = {
    "plugin_mount": "/opt/tenantfleet/plugin",
    "plugin_store": "/opt/tenantfleet/store",
    "gateway_unit": "openclaw.service",
    "gateway_uid": 2101,
    "egress_uid": 2102,
    "link_uid": 2104,
    "ops_uid": 2106,
    "policy": "/opt/tenantfleet/policy/current/code/policy.json",
    "tenant": "/etc/tenantfleet/tenant.json",
    "sockets": {
        "plugin": "/run/tf-wrapper/plugin/plugin.sock",
        "admission": "/run/tf-wrapper/admission/admission.sock",
        "status": "/run/tf-wrapper/status/status.sock",
    },
}


def load_config(path: Path) -> Config:
    """Return the configuration in ``path``.

    Raises:
        InvalidDocumentError: a key is unknown, missing or of another type.
    """
    return parse_config(read_object(path))


def parse_config(given: Mapping[str, Any]) -> Config:
    """Return the configuration; what is not given is as docs/contracts/host.md has it."""
    where = "config"
    check_keys(given, where=where, required={"version", "plugin_sha256"}, optional=frozenset(DEFAULTS))
    integer(given, "version", where=where, least=1, most=1)
    document = {**DEFAULTS, **given}
    return Config(
        plugin_sha256=_sha256(document, where),
        plugin_mount=_path(document, "plugin_mount", where),
        plugin_store=_path(document, "plugin_store", where),
        gateway_unit=name(document, "gateway_unit", where=where),
        gateway_uid=_uid(document, "gateway_uid", where),
        egress_uid=_uid(document, "egress_uid", where),
        link_uid=_uid(document, "link_uid", where),
        ops_uid=_uid(document, "ops_uid", where),
        policy=_path(document, "policy", where),
        tenant=_path(document, "tenant", where),
        sockets=_sockets(document["sockets"]),
    )


def _sockets(document: object) -> Sockets:
    where = "config.sockets"
    if not isinstance(document, dict):
        raise InvalidDocumentError(f"{where} is no object")
    check_keys(document, where=where, required={"plugin", "admission", "status"})
    return Sockets(
        plugin=_path(document, "plugin", where),
        admission=_path(document, "admission", where),
        status=_path(document, "status", where),
    )


def _path(document: Mapping[str, Any], key: str, where: str) -> Path:
    path = Path(name(document, key, where=where))
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidDocumentError(f"{where}.{key} is no absolute path without '..'")
    return path


def _uid(document: Mapping[str, Any], key: str, where: str) -> int:
    # 0 would let root's own processes pass as the agent's gateway or the proxy.
    return integer(document, key, where=where, least=1, most=HIGHEST_UID)


def _sha256(document: Mapping[str, Any], where: str) -> str:
    digest = name(document, "plugin_sha256", where=where)
    if len(digest) != SHA256_DIGITS or not set(digest) <= set("0123456789abcdef"):
        raise InvalidDocumentError(f"{where}.plugin_sha256 is no SHA-256 in lower-case hexadecimal digits")
    return digest
