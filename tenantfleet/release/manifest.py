"""Manifest v1: names every input of a tenant by digest (docs/contracts/release.md)."""

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from tenantfleet.release.errors import DigestMismatchError, InvalidManifestError

TREE_UNITS = ("egress_proxy", "link", "policy", "safety_wrapper")
IMAGE_UNITS = ("openclaw",)
# Tool stacks: a tree `tool_<stack>` each, and an image `image_<stack>` where the stack brings its own.
STACK_UNIT = re.compile(r"(?P<kind>tool|image)_[a-z][a-z0-9_]{0,24}")

# Far above any real manifest (1 kB): a bound before the parser sees anything.
MAX_BYTES = 65_536

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
"""A SHA-256 as 64 lower-case hexadecimal digits, without `sha256:`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Tree(_Frozen):
    """A reproducible .tar.gz in the release store; digest and size (bytes) are the archive's."""

    kind: Literal["tree"] = "tree"
    sha256: Sha256
    size: PositiveInt


class Image(_Frozen):
    """An OCI image; digest and size (bytes) are those of its manifest."""

    kind: Literal["oci"] = "oci"
    sha256: Sha256
    size: PositiveInt


Unit = Annotated[Tree | Image, Field(discriminator="kind")]


class Manifest(_Frozen):
    version: Literal[1] = 1
    channel: Literal["tenant"] = "tenant"
    node: Annotated[str, Field(pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}\z")]
    openclaw_lock_sha256: Sha256
    units: dict[str, Unit]

    @model_validator(mode="after")
    def _has_exactly_the_units(self) -> Self:
        kinds = {name: unit.kind for name, unit in self.units.items()}
        expected = dict.fromkeys(TREE_UNITS, "tree") | dict.fromkeys(IMAGE_UNITS, "oci")
        stacks = {name: found["kind"] for name in kinds if (found := STACK_UNIT.fullmatch(name))}
        expected |= {name: "tree" if kind == "tool" else "oci" for name, kind in stacks.items()}
        if kinds != expected:
            raise ValueError(f"units must be exactly {expected}, not {kinds}")
        return self

    def tree(self, unit: str) -> Tree:
        """The tree of a unit; KeyError when it names none."""
        found = self.units[unit]
        if not isinstance(found, Tree):
            raise KeyError(unit)
        return found

    def image(self, unit: str) -> Image:
        """The image of a unit; KeyError when it names none."""
        found = self.units[unit]
        if not isinstance(found, Image):
            raise KeyError(unit)
        return found

    @property
    def trees(self) -> dict[str, Tree]:
        return {name: unit for name, unit in self.units.items() if isinstance(unit, Tree)}

    @property
    def images(self) -> dict[str, Image]:
        return {name: unit for name, unit in self.units.items() if isinstance(unit, Image)}

    def canonical(self) -> bytes:
        """Canonical JSON: UTF-8, keys sorted, no white space."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes in hexadecimal: the name of the release."""
        return hashlib.sha256(self.canonical()).hexdigest()


def tool_unit(stack: str) -> str:
    """Name of the unit that holds a stack's template."""
    return f"tool_{stack}"


def image_unit(stack: str) -> str:
    """Name of the unit, and last part of the repository, of a stack's own image."""
    return f"image_{stack}"


def parse_manifest(data: bytes, *, digest: str | None = None) -> Manifest:
    """Read a manifest from exactly its canonical bytes.

    Args:
        data: as fetched.
        digest: SHA-256 in hexadecimal that the bytes must have.

    Raises:
        DigestMismatchError: the bytes have another digest.
        InvalidManifestError: anything that v1 does not allow, white space and repeated keys included.
    """
    if len(data) > MAX_BYTES:
        raise InvalidManifestError(f"a manifest has at most {MAX_BYTES} bytes, not {len(data)}")
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise DigestMismatchError(f"manifest {digest} has the digest {found}")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidManifestError(_explain(error)) from None
    if manifest.canonical() != data:
        raise InvalidManifestError("not canonical JSON: keys sorted, none twice, no white space")
    return manifest


def _explain(error: ValidationError) -> str:
    complaints = (f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors())
    return "invalid manifest: " + "; ".join(complaints)
