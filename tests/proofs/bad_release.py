"""Releases that cannot pass their probe: built and published by the project's own means, of mutated sources.

Each bad unit starts, lets its probe fail, and ends with EX_CONFIG once a file is there: so a test decides
when, and no activation has to wait for its longest deadline.
"""

import json
import shutil
import subprocess
from pathlib import Path

from lab import endpoints
from lab.fleet import ROOT
from lab.state import Lab
from tenantfleet.release.build import layout_in, manifest_in, read_built, write_atomically
from tenantfleet.release.manifest import Image, Manifest
from tenantfleet.release.oci import Layer, Layout
from tenantfleet.release.publish import publish_release

MAY_END = "/run/may-end"
# of the host's folders the gateway's container sees this one at any time
GATEWAY_MAY_END = "/var/lib/openclaw/may-end"
EX_CONFIG = 78

_ENDS = f"""import pathlib, sys, time
def end_when_told():
    while not pathlib.Path("{MAY_END}").exists():
        time.sleep(0.2)
    sys.exit({EX_CONFIG})
"""
# Listens, and says that it is not ready.
_PROXY = (
    _ENDS
    + """
import http.server, threading
class NotReady(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 18080), NotReady)
threading.Thread(target=server.serve_forever, daemon=True).start()
end_when_told()
"""
)
# Reports to systemd that it is up, and admits nobody; its other commands are as they were.
_WRAPPER = (
    _ENDS
    + """
import os, socket
if sys.argv[1:2] == ["--config"]:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    end_when_told()
from safety_wrapper.cli import main
sys.exit(main(sys.argv[1:]))
"""
)
_GATEWAY = ["/bin/sh", "-c", f"until test -e {GATEWAY_MAY_END}; do sleep 0.2; done; exit {EX_CONFIG}"]
_MAINS = {"egress_proxy": _PROXY, "safety_wrapper": _WRAPPER}


def publish_bad(lab: Lab, unit: str, *, of: str, folder: Path) -> str:
    """Publish a release in which one unit is bad; return its digest.

    Args:
        lab: whose store and registry get it.
        unit: egress_proxy, safety_wrapper or openclaw.
        of: digest of the good release, `sha256:…`, which build/release holds.
        folder: scratch, on the repository's file system if blobs are to be shared.
    """
    built = folder / "built"
    if unit == "openclaw":
        digest = _with_bad_image(read_built(ROOT / "build/release", of.removeprefix("sha256:")), built)
    else:
        digest = _with_bad_tree(unit, folder / "root", built)
    place = endpoints.info(lab)
    publish_release(
        digest.removeprefix("sha256:"),
        built=built,
        store=Path(place["store_dir"]),
        registry=place["registry_address"],
        ca_file=Path(place["ca_file"]),
    )
    return digest


def _with_bad_tree(unit: str, root: Path, built: Path) -> str:
    shutil.copytree(ROOT / "tenant", root / "tenant", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (root / ".cache").symlink_to(ROOT / ".cache")
    (root / "tenant" / unit / "__main__.py").write_text(_MAINS[unit])
    command = [str(ROOT / ".venv/bin/tenantfleet"), "release", "build", "--json"]
    done = subprocess.run(
        [*command, "--root", str(root), "--built", str(built)], check=True, stdout=subprocess.PIPE, text=True
    )
    return str(json.loads(done.stdout)["digest"])


def _with_bad_image(good: Manifest, built: Path) -> str:
    """The good image's layers under another command: never ready."""
    shutil.copytree(ROOT / "build/release", built)
    layout = layout_in(built)
    image = _with_command(layout, _GATEWAY)
    bad = good.model_copy(update={"units": {**good.units, "openclaw": image}})
    write_atomically(manifest_in(built, bad.digest), bad.canonical())
    return f"sha256:{bad.digest}"


def _with_command(layout: Layout, command: list[str]) -> Image:
    def blob(digest: str) -> Path:
        return layout.blobs / digest.removeprefix("sha256:")

    manifest = json.loads(blob(layout.image().sha256).read_bytes())
    config = json.loads(blob(manifest["config"]["digest"]).read_bytes())
    described = zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
    layers = [Layer(descriptor, diff_id) for descriptor, diff_id in described]
    return layout.seal(layers, {**config, "config": {**config["config"], "Cmd": command}})
