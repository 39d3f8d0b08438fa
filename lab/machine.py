"""This machine: programs that the lab needs, and the settings of its own that hosts must share."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from lab.state import Lab, LabError

_NEEDED = {  # a program: the Debian package that brings it
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "mkfs.ext4": "e2fsprogs",
}


def run(*argv: str | Path, stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return its output; LabError says what it said."""
    done = subprocess.run(
        [str(word) for word in argv], input=stdin, text=True, capture_output=True, check=False, env=env
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise LabError(f"{' '.join(map(str, argv))[:200]} failed ({done.returncode}): {said}")
    return done.stdout


def missing_packages() -> list[str]:
    return sorted({package for program, package in _NEEDED.items() if not shutil.which(program)})


def install(packages: list[str]) -> None:
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", env=env)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, env=env)


_SHARED_APT_OPTIONS = ("::check-date", "::check-valid-until", "::timeout", "::retries")


def apt_options() -> str:
    """This machine's time limits and date checks, as apt.conf lines (a test machine's clock may be off)."""
    lines = run("apt-config", "dump", "Acquire").splitlines()
    return "".join(f"{line}\n" for line in lines if line.split(" ")[0].lower().endswith(_SHARED_APT_OPTIONS))


def apt_proxy() -> str | None:
    """The proxy through which this machine's own apt reaches the archive."""
    found = run("apt-config", "shell", "PROXY", "Acquire::http::Proxy").strip()
    return shlex.split(found)[0].partition("=")[2] if found else None


def added_certificates() -> list[str]:
    """PEM of the certification authorities that this machine adds to Debian's (intercepting proxies)."""
    return [path.read_text() for path in sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))]


# Hosts are routed, and every systemd holds several of root's inotify instances (default: 128).
_SETTINGS_FILE = Path("/run/tenantfleet-lab-settings.json")  # gone at boot, as the settings are


def raise_settings(wanted: dict[str, int]) -> None:
    """Raise sysctls (path below /proc/sys: least value), noting what they were for the last lab to go."""
    before: dict[str, int] = json.loads(_SETTINGS_FILE.read_text()) if _SETTINGS_FILE.exists() else {}
    for key, least in wanted.items():
        setting = Path("/proc/sys", key)
        if int(setting.read_text()) < least:
            before.setdefault(key, int(setting.read_text()))
            _SETTINGS_FILE.write_text(json.dumps(before))
            setting.write_text(str(least))


def restore_settings(lab: Lab) -> None:
    """Take the settings back, unless another lab's bridge still stands on this machine."""
    others = [link.name for link in Path("/sys/class/net").glob("tflab*") if link.name != lab.bridge]
    if others or not _SETTINGS_FILE.exists():
        return
    for key, value in json.loads(_SETTINGS_FILE.read_text()).items():
        setting = Path("/proc/sys", key)
        if setting.exists():
            setting.write_text(str(value))
    _SETTINGS_FILE.unlink()
