"""A built release into a release store and an image registry, each checked by digest afterwards."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tenantfleet.release.archive import sha256_of
from tenantfleet.release.build import layout_in, manifest_in, place, read_built, tree_in
from tenantfleet.release.errors import DigestMismatchError
from tenantfleet.release.image import Report
from tenantfleet.release.manifest import Image, Manifest
from tenantfleet.release.oci import Layout
from tenantfleet.release.programs import ensure_programs, run

# What is trusted is the digest, compared here and again on every host; no policy file decides.
SKOPEO = ("skopeo", "--insecure-policy")


def publish_release(
    digest: str,
    *,
    built: Path,
    store: Path,
    registry: str,
    ca_file: Path | None = None,
    report: Report = lambda _: None,
) -> Manifest:
    """Copy a release where hosts fetch it. Safe to repeat: what is there already is only checked.

    The manifest goes last, so that whoever can read it can fetch all that it names.

    Args:
        digest: of the manifest, hexadecimal.
        built: directory that build_release filled.
        store: directory that the release store serves.
        registry: host[:port]; skopeo's own login file gives credentials.
        ca_file: PEM certificates that the registry's certificate must lead to; None for the machine's own.
        report: hears one line for each part.

    Raises:
        DigestMismatchError: a file here, in the store or in the registry is not what the manifest says.
        ReleaseError: the release was not built here, or the registry refuses.
    """
    manifest = read_built(built, digest)
    for unit, tree in manifest.trees.items():
        report(f"storing {unit}")
        place(tree_in(built, tree.sha256), tree_in(store, tree.sha256))
        _check_file(tree_in(store, tree.sha256), tree.sha256)
    for unit, image in manifest.images.items():
        report(f"pushing {unit}")
        push_image(layout_in(built, unit), image, f"{registry}/tenantfleet/{unit}", ca_file=ca_file)
    place(manifest_in(built, digest), manifest_in(store, digest))
    _check_file(manifest_in(store, digest), digest)
    return manifest


def push_image(layout: Layout, image: Image, repository: str, *, ca_file: Path | None = None) -> None:
    """Push an image by digest, without a tag, unless the registry has it.

    Raises:
        DigestMismatchError: the layout holds another image, or the registry kept another one.
        ReleaseError: the registry refuses.
    """
    ensure_programs("skopeo")
    if layout.image() != image:
        raise DigestMismatchError(
            f"{layout.directory} holds {layout.image().sha256}, not {image.sha256}: build again"
        )
    reference = f"docker://{repository}@sha256:{image.sha256}"
    with tempfile.TemporaryDirectory(prefix="registry-ca-") as certificates:
        if ca_file:
            shutil.copyfile(ca_file, Path(certificates, "ca.crt"))
        if _registry_has(reference, image, certificates):
            return
        layout.verify()
        run([*SKOPEO, "copy", "--quiet", "--preserve-digests", "--dest-cert-dir", certificates,
             f"oci:{layout.directory}", reference])  # fmt: skip
        if not _registry_has(reference, image, certificates):
            raise DigestMismatchError(f"{reference} is not what was pushed")


def _registry_has(reference: str, image: Image, certificates: str) -> bool:
    argv = [*SKOPEO, "inspect", "--raw", "--cert-dir", certificates, reference]
    done = subprocess.run(argv, capture_output=True, check=False)
    return done.returncode == 0 and hashlib.sha256(done.stdout).hexdigest() == image.sha256


def _check_file(path: Path, sha256: str) -> None:
    if sha256_of(path) != sha256:
        raise DigestMismatchError(f"{path} is not what its name says: remove it and publish again")
