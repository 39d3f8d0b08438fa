"""Certificates for one run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
)

from tenantfleet.model.secret import Secret

if TYPE_CHECKING:
    from datetime import datetime

LONGEST = timedelta(hours=1)
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshIdentity:
    """A key pair and its certificate, in OpenSSH's own forms."""

    private_key: Secret[str]
    certificate: str


def new_ca() -> tuple[Secret[str], str]:
    """A fresh Ed25519 key: the private key in OpenSSH's form, and the public key line."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return _openssh(key), public


def mint_identity(
    *, ca: Secret[str], accounts: tuple[str, ...], key_id: str, now: datetime, life: timedelta = LONGEST
) -> SshIdentity:
    """A fresh key with a certificate for some accounts; it may open a terminal, and forward nothing.

    Args:
        ca: private key of the user CA.
        accounts: the certificate's principals.
        key_id: what the host's log says of a login.
        now: start of its life, less five minutes for clocks that differ.
        life: at most an hour.

    Raises:
        ValueError: a life of more than an hour.
    """
    if life > LONGEST:
        raise ValueError(f"a certificate lives at most {LONGEST}, not {life}")
    signer = load_ssh_private_key(ca.reveal().encode(), password=None)
    if not isinstance(signer, Ed25519PrivateKey):
        raise TypeError("the SSH CA is not an Ed25519 key")
    key = Ed25519PrivateKey.generate()
    builder = (
        SSHCertificateBuilder()
        .public_key(key.public_key())
        .serial(int(now.timestamp()))
        .type(SSHCertificateType.USER)
        .key_id(key_id.encode())
        .valid_principals([name.encode() for name in accounts])
        .valid_after(int((now - _CLOCKS_DIFFER).timestamp()))
        .valid_before(int((now + life).timestamp()))
        .add_extension(b"permit-pty", b"")
    )
    return SshIdentity(private_key=_openssh(key), certificate=builder.sign(signer).public_bytes().decode())


def _openssh(key: Ed25519PrivateKey) -> Secret[str]:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())
