"""A certificate for a person: read-only, short, for plain ssh and plain Ansible."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tenantfleet.app.host_run import OPERATOR_ACCOUNT
from tenantfleet.execution.ssh import mint_identity
from tenantfleet.model.errors import InputRefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.app.environment import Environment


def write_operator_certificate(
    environment: Environment, *, key_file: Path, person: str, life: timedelta
) -> datetime:
    """Write a fresh key and its certificate for `tf-ops` to `key_file` and `key_file-cert.pub`.

    Args:
        environment: whose hosts it opens.
        key_file: where; an earlier key with its certificate beside it is replaced.
        person: what the hosts' logs call its holder.
        life: at most an hour.

    Returns:
        when it ends.

    Raises:
        InputRefusedError: `key_file.exists`, and it is none of ours.
        ValueError: a life of more than an hour.
    """
    certificate = key_file.with_name(f"{key_file.name}-cert.pub")
    _refuse_other_file(key_file, certificate)
    now = datetime.now(UTC)
    identity = mint_identity(
        ca=environment.ssh_user_ca_key,
        accounts=(OPERATOR_ACCOUNT,),
        key_id=f"tenantfleet-{environment.settings.environment}-operator-{person}",
        now=now,
        life=life,
    )
    for path, text in ((key_file, identity.private_key.reveal()), (certificate, identity.certificate + "\n")):
        path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
    return now + life


def _refuse_other_file(key_file: Path, certificate: Path) -> None:
    """A key that has no certificate is somebody's own: it is never replaced."""
    if os.path.lexists(key_file) and not certificate.is_file():
        raise InputRefusedError(
            f"{key_file} exists and was not made here: no {certificate.name} is beside it",
            code="key_file.exists",
            hint="Name another file with --key-file.",
        )
