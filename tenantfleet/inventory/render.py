"""From machines and their facts to what Ansible reads. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tenantfleet.model.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHost:
    """One host of an inventory: its machine, groups, non-secret variables, and the run that changes it."""

    machine: Machine
    run_number: int | None = None
    groups: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)


def ssh_arguments(machine: Machine, run_number: int | None = None) -> str:
    """Options that make ssh believe in this machine's own key or CA only, and in nothing of the user's.

    Neither ~/.ssh/config nor an agent nor a known_hosts file has a say; a command prints what to believe.
    The run's number is presented to the host's gate with every command.
    """
    options = {
        "UserKnownHostsFile": "/dev/null",
        "GlobalKnownHostsFile": "/dev/null",
        "KnownHostsCommand": f"/bin/echo {machine.known_hosts_line()}",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": machine.id,
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
    }
    if run_number is not None:
        options["SetEnv"] = f"TENANTFLEET_RUN_NUMBER={run_number}"
    words = ["-F", "none", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    return shlex.join(words)


def host_variables(host: FleetHost) -> dict[str, Any]:
    """All variables of one host. The account is not among them: each play names its own."""
    return {
        **host.variables,
        **({} if host.run_number is None else {"run_number": host.run_number}),
        "ansible_host": host.machine.address,
        "ansible_ssh_common_args": ssh_arguments(host.machine, host.run_number),
    }


def group_name(kind: str, value: str) -> str:
    """A group's name as Ansible allows it, e.g. `region_eu_lab`."""
    return f"{kind}_{value}".replace("-", "_")


def host_groups(machine: Machine, tenant: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Groups by region, and by class when a tenant is on it: `tenants`, else `unclaimed`."""
    region = group_name("region", machine.region)
    if tenant is None:
        return (region, "unclaimed")
    return (region, group_name("class", tenant["tenant_class"]), "tenants")


def inventory_document(hosts: Iterable[FleetHost]) -> dict[str, Any]:
    """The inventory of one run, in the form of Ansible's yaml plugin: these hosts and no other."""
    every: dict[str, Any] = {}
    children: dict[str, dict[str, dict[str, Any]]] = {}
    for host in hosts:
        every[host.machine.id] = host_variables(host)
        for group in host.groups:
            children.setdefault(group, {"hosts": {}})["hosts"][host.machine.id] = {}
    return {"all": {"hosts": every, "children": children}}
