"""The link's configuration: one JSON file, judged before anything starts."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

SHORTEST_S, LONGEST_S = 5, 300
UNITS = ("egress_proxy", "safety_wrapper", "policy", "openclaw", "link")


class ConfigError(Exception):
    """The configuration cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Paths and addresses as docs/contracts/host.md has them: a tenant's file names little more than itself.

    Attributes:
        tenant_id: whose heartbeat this is.
        interval_s: whole seconds between heartbeats, 5 to 300; each wait is 90 to 110 % of it.
        state_dir: keeps the sequence; `spool/` below it receives the heartbeat.
        activations_dir: holds `<unit>/current`.
        status_socket: the wrapper's status, HTTP over a unix socket.
        egress_url: the egress proxy; `/readyz` and `/metrics` are asked.
        openclaw_url: asked for any answer below 500.
        clock_file: made by systemd-timesyncd at its first synchronisation of this boot; adjtimex(2) would
            know as well, but a unit with `ProtectClock` may not call it, not even to read.
    """

    tenant_id: str
    interval_s: int = 30
    state_dir: Path = Path("/var/lib/tf-link")
    activations_dir: Path = Path("/opt/tenantfleet")
    status_socket: Path = Path("/run/tf-wrapper/status/status.sock")
    egress_url: str = "http://127.0.0.1:18080"
    openclaw_url: str = "http://127.0.0.1:18789/readyz"
    clock_file: Path = Path("/run/systemd/timesync/synchronized")

    @property
    def spool(self) -> Path:
        return self.state_dir / "spool"


def load_config(path: Path) -> Config:
    """Read and judge the file. Raises ConfigError."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be an object")
    return config_of(document)


def config_of(document: dict[str, object]) -> Config:
    known = {field.name: field.type for field in fields(Config)}
    if unknown := sorted(document.keys() - known.keys()):
        raise ConfigError(f"unknown: {', '.join(unknown)}")
    values: dict[str, object] = {}
    for name, value in document.items():
        wanted = int if name == "interval_s" else str
        if type(value) is not wanted:
            raise ConfigError(f"{name}: must be {'a whole number' if wanted is int else 'a text'}")
        values[name] = Path(str(value)) if known[name] is Path else value
    config = _built(values)
    if not SHORTEST_S <= config.interval_s <= LONGEST_S:
        raise ConfigError(f"interval_s: must be {SHORTEST_S} to {LONGEST_S}")
    if not config.tenant_id:
        raise ConfigError("tenant_id: must not be empty")
    return config


def _built(values: dict[str, object]) -> Config:
    try:
        return Config(**values)  # type: ignore[arg-type]  # each value was compared with its field above
    except TypeError as error:
        raise ConfigError("tenant_id: is missing") from error
