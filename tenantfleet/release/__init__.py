"""Releases: built from the repository, named by digest, published to a store and a registry."""

from tenantfleet.release.build import build_release
from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.image import openclaw_tree
from tenantfleet.release.manifest import Manifest, parse_manifest
from tenantfleet.release.publish import publish_release

__all__ = ["Manifest", "ReleaseError", "build_release", "openclaw_tree", "parse_manifest", "publish_release"]
