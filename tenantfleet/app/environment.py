"""One environment on the operator's machine: settings, keys and ledger, all under one 0700 directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tenantfleet.app.payload import new_identity, recipient_of
from tenantfleet.execution.ssh import new_ca
from tenantfleet.inventory.database import LedgerDatabase
from tenantfleet.inventory.machines import MachineLedger
from tenantfleet.inventory.orders import OrderLedger
from tenantfleet.model.errors import EnvironmentMissingError, InputRefusedError
from tenantfleet.model.secret import Secret
from tenantfleet.model.settings import FleetSettings
from tenantfleet.providers.static import read_machines

if TYPE_CHECKING:
    from tenantfleet.model.machine import Machine

_SETTINGS = "settings.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An environment that was set up; `root` holds all of it."""

    root: Path
    settings: FleetSettings

    @property
    def database(self) -> LedgerDatabase:
        return LedgerDatabase(self.root / "ledger.sqlite")

    @property
    def machine_ledger(self) -> MachineLedger:
        return MachineLedger(self.database)

    @property
    def order_ledger(self) -> OrderLedger:
        return OrderLedger(self.database)

    @property
    def ssh_user_ca(self) -> str:
        """Public key line of the SSH user CA."""
        return (self.root / "ssh_user_ca.pub").read_text(encoding="utf-8").strip()

    @property
    def ssh_user_ca_key(self) -> Secret[str]:
        return Secret((self.root / "ssh_user_ca").read_text(encoding="utf-8"))

    @property
    def age_identity(self) -> Secret[str]:
        return Secret((self.root / "age.key").read_text(encoding="utf-8").strip())

    @property
    def recipients(self) -> tuple[str, str]:
        """Who can open a payload: this environment, and the recovery key that is kept elsewhere."""
        return recipient_of(self.age_identity), self.settings.recovery_recipient

    def machines(self) -> tuple[Machine, ...]:
        """The machines that the provider lists now."""
        return read_machines(self.path(self.settings.provider.machines))

    def path(self, written: str) -> Path:
        """A path of settings.yml: absolute, or relative to that file."""
        return self.root / Path(written).expanduser()

    def lock_file(self, machine_id: str) -> Path:
        """The file that the run of one machine holds."""
        locks = self.root / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        return locks / f"{machine_id}.lock"


def open_environment(home: Path, name: str) -> Environment:
    """Open an environment.

    Raises:
        EnvironmentMissingError: `environment.missing`.
        InputRefusedError: its settings.yml is not schema v1.
    """
    root = home / name
    try:
        text = (root / _SETTINGS).read_text(encoding="utf-8")
    except OSError:
        raise EnvironmentMissingError(
            f"there is no environment {name} in {home}",
            code="environment.missing",
            hint=f"Set it up: `tenantfleet init --environment {name} --settings FILE`, or name another with"
            " --environment.",
        ) from None
    return Environment(root=root, settings=FleetSettings.parse(text, kind="settings"))


def create_environment(home: Path, settings: FleetSettings) -> Environment:
    """Set an environment up: an age identity, an SSH user CA and an empty ledger.

    Safe to repeat: keys that exist are kept, settings are replaced.

    Raises:
        InputRefusedError: `settings.recovery_is_own`, recovery would need the very key that was lost.
    """
    root = home / settings.environment
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    if not (root / "age.key").exists():
        _write_new(root / "age.key", new_identity().reveal())
    if not (root / "ssh_user_ca").exists():
        private, public = new_ca()
        _write_new(root / "ssh_user_ca.pub", f"{public} tenantfleet-{settings.environment}\n")
        _write_new(root / "ssh_user_ca", private.reveal())
    environment = Environment(root=root, settings=settings)
    if settings.recovery_recipient == environment.recipients[0]:
        raise InputRefusedError(
            "the recovery recipient is this environment's own key",
            code="settings.recovery_is_own",
            hint="Make the recovery key elsewhere (`age-keygen`), and keep it off this machine.",
        )
    _replace(
        root / _SETTINGS, yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False)
    )
    environment.machine_ledger.records()
    return environment


def _write_new(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    _write_new(fresh, text)
    fresh.replace(path)
