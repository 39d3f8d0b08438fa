"""A control plane over a lab, driven as an operator drives it: by `tenantfleet`, with a home of its own."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab import endpoints, fleet
from lab.state import Lab, LabError, write_whole

ENVIRONMENT = "dev"
REGION = "eu-lab"
PROVIDER = "openai"


@dataclass(frozen=True, kw_only=True)
class Control:
    """An environment whose machines are the named hosts of a lab, no others; all of it lies in `home`.

    A lab may hold hosts of somebody else's, and a free machine is whoever's order comes first.
    """

    lab: Lab
    home: Path
    hosts: tuple[str, ...]
    # fields of each machine's entry that are to be different, to try what a wrong one does
    changes: Mapping[str, str] = field(default_factory=dict)

    def command(self, *argv: str) -> list[str]:
        """The words that an operator types."""
        return [str(fleet.ROOT / ".venv/bin/tenantfleet"), *argv]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TENANTFLEET_HOME": str(self.home), "TENANTFLEET_ENVIRONMENT": ENVIRONMENT}

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command and keep what it prints.

        Raises LabError with the command's own words when `check` and it fails.
        """
        done = subprocess.run(
            self.command(*argv),
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=fleet.ROOT,
        )
        if check and done.returncode:
            raise LabError(
                f"tenantfleet {' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def init(self) -> None:
        """Set the environment up, with settings that point at the lab. Safe to repeat."""
        place = endpoints.info(self.lab)
        recovery = self.home / "recovery.key"
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = {
            "version": 1,
            "environment": ENVIRONMENT,
            "regions": [REGION],
            "provider": {"kind": "static", "machines": str(self._list_machines())},
            "store_url": place["store_url"],
            "store_ca": place["ca_file"],
            "store_address": place["gateway"],
            "registry": place["registry"],
            "first_contact_key": str(self.lab.keys / "client"),
            "egress_providers": [{"id": PROVIDER, "upstream": place["model_url"], "model": "lab-1"}],
            "network": fleet.network(self.lab),
        }
        path = self.home / "settings-dev.yml"
        write_whole(path, json.dumps(settings, indent=2))  # JSON is YAML, and has no aliases
        made = () if recovery.exists() else ("--recovery-key-file", str(recovery))
        self.run("init", "--settings", str(path), *made)

    def _list_machines(self) -> Path:
        listed = yaml.safe_load(Path(endpoints.info(self.lab)["machines_file"]).read_text())["machines"]
        wanted = {f"lab-{host}" for host in self.hosts}
        machines = [{**machine, **self.changes} for machine in listed if machine["id"] in wanted]
        if len(machines) != len(wanted):
            raise LabError(f"the lab has not all of {', '.join(self.hosts)}: `lab up` comes first")
        path = self.home / "machines.yml"
        write_whole(path, yaml.safe_dump({"version": 1, "machines": machines}, sort_keys=False))
        return path

    def order(
        self,
        tenant: str,
        *,
        release: str,
        secrets: dict[str, str],
        tools: Sequence[str] = (),
        **options: str,
    ) -> Path:
        """Write a sealed order; return its file. Another call for the same tenant is another order."""
        folder = self.home / "orders"
        folder.mkdir(mode=0o700, exist_ok=True)
        plain, path = folder / f"{tenant}.secrets.yml", folder / f"{tenant}.yml"
        write_whole(plain, yaml.safe_dump(secrets), mode=0o600)
        given = {
            "region": REGION,
            "domain": f"{tenant}.lab.test",
            "release": release,
            "class": "sandbox",
            "secrets": str(plain),
            "output": str(path),
            **options,
        }
        try:
            chosen = [f"--tool={tool}" for tool in tools]
            self.run("order", "new", tenant, *(f"--{name}={value}" for name, value in given.items()), *chosen)
        finally:
            plain.unlink()
        return path

    def status(self, tenant: str) -> dict[str, Any]:
        """What the ledger says of a tenant's orders and their steps."""
        answer: dict[str, Any] = json.loads(self.run("status", tenant, "--json").stdout)
        return answer
