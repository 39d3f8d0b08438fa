"""What a provider hands a new machine at its first boot: a NoCloud seed for cloud-init."""

import json

import yaml

from lab import authority, endpoints, machine
from lab.host import Host

# Of cloud-init's modules those that set up access, trust and names, all in its network stage: SSH opens when
# they are done. The rest (growing disks, locales, package upgrades, ...) would only take time on a lab host.
_MODULES = [
    "write_files",
    "set_hostname",
    "update_hostname",
    "update_etc_hosts",
    "ca_certs",
    "users_groups",
    "ssh",
]


def seed(host: Host) -> dict[str, str]:
    """Files of the seed by name. Holds the host's private key: for root only."""
    names = [host.name, f"lab-{host.name}", f"{host.name}.lab.test", host.address, host.address6]
    key = authority.new_host_key(host.lab, name=host.name, principals=names)
    user_data = {
        "hostname": host.name,
        "fqdn": f"{host.name}.lab.test",
        "manage_etc_hosts": True,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": key.private,
            "ed25519_public": key.public,
            "ed25519_certificate": key.certificate,
        },
        "users": [_account(host)],
        "ca_certs": {"trusted": _trusted(host)},
        "write_files": [{"path": path, "content": content} for path, content in _files(host).items()],
        "cloud_init_modules": _MODULES,
        "cloud_config_modules": [],
        "cloud_final_modules": [],
    }
    meta_data = {"instance-id": f"lab-{host.machine_uuid}", "local-hostname": host.name}
    return {
        "meta-data": json.dumps(meta_data),
        "user-data": "#cloud-config\n" + yaml.safe_dump(user_data),
        "network-config": "network: {config: disabled}\n",  # eth0 comes up from outside
    }


def _account(host: Host) -> dict[str, object]:
    return {
        "name": "debian",
        "shell": "/bin/bash",
        "lock_passwd": True,
        "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
        "ssh_authorized_keys": [authority.client_key(host.lab)],
    }


def _trusted(host: Host) -> list[str]:
    return [*machine.added_certificates(), authority.ca_certificate(host.lab)]


def _files(host: Host) -> dict[str, str]:
    lab = host.lab
    proxies = {"http": f"http://{lab.gateway}:{endpoints.APT_PORT}", "https": "DIRECT"}
    options = [f'Acquire::{scheme}::Proxy "{proxy}";\n' for scheme, proxy in proxies.items()]
    return {
        "/etc/apt/apt.conf.d/90lab": machine.apt_options() + "".join(options),
        "/etc/resolv.conf": f"nameserver {lab.gateway}\nnameserver {lab.gateway6}\n",
    }
