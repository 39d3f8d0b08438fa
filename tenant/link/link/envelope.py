"""Signed documents: canonical bytes, the key's id and an Ed25519 signature over the bytes."""

import base64
import binascii
import hashlib
import hmac
import json
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

type Json = bool | int | str | list["Json"] | dict[str, "Json"] | None


class EnvelopeError(Exception):
    """A heartbeat is not what it claims to be; the text says why."""


def canonical(value: Json) -> bytes:
    """UTF-8, keys sorted, no white space. Floats have no canonical form: TypeError."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_floats(value: object) -> None:
    match value:
        case float():
            raise TypeError("a float has no canonical form")
        case dict():
            for item in value.values():
                _refuse_floats(item)
        case list():
            for item in value:
                _refuse_floats(item)
        case _:
            pass


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """Read the node's key. Raises EnvelopeError for another kind of key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise EnvelopeError("node_key: not a private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvelopeError("node_key: not an Ed25519 key")
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, 64 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def seal(document: Json, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope, itself canonical, one line."""
    payload = canonical(document)
    envelope: Json = {
        "payload": base64.b64encode(payload).decode(),
        "key_id": key_id(key.public_key()),
        "signature": base64.b64encode(key.sign(payload)).decode(),
    }
    return canonical(envelope) + b"\n"


def opened(envelope: bytes, key: Ed25519PublicKey) -> dict[str, Json]:
    """Return the document of an envelope that this key signed. Raises EnvelopeError."""
    try:
        parts = json.loads(envelope)
        payload = base64.b64decode(parts["payload"], validate=True)
        signature = base64.b64decode(parts["signature"], validate=True)
        named = str(parts["key_id"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise EnvelopeError("not an envelope of payload, key_id and signature") from error
    if not hmac.compare_digest(named.encode(), key_id(key).encode()):
        raise EnvelopeError("signed with another key")
    try:
        key.verify(signature, payload)
    except InvalidSignature as error:
        raise EnvelopeError("the signature does not belong to the payload") from error
    return _document(payload)


def _document(payload: bytes) -> dict[str, Json]:
    try:
        document = json.loads(payload)
        if not isinstance(document, dict) or canonical(cast("Json", document)) != payload:
            raise EnvelopeError("the payload is not canonical JSON")
    except (ValueError, TypeError) as error:
        raise EnvelopeError("the payload is not canonical JSON") from error
    return document
