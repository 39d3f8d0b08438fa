"""Tool stacks of a release: for each a tree with its checked template, and the image that it runs."""

import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from tenantfleet.model.document import canonical, plain
from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.stack import RELEASE_REGISTRY, Stack, StackFile, check_stack
from tenantfleet.release.archive import Member, Writable, fingerprint, members_below, write_tar
from tenantfleet.release.cache import Cache
from tenantfleet.release.debian import build_debian_root
from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.image import Report
from tenantfleet.release.manifest import Image, Tree, image_unit
from tenantfleet.release.oci import Layout
from tenantfleet.release.pin import DebianPin
from tenantfleet.release.programs import ensure_programs
from tenantfleet.release.tree import pack_tree

HERE = Path(__file__).parent
HOOK = HERE / "customize-stack-root"
BUILDERS = ("archive.py", "debian.py", "oci.py", "stacks.py", HOOK.name)


class ImageFile(DebianPin):
    """image.yml: Debian packages of the stack's image; files/ beside it is laid over them."""

    version: Literal[1]


@dataclass(frozen=True)
class StackSource:
    """A folder with stack.yml, compose.yaml and, when it brings an image of its own, image.yml and files/."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def brings_an_image(self) -> bool:
        return (self.directory / "image.yml").is_file()

    def image_file(self) -> ImageFile:
        """Packages of the image; ReleaseError when image.yml is malformed."""
        path = self.directory / "image.yml"
        try:
            return ImageFile.model_validate(yaml.safe_load(path.read_text()))
        except (yaml.YAMLError, ValidationError) as error:
            raise ReleaseError(f"{path}: {error}") from None

    def checked(self, image: Image | None) -> Stack:
        """The stack with its own image's digest in the template's place for it.

        Raises:
            ReleaseError: the stack says something that no stack may.
        """
        try:
            file = StackFile.parse((self.directory / "stack.yml").read_text(), kind="stack")
            template = plain((self.directory / "compose.yaml").read_text(), kind="stack")
            return check_stack(self.name, file=file, compose=_with_image(template, self.name, image))
        except (InputRefusedError, OSError) as error:
            raise ReleaseError(f"{self.directory}: {error}") from None


def find_stacks(directory: Path) -> Iterator[StackSource]:
    """Each folder with a stack.yml, by name."""
    return (StackSource(path.parent) for path in sorted(directory.glob("*/stack.yml")))


def pack_stack(stack: Stack, out: Path) -> Tree:
    """Write a stack's tree: what was checked, in canonical JSON, so that no two readers can differ."""
    documents = {
        "compose.json": stack.compose.model_dump(mode="json", exclude_defaults=True),
        "stack.json": stack.file.model_dump(mode="json", exclude_defaults=True),
    }
    with tempfile.TemporaryDirectory(prefix=f"tree-{stack.name}-") as scratch:
        for name, document in documents.items():
            Path(scratch, name).write_bytes(canonical(document))
        return pack_tree(members_below(Path(scratch)), out)


def build_stack_image(source: StackSource, *, cache: Path, report: Report = lambda _: None) -> Layout:
    """The image of a stack as an OCI layout, built when the cache lacks it. Only to be read.

    Raises:
        ReleaseError: a stage failed, or a program is missing that this user cannot install.
    """
    pin = source.image_file()
    root_inputs = [_member("image.yml", source.directory / "image.yml"), *_members(HERE, BUILDERS)]
    overlay = source.directory / "files"
    inputs = [*root_inputs, *members_below(overlay, prefix=PurePosixPath("files"))]

    def build_root(target: Path) -> None:
        report(f"building a Debian {pin.suite} root for {source.name}")
        build_debian_root(pin, hook=HOOK.resolve(), out=target)

    def build(target: Path) -> None:
        ensure_programs("zstd")
        debian = Cache(cache).get(f"stack-root-{source.name}", fingerprint(root_inputs), build_root)
        report(f"compressing the layers of {source.name}")
        _assemble(Layout(target), source.name, pin, debian=debian, overlay=overlay)

    return Layout(Cache(cache).get(f"stack-image-{source.name}", fingerprint(inputs), build))


def _assemble(layout: Layout, name: str, pin: DebianPin, *, debian: Path, overlay: Path) -> None:
    def copy_root(stream: Writable) -> None:
        with debian.open("rb") as archive:
            shutil.copyfileobj(archive, stream, 1 << 20)

    def write_overlay(stream: Writable) -> None:
        write_tar(members_below(overlay), stream, epoch=pin.epoch, links=False)

    created = dt.datetime.fromtimestamp(pin.epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    layout.seal(
        [layout.add_layer(copy_root), layout.add_layer(write_overlay)],
        {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            # neither user nor command: a template names both, or is refused
            "config": {
                "Env": ["PATH=/usr/bin:/bin"],
                "Labels": {"org.opencontainers.image.title": f"tenantfleet tool {name}"},
            },
            "history": [
                {"created": created, "created_by": f"debian {pin.suite}"},
                {"created": created, "created_by": f"stack {name}"},
            ],
        },
    )


def _with_image(template: Any, stack: str, image: Image | None) -> Any:  # noqa: ANN401 - not yet checked
    """The template with the digest of the stack's own image wherever it names an image like the stack."""
    if image is None or not isinstance(template, dict) or not isinstance(template.get("services"), dict):
        return template
    own = f"{RELEASE_REGISTRY}/tenantfleet/{image_unit(stack)}@sha256:{image.sha256}"
    services = {
        name: {**service, "image": own}
        if isinstance(service, dict) and service.get("image") == stack
        else service
        for name, service in template["services"].items()
    }
    return {**template, "services": services}


def _members(directory: Path, names: tuple[str, ...]) -> list[Member]:
    return [_member(f"builder/{name}", directory / name) for name in names]


def _member(name: str, path: Path) -> Member:
    return Member(PurePosixPath(name), path)
