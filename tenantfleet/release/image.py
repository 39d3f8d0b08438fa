"""The OpenClaw image: a Debian root, and on it Node with OpenClaw."""

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from tenantfleet.release.archive import Member, Writable, fingerprint, members_below, write_tar
from tenantfleet.release.cache import Cache
from tenantfleet.release.debian import build_debian_root
from tenantfleet.release.oci import Layout
from tenantfleet.release.openclaw import NODE, OPENCLAW, build_openclaw_tree
from tenantfleet.release.pin import Pin, read_pin
from tenantfleet.release.programs import ensure_programs

SOURCE = "tenant/openclaw"
USER = "2101:2101"
HOME = "/var/lib/openclaw"
# Inputs of each stage: files of tenant/openclaw, and the modules here that act on them.
TREE_INPUTS = (("pin.yml", "package.json", "package-lock.json"), ("openclaw.py", "wheels.py"))
ROOT_INPUTS = (("pin.yml", "customize-root"), ("debian.py",))
IMAGE_INPUTS = ((), ("archive.py", "image.py", "oci.py"))

type Report = Callable[[str], None]


def openclaw_tree(root: Path, *, cache: Path, report: Report = lambda _: None) -> Path:
    """A directory with opt/node and opt/openclaw, built when the cache lacks it. Only to be read.

    Needs neither root nor Debian: tests run the real gateway from it with
    `opt/node/bin/node opt/openclaw/node_modules/openclaw/openclaw.mjs gateway run`.

    Raises:
        ReleaseError: see build_openclaw_tree.
    """
    source = root / SOURCE
    pin = read_pin(source)

    def build(target: Path) -> None:
        report(f"installing Node {pin.node.version} and OpenClaw {pin.openclaw.version}")
        target.mkdir()
        build_openclaw_tree(pin, source=source, target=target, root=root)

    return Cache(cache).get("openclaw-tree", _inputs(source, TREE_INPUTS), build)


def build_image(root: Path, *, cache: Path, report: Report = lambda _: None) -> Layout:
    """The image of the pinned OpenClaw as an OCI layout, built when the cache lacks it. Only to be read.

    Raises:
        ReleaseError: a stage failed, or a program is missing that this user cannot install.
    """
    source = root / SOURCE
    pin = read_pin(source)
    key = fingerprint(
        Member(PurePosixPath(name), path)
        for stage in (TREE_INPUTS, ROOT_INPUTS, IMAGE_INPUTS)
        for name, path in _files(source, stage).items()
    )

    def build(target: Path) -> None:
        ensure_programs("zstd")
        tree = openclaw_tree(root, cache=cache, report=report)
        debian = _debian_root(source, pin, cache=cache, report=report)
        report("compressing the layers")
        _assemble(Layout(target), pin, debian=debian, tree=tree)

    return Layout(Cache(cache).get("openclaw-image", key, build))


def _debian_root(source: Path, pin: Pin, *, cache: Path, report: Report) -> Path:
    def build(target: Path) -> None:
        report(f"building a Debian {pin.debian.suite} root")
        build_debian_root(pin.debian, hook=(source / "customize-root").resolve(), out=target)

    return Cache(cache).get("debian-root.tar", _inputs(source, ROOT_INPUTS), build)


def _assemble(layout: Layout, pin: Pin, *, debian: Path, tree: Path) -> None:
    def copy_root(stream: Writable) -> None:
        with debian.open("rb") as archive:
            shutil.copyfileobj(archive, stream, 1 << 20)

    def write_tree(stream: Writable) -> None:
        write_tar(members_below(tree), stream, epoch=pin.debian.epoch, links=True)

    layers = [layout.add_layer(copy_root), layout.add_layer(write_tree)]
    layout.seal(layers, _config(pin))


def _config(pin: Pin) -> dict[str, Any]:
    created = dt.datetime.fromtimestamp(pin.debian.epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "User": USER,
            "WorkingDir": HOME,
            "Env": [
                f"PATH=/{NODE.parent}:/usr/local/bin:/usr/bin:/bin",
                f"HOME={HOME}",
                "OPENCLAW_NO_AUTO_UPDATE=1",
            ],
            # no entry point: what a unit's Exec= says is the whole command
            "Cmd": [f"/{NODE}", f"/{OPENCLAW}", "gateway", "run"],
            "Labels": {
                "org.opencontainers.image.title": "tenantfleet openclaw",
                "org.opencontainers.image.version": pin.openclaw.version,
            },
        },
        "history": [
            {"created": created, "created_by": f"debian {pin.debian.suite}"},
            {"created": created, "created_by": f"node {pin.node.version}, openclaw {pin.openclaw.version}"},
        ],
    }


def _files(source: Path, inputs: tuple[tuple[str, ...], tuple[str, ...]]) -> dict[str, Path]:
    ours, builders = inputs
    return {f"source/{name}": source / name for name in ours} | {
        f"builder/{name}": Path(__file__).parent / name for name in builders
    }


def _inputs(source: Path, inputs: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    return fingerprint(Member(PurePosixPath(name), path) for name, path in _files(source, inputs).items())
