"""The files by which others find the hosts: ssh_config, known_hosts, machines.yml."""

import yaml

from lab import authority
from lab.host import Host
from lab.state import Lab, write_whole


def write(lab: Lab) -> None:
    """Bring them up to date with the hosts that exist."""
    hosts = Host.all(lab)
    # The authority, no host's own key: a reset changes nothing here.
    write_whole(lab.root / "known_hosts", f"@cert-authority * {authority.host_ca(lab)}\n")
    write_whole(lab.root / "ssh_config", "".join(map(_ssh_stanza, hosts)) + _ssh_common(lab))
    machines = [_machine(lab, host) for host in hosts]
    write_whole(
        lab.root / "machines.yml", yaml.safe_dump({"version": 1, "machines": machines}, sort_keys=False)
    )


def _ssh_stanza(host: Host) -> str:
    aliases = f"{host.name} lab-{host.name} {host.address} {host.address6}"
    return f"Host {aliases}\n  HostName {host.address}\n  HostKeyAlias {host.name}\n"


def _ssh_common(lab: Lab) -> str:
    return (
        "Host *\n  User debian\n"
        f"  IdentityFile {lab.keys}/client\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {lab.root}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n  HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com\n"
        "  ConnectTimeout 10\n  LogLevel ERROR\n"
    )


def _machine(lab: Lab, host: Host) -> dict[str, str]:
    return {
        "id": f"lab-{host.name}",
        "region": host.region,
        "site": "lab",
        "address": host.address,
        "host_ca": authority.host_ca(lab),
        "user": "debian",
    }
