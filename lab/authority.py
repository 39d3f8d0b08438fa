"""Keys and certificates of a lab: SSH for hosts and client, TLS for services. Kept until `down --purge`."""

import datetime as dt
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.state import Lab, LabError, write_whole

_EARLIER, _LATER = dt.timedelta(days=365), dt.timedelta(days=3650)  # clocks may be off


def _openssh(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def _openssh_public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _ssh_key(path: Path) -> Ed25519PrivateKey:
    """Load an SSH key pair, making it first if need be."""
    if not path.exists():
        fresh = Ed25519PrivateKey.generate()
        write_whole(path.with_name(path.name + ".pub"), _openssh_public(fresh) + "\n")
        write_whole(path, _openssh(fresh), mode=0o600)
    key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise LabError(f"{path} is no ed25519 key; `lab down --purge` and begin anew")
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


def ca_certificate(lab: Lab) -> str:
    """PEM of the authority for TLS, which every host trusts from its first boot; also in `ca.crt`."""
    key_file = lab.keys / "tls_ca"
    if not lab.ca_file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tenantfleet lab {lab.id}")])
        certificate = (
            _certificate(subject=name, issuer=name, public=key.public_key(), authority=key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_whole(key_file, _pem(key), mode=0o600)
        write_whole(lab.ca_file, certificate.public_bytes(Encoding.PEM).decode())
    return lab.ca_file.read_text()


def service_certificate(lab: Lab, *, names: list[str], addresses: list[str]) -> tuple[Path, Path]:
    """Files of the certificate and key that all services show. Made anew when names or addresses changed."""
    folder = lab.keys / ("tls-" + hashlib.sha256(" ".join(names + addresses).encode()).hexdigest()[:8])
    if not (folder / "tls.crt").exists():
        issuer = x509.load_pem_x509_certificate(ca_certificate(lab).encode())
        issuer_key = serialization.load_pem_private_key((lab.keys / "tls_ca").read_bytes(), password=None)
        if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
            raise LabError(f"{lab.keys}/tls_ca is no elliptic curve key; `lab down --purge` and begin anew")
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            _certificate(
                subject=subject,
                issuer=issuer.subject,
                public=key.public_key(),
                authority=issuer_key.public_key(),
            )
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_usage(certificates=False), critical=True)
            .sign(issuer_key, hashes.SHA256())
        )
        write_whole(folder / "tls.key", _pem(key), mode=0o600)
        write_whole(folder / "tls.crt", certificate.public_bytes(Encoding.PEM).decode())
    return folder / "tls.crt", folder / "tls.key"


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _certificate(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    authority: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + _LATER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
