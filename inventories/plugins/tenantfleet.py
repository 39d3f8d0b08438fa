"""Inventory plugin: the machines of an environment, with their tenants' facts. A shim."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.errors import AnsibleParserError  # type: ignore[import-untyped]
from ansible.plugins.inventory import BaseInventoryPlugin  # type: ignore[import-untyped]

from tenantfleet.ansible_plugins.inventory import hosts_of_source
from tenantfleet.inventory.render import host_variables
from tenantfleet.model.errors import TenantfleetError

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData  # type: ignore[import-untyped]
    from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]

DOCUMENTATION = """
name: tenantfleet
short_description: Machines of a tenantfleet environment
description:
  - Reads C(*.tenantfleet.yml) and the list of machines that it names.
  - Adds what the environment's ledger knows of their tenants.
  - Groups are by region (C(region_eu_lab)), by class (C(class_sandbox)), and C(tenants) or C(unclaimed).
  - Host keys are checked against the list of machines only. No account is set, each play names its own.
options:
  plugin:
    description: Always C(tenantfleet).
    required: true
    choices: [tenantfleet]
  environment:
    description: Name of the environment, as in C(tenantfleet --environment).
    required: true
  provider:
    description: Where machines come from.
    required: true
    choices: [static]
  machines:
    description: Path of the list of machines, relative to the source file.
    default: machines.yml
"""


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]  # ansible-core has no type information
    """Ansible's side: which files are ours, and how hosts get into its inventory."""

    NAME = "tenantfleet"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith((".tenantfleet.yml", ".tenantfleet.yaml"))

    def parse(
        self,
        inventory: InventoryData,
        loader: DataLoader,
        path: str,
        cache: bool = True,  # noqa: FBT001, FBT002 - Ansible's signature
    ) -> None:
        super().parse(inventory, loader, path, cache)
        try:
            hosts = hosts_of_source(Path(path), home=_home())
        except TenantfleetError as error:
            raise AnsibleParserError(f"{error.cause}. {error.hint}") from error
        for host in hosts:
            name = host.machine.id
            inventory.add_host(name)
            for group in host.groups:
                inventory.add_group(group)
                inventory.add_host(name, group=group)
            for key, value in host_variables(host).items():
                inventory.set_variable(name, key, value)


def _home() -> Path:
    """The state directory, found as the command line finds it."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return Path(os.environ.get("TENANTFLEET_HOME") or state / "tenantfleet")
