"""From a settings file and the options of `init` to settings.yml."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tenantfleet.app.orders import read_text
from tenantfleet.app.payload import new_identity, recipient_of
from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.settings import FleetSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What `tenantfleet init` was told besides the file; paths are relative to the working directory."""

    regions: tuple[str, ...] = ()
    machines: Path | None = None
    store_url: str | None = None
    store_ca: Path | None = None
    store_address: str | None = None
    registry: str | None = None
    egress_providers: tuple[str, ...] = ()
    first_contact_key: Path | None = None
    recovery_recipient: str | None = None
    recovery_key_file: Path | None = None


def make_settings(home: Path, name: str, file: Path | None, options: InitOptions) -> FleetSettings:
    """Settings from the file (or those in force when there is none), the options on top.

    Raises:
        InputRefusedError: what comes out is not schema v1, or is for another environment.
    """
    in_force = home / name / "settings.yml"
    fields = _from_file(file or in_force, required=file is not None)
    if file and in_force.exists():  # like the other keys, the recovery key is kept
        kept = _from_file(in_force, required=True).get("recovery_recipient")
        fields = {"recovery_recipient": kept, **fields} if kept else fields
    fields = {"version": 1, "environment": name, **fields, **_from_options(options, fields)}
    recovery = _new_recovery(options.recovery_key_file)
    if recovery:
        fields["recovery_recipient"] = recipient_of(recovery)
    if fields["environment"] != name:
        raise InputRefusedError(
            f"the settings are for {fields['environment']}, not {name}",
            code="settings.other_environment",
            hint=f"Use `--environment {fields['environment']}`.",
        )
    settings = FleetSettings.parse(yaml.safe_dump(fields), kind="settings")
    if recovery and options.recovery_key_file:
        _write_recovery(options.recovery_key_file, recovery)
    return settings


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        fields = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        fields = None
    if not isinstance(fields, dict):
        raise InputRefusedError(f"{path} holds no settings", code="settings.not_yaml", hint="Check the file.")
    for name in ("store_ca", "first_contact_key"):
        if isinstance(fields.get(name), str):
            fields[name] = str(path.resolve().parent / fields[name])
    provider = fields.get("provider")
    if isinstance(provider, dict) and isinstance(provider.get("machines"), str):
        provider["machines"] = str(path.resolve().parent / provider["machines"])
    return fields


def _from_options(options: InitOptions, fields: dict[str, Any]) -> dict[str, Any]:
    known = {str(entry.get("id")): entry for entry in _mappings(fields.get("egress_providers"))}
    given = {
        "regions": list(options.regions),
        "store_url": options.store_url,
        "store_ca": options.store_ca and str(options.store_ca.resolve()),
        "store_address": options.store_address,
        "registry": options.registry,
        "first_contact_key": options.first_contact_key and str(options.first_contact_key.resolve()),
        "recovery_recipient": options.recovery_recipient,
        "provider": options.machines and {"kind": "static", "machines": str(options.machines.resolve())},
        "egress_providers": [_egress_provider(written, known) for written in options.egress_providers],
    }
    return {name: value for name, value in given.items() if value}


def _egress_provider(written: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A provider as `ID=URL` names it; what else the settings say of it (its model) stays."""
    name, _, upstream = written.partition("=")
    return {**known.get(name, {}), "id": name, "upstream": upstream}


def _mappings(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _new_recovery(key_file: Path | None) -> Secret[str] | None:
    """A recovery identity to be written once the settings have been accepted; None when no file is named."""
    if key_file is None:
        return None
    if key_file.exists():
        raise _recovery_exists(key_file)
    return new_identity()


def _write_recovery(key_file: Path, identity: Secret[str]) -> None:
    try:
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise _recovery_exists(key_file) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(identity.reveal() + "\n")


def _recovery_exists(key_file: Path) -> InputRefusedError:
    return InputRefusedError(
        f"{key_file} exists already",
        code="recovery.exists",
        hint="Name its recipient with --recovery-recipient, or write to another file.",
    )
