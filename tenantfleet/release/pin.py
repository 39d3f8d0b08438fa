"""What the OpenClaw image is made of: tenant/openclaw/pin.yml and the npm lock beside it."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.manifest import Sha256

# One word of a package's name or version: these end up in argument lists and in a requirements file.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,80}\z")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenClawPin(_Frozen):
    version: Word
    integrity: Annotated[str, Field(pattern=r"^sha512-[A-Za-z0-9+/]{86}==\z")]
    node_range: str


class NodePin(_Frozen):
    version: Word
    wheel: Word
    sha256: Sha256


class DebianPin(_Frozen):
    suite: Word
    as_of: dt.date
    packages: list[Word]

    @property
    def epoch(self) -> int:
        """Seconds since 1970 of the day's first moment in UTC."""
        return int(dt.datetime.combine(self.as_of, dt.time(), dt.UTC).timestamp())


class Pin(_Frozen):
    version: Literal[1]
    openclaw: OpenClawPin
    node: NodePin
    debian: DebianPin


def read_pin(directory: Path) -> Pin:
    """Read pin.yml and hold it against package-lock.json.

    Raises:
        ReleaseError: pin.yml is malformed, or the lock was made for something else than the pin.
    """
    path = directory / "pin.yml"
    try:
        pin = Pin.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ReleaseError(f"{path}: {error}") from None
    _check_lock(pin, directory / "package-lock.json")
    return pin


def _check_lock(pin: Pin, path: Path) -> None:
    packages: dict[str, dict[str, Any]] = json.loads(path.read_text())["packages"]
    locked = packages.get("node_modules/openclaw", {})
    if (locked.get("version"), locked.get("integrity")) != (pin.openclaw.version, pin.openclaw.integrity):
        raise ReleaseError(f"{path} locks another OpenClaw than pin.yml: see tenant/openclaw/README.md")
    if locked.get("engines", {}).get("node") != pin.openclaw.node_range:
        raise ReleaseError(f"{path}: OpenClaw wants Node {locked.get('engines')}, pin.yml says otherwise")
    for name, package in packages.items():
        if "resolved" in package:
            raise ReleaseError(
                f"{path}: {name} has a download address: lock with omit-lockfile-registry-resolved"
            )
        if name and "integrity" not in package and not package.get("inBundle"):
            raise ReleaseError(f"{path}: {name} has no hash")
