"""Say what a host looks like to somebody who knows neither way of managing it. Runs on the host, as root.

Standard output is one JSON object: `state`, what must be equal before and after a run and between ways, one
entry a thing; `found`, what the stock playbook needs to know and no task says (links, names in the vault).
"""

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TREES = ("/etc", "/opt/tenantfleet", "/usr/local/lib/tenantfleet", "/var/lib/tenantfleet")
# What the tools for accounts keep of the last change: nobody's state.
BACKUPS = frozenset(f"/etc/{name}-" for name in ("group", "gshadow", "passwd", "shadow", "subgid", "subuid"))
# Only themselves: below them the tenant's own programs write.
PLACES = (
    *("/var/lib/openclaw", "/var/lib/openclaw/workspace", "/var/lib/tf-link", "/var/lib/tf-link/spool"),
    *("/var/lib/tf-deploy", "/var/lib/tf-ops", "/run/tf-wrapper", "/run/tf-wrapper/plugin"),
    *("/run/tf-wrapper/admission", "/run/tf-wrapper/status"),
)
# One that was restarted has another InvocationID.
UNITS = (
    *("ssh.service", "ssh.socket", "systemd-journald.service", "tf-firewall.service", "nftables.service"),
    *("tf-egress.service", "tf-wrapper.service", "tf-link.service", "openclaw.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "tf-lockout-revert-boot.service"),
    "tf-firewall-check.socket",
)
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,InvocationID"
SLOTS = Path("/opt/tenantfleet")
UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/etc/containers/systemd"))


def said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def described(path: str) -> str:
    """Kind, mode, owner, and content by its digest; no times, for a look changes nothing."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return "nothing"
    words = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{words} -> {Path(path).readlink()}"
    if stat.S_ISREG(status.st_mode):
        return f"{words} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    return words


def below(root: str) -> Iterator[str]:
    yield root
    for folder, folders, files in os.walk(root):
        yield from (f"{folder}/{name}" for name in (*folders, *files))


def lasting(item: dict[str, Any]) -> dict[str, Any]:
    """What differs from load to load goes: handles, and who is counted in a set with a timeout just now."""
    passing = {"handle", "elem"} if "timeout" in item else {"handle"}
    return {key: value for key, value in item.items() if key not in passing}


def settings() -> Iterator[tuple[str, str]]:
    for file in sorted(Path("/etc/sysctl.d").glob("*tenantfleet*.conf")):
        for line in file.read_text().splitlines():
            name = line.partition("=")[0].strip()
            if name and name[0] not in "#;-" and "*" not in name:
                yield name, said("sysctl", "--values", name).strip()


def state() -> dict[str, str]:
    things = {path: described(path) for root in TREES for path in below(root) if path not in BACKUPS}
    things |= {path: described(path) for path in PLACES}
    things |= {f"sysctl {name}": value for name, value in settings()}
    rules = json.loads(said("nft", "--json", "--stateless", "list", "ruleset") or "null", object_hook=lasting)
    things["nftables"] = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
    for unit in said("systemctl", "show", f"--property={PROPERTIES}", *UNITS).split("\n\n"):
        values = dict(line.split("=", 1) for line in unit.strip().splitlines())
        things[f"unit {values.pop('Id')}"] = " ".join(f"{key}={values[key]}" for key in sorted(values))
    packages = said("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Package} ${Version}\n")
    things["packages"] = hashlib.sha256("".join(sorted(packages.splitlines())).encode()).hexdigest()
    things["images"] = said("podman", "images", "--no-trunc", "--quiet").strip()
    return things


def found() -> dict[str, Any]:
    slots = [path for path in sorted(SLOTS.glob("*/current")) if path.is_symlink()]
    linked = [path for folder in UNIT_FOLDERS for path in sorted(folder.rglob("*")) if path.is_symlink()]
    links = {str(path): str(path.readlink()) for path in linked if SLOTS in path.readlink().parents}
    return {
        "activations": {
            slot.parent.name: {"id": slot.readlink().name, "document": (slot / "activation.json").read_text()}
            for slot in slots
        },
        "links": links,
        "vault": sorted(path.name for path in Path("/var/lib/tenantfleet/vault").glob("*.cred")),
        "manifests": sorted(path.name for path in Path("/var/lib/tenantfleet/manifests").glob("*.json")),
        "trees": sorted(path.name for path in (SLOTS / "store").glob("*") if path.is_dir()),
    }


if __name__ == "__main__":
    print(json.dumps({"state": state(), "found": found()}))
