"""The first steps of a service's process: into its group and its file system, then it becomes the service.

    python -m lab.service_process LAB_DIR NAME image|machine PROGRAM ARGUMENT...

Its mounts are in a namespace of its own: they end with it.
"""

import os
import sys
from pathlib import Path

from lab.cgroup import Group
from lab.image import SERVICES
from lab.kernel import Mount, bind, make_root, mount
from lab.service import SERVICE_FOLDER, STORE_FOLDER
from lab.state import Lab

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def _enter_image(lab: Lab, name: str) -> None:
    os.unshare(os.CLONE_NEWNS)
    mount("none", "/", flags=Mount.RECURSIVE | Mount.PRIVATE)
    root = SERVICES.path(lab)
    bind(root, root)
    for folder in ("run", "tmp", "srv"):
        mount("tmpfs", root / folder, kind="tmpfs", data="mode=755")
    for source, target in ((lab.services / name, SERVICE_FOLDER), (lab.store, STORE_FOLDER)):
        inside = root / target.lstrip("/")
        inside.mkdir()
        bind(source, inside)
    for name_in_root in ("dev", "proc"):
        bind(Path("/", name_in_root), root / name_in_root, recursive=True)
    bind(Path("/etc/resolv.conf").resolve(), root / "etc/resolv.conf")
    mount("none", root, flags=Mount.BIND | Mount.REMOUNT | Mount.READ_ONLY)
    make_root(root)


def main() -> None:
    lab, name, place, argv = Lab(Path(sys.argv[1])), sys.argv[2], sys.argv[3], sys.argv[4:]
    Group.of(lab, "services", name).enter()
    if place == "image":
        _enter_image(lab, name)
        os.execvpe(argv[0], argv, _ENVIRONMENT)  # noqa: S606 (no shell, by intent)
    os.execvp(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main()
