"""A certificate for a person: read-only, short, for plain ssh and plain Ansible."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tenantfleet.app.host_run import OPERATOR_ACCOUNT
from tenantfleet.execution.ssh import mint_identity

if TYPE_CHECKING:
    from pathlib import Path

    from tenantfleet.app.environment import Environment


def write_operator_certificate(
    environment: Environment, *, key_file: Path, person: str, life: timedelta
) -> datetime:
    """Write a fresh key and its certificate for `tf-ops` to `key_file` and `key_file-cert.pub`.

    Args:
        environment: whose hosts it opens.
        key_file: where; what stands there is replaced.
        person: what the hosts' logs call its holder.
        life: at most an hour.

    Returns:
        when it ends.

    Raises:
        ValueError: a life of more than an hour.
    """
    now = datetime.now(UTC)
    identity = mint_identity(
        ca=environment.ssh_user_ca_key,
        accounts=(OPERATOR_ACCOUNT,),
        key_id=f"tenantfleet-{environment.settings.environment}-operator-{person}",
        now=now,
        life=life,
    )
    certificate = key_file.with_name(f"{key_file.name}-cert.pub")
    for path, text in ((key_file, identity.private_key.reveal()), (certificate, identity.certificate + "\n")):
        path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
    return now + life
