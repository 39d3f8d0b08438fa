"""From machines and their facts to what Ansible reads. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantfleet.model.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHost:
    """One host of an inventory: its machine, groups and non-secret variables."""

    machine: Machine
    groups: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)


def ssh_arguments(machine: Machine, *, known_hosts: str) -> str:
    """Options that make ssh believe in this machine's own key or CA only, and in no file of the user's.

    `ssh -F none` and absolute paths: neither ~/.ssh/config nor an agent has a say.
    """
    options = {
        "UserKnownHostsFile": known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": machine.id,
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
    }
    return shlex.join(
        ["-F", "none", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    )


def known_hosts_text(machines: Iterable[Machine]) -> str:
    """A known_hosts file that holds these machines and no other."""
    return "".join(f"{machine.known_hosts_line()}\n" for machine in machines)


def host_variables(host: FleetHost, *, known_hosts: str) -> dict[str, Any]:
    """All variables of one host. The account is not among them: each play names its own."""
    return {
        **host.variables,
        "ansible_host": host.machine.address,
        "ansible_ssh_common_args": ssh_arguments(host.machine, known_hosts=known_hosts),
    }


def group_name(kind: str, value: str) -> str:
    """A group's name as Ansible allows it, e.g. `region_eu_lab`."""
    return f"{kind}_{value}".replace("-", "_")


def inventory_document(hosts: Iterable[FleetHost], *, known_hosts: str) -> dict[str, Any]:
    """The inventory of one run, in the form of Ansible's yaml plugin: these hosts and no other."""
    every: dict[str, Any] = {}
    children: dict[str, dict[str, dict[str, Any]]] = {}
    for host in hosts:
        every[host.machine.id] = host_variables(host, known_hosts=known_hosts)
        for group in host.groups:
            children.setdefault(group, {"hosts": {}})["hosts"][host.machine.id] = {}
    return {"all": {"hosts": every, "children": children}}
