"""Root file systems, built once by mmdebstrap: the provider's Debian for hosts, and one for the services."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lab.machine import run
from lab.state import Lab
from tenantfleet.release.mirrors import machine_mirrors

SUITE = "trixie"

# Of Debian's genericcloud image: what a test can tell apart. No kernel, boot loader or network manager, for a
# host has none of its own; nftables is what every host here needs anyway. Nothing of this project.
_HOST_PACKAGES = [
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    "libnss-systemd",
    "libpam-systemd",
    "linux-sysctl-defaults",
    "dbus",
    "udev",
    "kmod",
    "cloud-init",
    "openssh-server",
    "sudo",
    "python3",
    "python3-apt",
    "unattended-upgrades",
    "nftables",
    "iproute2",
    "iputils-ping",
    "libcap2-bin",
    "netbase",
    "procps",
    "less",
    "curl",
    "ca-certificates",
    "tzdata",
    "xz-utils",
    "logrotate",
]

_SERVICE_PACKAGES = [
    "dnsmasq-base",
    "apt-cacher-ng",
    "chrony",
    "docker-registry",
    "nginx-light",
    "ca-certificates",
]

# Runs on this machine with the new root as $1. A host's identity comes at its first boot, from cloud-init.
_AS_A_CLOUD_IMAGE = r"""
set -eu
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/etc/hostname
: > "$1/etc/machine-id"                   # empty, not "uninitialized": no preset-all at first boot
ln -sf /dev/null "$1/etc/systemd/system/console-getty.service"            # there is no console
printf 'datasource_list: [NoCloud, None]\n' > "$1/etc/cloud/cloud.cfg.d/90_dpkg.cfg"
mkdir -p "$1/var/lib/containers"
"""


@dataclass(frozen=True)
class Image:
    """What makes a root file system; its name changes with any of it."""

    kind: str
    packages: tuple[str, ...]
    customize: str = ""

    @property
    def name(self) -> str:
        digest = hashlib.sha256("\n".join((SUITE, self.customize, *self.packages)).encode())
        return f"{self.kind}-{SUITE}-{digest.hexdigest()[:8]}"

    def path(self, lab: Lab) -> Path:
        return lab.images / self.name

    def built(self, lab: Lab) -> bool:
        return self.path(lab).exists()

    def build(self, lab: Lab) -> None:
        """Make it whole or not at all. Some 30 s on two cores."""
        fresh = lab.images / f".building-{self.name}"
        lab.discard(fresh)
        lab.images.mkdir(parents=True, exist_ok=True)
        run(
            "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(self.packages)}",
            "--skip=cleanup/apt/lists", SUITE, fresh, "-",
            stdin="\n".join(machine_mirrors().sources(SUITE)), env=os.environ | {"LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        if self.customize:
            run("sh", "-c", self.customize, "sh", fresh)
        fresh.rename(self.path(lab))


HOST = Image("host", tuple(_HOST_PACKAGES), _AS_A_CLOUD_IMAGE)
SERVICES = Image("services", tuple(_SERVICE_PACKAGES))
