"""Runs on a host, fed to its Python: prints as JSON how the host is set up, a text for each thing.

Argument: JSON {word: stand-in} of what is the host's own; each word is replaced wherever it stands.
"""

import grp
import hashlib
import json
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FOLDERS = ("/etc", "/opt/tenantfleet", "/usr/local/lib/tenantfleet", "/var/lib/tenantfleet")
# Not compared, each for a reason; everything else is.
EXCLUDED_FILES = {
    "/etc/machine-id": "the host's own",
    "/etc/hostname": "the host's own",
    "/etc/hosts": "the host's own name and addresses",
    "/etc/ssh/ssh_host_*": "the host's own keys",
    "/etc/*-": "copies that the account tools keep of the file before",
    "/etc/.pwd.lock": "a lock",
    "/etc/.updated": "a time stamp",
    "/etc/ld.so.cache": "order of installation",
    "/etc/cloud/*": "left by the first boot of the machine",
    "/etc/systemd/system/cloud-*": "left by the first boot of the machine",
    "*/__pycache__/*": "made by running, not by installing",
    "*/.lock": "a lock",
}
# Name and mode count, content does not: sealed with a key of the host, a verdict with its time, the number of
# a run, the authority of an environment.
EXCLUDED_CONTENTS = (
    "/etc/ssh/tenantfleet_user_ca.pub",
    "/var/lib/tenantfleet/vault/*",
    "/var/lib/tenantfleet/activations/*",
    "/opt/tenantfleet/*/activation.json",
    "/etc/shadow",
    "/var/lib/tenantfleet/run/*",
)
# Units that come and go by themselves.
EXCLUDED_UNITS = (
    "user@*", "user-*", "session-*", "run-*", "tf-activate-*", "tf-firewall-check@*", "apt-daily*",
    "dpkg-db-backup*", "man-db*", "logrotate*", "systemd-tmpfiles-clean*", "systemd-hostnamed*",
    "systemd-timedated*", "e2scrub*", "fstrim*", "cloud-*", "podman*",
)  # fmt: skip
# Ids of activations (the vault's blobs enter them) and of orders.
IDS = re.compile(rb"\b[0-9a-f]{16}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
VOLATILE_IN_RULES = {"handle", "packets", "bytes", "elem", "index"}


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(text, pattern) for pattern in patterns)


def own(content: bytes, words: dict[str, str]) -> bytes:
    """Without what is this host's own."""
    for word in sorted(words, key=len, reverse=True):
        content = content.replace(word.encode(), words[word].encode())
    return IDS.sub(b"<id>", content)


def files(words: dict[str, str]) -> Iterator[tuple[str, str]]:
    for top in FOLDERS:
        for folder, folders, names in os.walk(top):
            for name in [*folders, *names]:
                path = Path(folder, name)
                if not matches(str(path), EXCLUDED_FILES):
                    yield own(str(path).encode(), words).decode(), described(path, words)


def described(path: Path, words: dict[str, str]) -> str:
    status = path.lstat()
    owner = f"{pwd.getpwuid(status.st_uid).pw_name}:{grp.getgrgid(status.st_gid).gr_name}"
    if path.is_symlink():
        return f"link to {own(str(path.readlink()).encode(), words).decode()}"
    about = f"{owner} {stat.S_IMODE(status.st_mode):04o}"
    if not stat.S_ISREG(status.st_mode):
        return f"{about} {stat.filemode(status.st_mode)[0]}"
    if matches(str(path), EXCLUDED_CONTENTS):
        return f"{about} file"
    return f"{about} {hashlib.sha256(own(path.read_bytes(), words)).hexdigest()[:16]}"


def units() -> Iterator[tuple[str, str]]:
    for line in output("systemctl", "list-unit-files", "--no-legend", "--no-pager").splitlines():
        name, state = line.split()[:2]
        if not matches(name, EXCLUDED_UNITS) and state != "transient":
            yield f"unit file {name}", state
    kinds = "--type=service,socket,timer,path"
    for line in output(
        "systemctl", "list-units", kinds, "--state=active,failed", "--plain", "--no-legend"
    ).splitlines():
        name, _, active, sub = line.split()[:4]
        if not matches(name, EXCLUDED_UNITS):
            yield f"unit {name}", f"{active} {sub}"


def containers() -> Iterator[tuple[str, str]]:
    if Path("/usr/bin/podman").exists():
        for line in output(
            "podman", "ps", "--all", "--format", "{{.Names}} {{.Image}} {{.State}}"
        ).splitlines():
            name, _, about = line.partition(" ")
            yield f"container {name}", about
        for image in output("podman", "images", "--quiet", "--no-trunc").split():
            yield f"image {image}", "is here"


def accounts() -> Iterator[tuple[str, str]]:
    for database in ("passwd", "group"):
        for line in output("getent", database).splitlines():
            name, _, rest = line.partition(":")
            yield f"{database} {name}", rest


def rules(words: dict[str, str]) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(json.loads(output("nft", "-j", "list", "ruleset"))["nftables"]):
        if "metainfo" not in item:
            text = json.dumps(steady(item), sort_keys=True)
            yield f"rule {number:03}", own(text.encode(), words).decode()


def steady(item: Any) -> Any:  # noqa: ANN401 - any JSON
    """Without counters and handles; of a set that fills itself only what it is."""
    if isinstance(item, dict):
        fills_itself = "dynamic" in (item.get("flags") or ())
        left_out = VOLATILE_IN_RULES - (set() if fills_itself else {"elem"})
        return {key: steady(value) for key, value in item.items() if key not in left_out}
    return [steady(value) for value in item] if isinstance(item, list) else item


def main() -> None:
    words = json.loads(sys.argv[1])
    found = [*files(words), *units(), *containers(), *accounts(), *rules(words)]
    json.dump(dict(found), sys.stdout)


main()
