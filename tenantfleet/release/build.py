"""All units of a release, from the repository into one directory."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from tenantfleet.release.archive import sha256_of
from tenantfleet.release.cache import Cache
from tenantfleet.release.errors import InvalidManifestError
from tenantfleet.release.image import SOURCE, Report, build_image
from tenantfleet.release.manifest import (
    TREE_UNITS,
    Image,
    Manifest,
    Tree,
    image_unit,
    parse_manifest,
    tool_unit,
)
from tenantfleet.release.oci import Layout
from tenantfleet.release.pin import read_pin
from tenantfleet.release.stacks import StackSource, build_stack_image, find_stacks, pack_stack
from tenantfleet.release.tree import TreeSource, build_tree, inspect_tree


def build_release(
    root: Path, *, out: Path, cache: Path, stacks: Path | None = None, report: Report = lambda _: None
) -> Manifest:
    """Build what changed and put a whole release into `out`: manifests/, trees/, oci/<unit>/.

    Files of earlier releases stay in manifests/ and trees/; oci/ holds this release's images only.

    Args:
        root: the repository.
        stacks: directory with a folder for each tool stack; None for a release without tools.
        out: a directory; made when missing.
        cache: where results are kept by the digest of their inputs.
        report: hears one line for each slow step.

    Raises:
        ReleaseError: a unit cannot be built; nothing of this release is named by a manifest then.
    """
    trees = {unit: _tree(TreeSource(root, unit), out=out, cache=cache, report=report) for unit in TREE_UNITS}
    image = place_layout(build_image(root, cache=cache, report=report), layout_in(out))
    tools: dict[str, Tree | Image] = {}
    for source in find_stacks(stacks) if stacks else ():
        tools |= _stack(source, out=out, cache=cache, report=report)
    manifest = Manifest(
        node=read_pin(root / SOURCE).node.version,
        openclaw_lock_sha256=sha256_of(root / SOURCE / "package-lock.json"),
        units={**trees, "openclaw": image, **tools},
    )
    write_atomically(manifest_in(out, manifest.digest), manifest.canonical())
    return manifest


def manifest_in(directory: Path, digest: str) -> Path:
    """Where a release directory or store keeps a manifest."""
    return directory / "manifests" / f"{digest}.json"


def tree_in(directory: Path, sha256: str) -> Path:
    """Where a release directory or store keeps the archive of a tree."""
    return directory / "trees" / f"{sha256}.tar.gz"


def layout_in(directory: Path, unit: str = "openclaw") -> Layout:
    """Where a release directory keeps the image of a unit."""
    return Layout(directory / "oci" / unit)


def read_built(out: Path, digest: str) -> Manifest:
    """The manifest of a release that was built into `out`.

    Raises:
        ReleaseError: there is none, or it is not what its name says.
    """
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise InvalidManifestError(f"a release is named by 64 lower-case hexadecimal digits, not {digest!r}")
    path = manifest_in(out, digest)
    if not path.is_file():
        raise InvalidManifestError(f"no release {digest} in {out}: build it first")
    return parse_manifest(path.read_bytes(), digest=digest)


def _tree(source: TreeSource, *, out: Path, cache: Path, report: Report) -> Tree:
    def build(target: Path) -> None:
        report(f"packing {source.unit}")
        build_tree(source, target)

    archive = Cache(cache).get(f"tree-{source.unit}", source.fingerprint(), build)
    tree = inspect_tree(archive)
    place(archive, tree_in(out, tree.sha256))
    return tree


def _stack(source: StackSource, *, out: Path, cache: Path, report: Report) -> dict[str, Tree | Image]:
    units: dict[str, Tree | Image] = {}
    image = None
    if source.brings_an_image:
        layout = build_stack_image(source, cache=cache, report=report)
        unit = image_unit(source.name)
        units[unit] = image = place_layout(layout, layout_in(out, unit))
    stack = source.checked(image)
    with tempfile.TemporaryDirectory(prefix=f"stack-{source.name}-") as scratch:
        archive = Path(scratch, "stack.tar.gz")
        units[tool_unit(source.name)] = tree = pack_stack(stack, archive)
        place(archive, tree_in(out, tree.sha256))
    return units


def place_layout(layout: Layout, target: Layout) -> Image:
    """Make `target` the same layout; its files are shared with the cache where the file system allows."""
    image = layout.image()
    if target.directory.is_dir() and target.image() == image:
        return image
    target.directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.directory.parent) as scratch:
        fresh = Path(scratch, "layout")
        shutil.copytree(layout.directory, fresh, copy_function=_share)
        if target.directory.exists():
            target.directory.rename(Path(scratch, "former"))
        fresh.rename(target.directory)
    return image


def place(source: Path, target: Path) -> None:
    """Copy a file to a name that it has either wholly or not at all; an existing one stays."""
    if not target.exists():
        write_atomically(target, source.read_bytes())


def write_atomically(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        partial.write(content)
        os.fchmod(partial.fileno(), 0o644)
        os.fsync(partial.fileno())
    Path(partial.name).replace(target)


def _share(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
