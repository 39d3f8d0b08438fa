"""Keys and certificates of a lab: SSH for hosts and client, TLS for services. Made once, kept until `--purge`."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lab.state import Lab, write_whole

_YEARS = datetime.timedelta(days=3650)  # lab hosts' clocks may be off


def _openssh(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def _openssh_public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _ssh_key(path: Path) -> Ed25519PrivateKey:
    """Load an SSH key pair, making it first if need be."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        write_whole(path.with_name(path.name + ".pub"), _openssh_public(key) + "\n")
        write_whole(path, _openssh(key), mode=0o600)
    key = serialization.load_ssh_private_key(path.read_bytes(), password=None)  # type: ignore[assignment]
    return key


def client_key(lab: Lab) -> str:
    """The public key that hosts let in; its private half is `keys/client`."""
    return _openssh_public(_ssh_key(lab.keys / "client"))


def host_ca(lab: Lab) -> str:
    """The public key that certifies hosts' keys."""
    return _openssh_public(_ssh_key(lab.keys / "host_ca"))


@dataclass(frozen=True)
class HostKey:
    """An SSH host key, as a provider injects it at installation."""

    private: str
    public: str
    certificate: str


def new_host_key(lab: Lab, *, name: str, principals: list[str]) -> HostKey:
    key = Ed25519PrivateKey.generate()
    certificate = (
        serialization.SSHCertificateBuilder()
        .public_key(key.public_key())
        .serial(1)
        .type(serialization.SSHCertificateType.HOST)
        .key_id(name.encode())
        .valid_principals([principal.encode() for principal in principals])
        .valid_after(0)
        .valid_before(2**64 - 1)
        .sign(_ssh_key(lab.keys / "host_ca"))
    )
    return HostKey(_openssh(key), _openssh_public(key), certificate.public_bytes().decode())
