"""Proof 2: a registered secret never reaches the model, wherever it stands and however it is written."""

import base64
import json
import shlex
import urllib.parse

import pytest

from lab.conversation import ModelRecord
from tests.proofs.tenants import Tenant

pytestmark = pytest.mark.lab


def writings(secret: str) -> dict[str, bytes]:
    """The forms that the contract lists, each long enough that it cannot occur by accident."""
    raw = secret.encode()
    shifted = {f"base64+{n}": _inner(base64.b64encode(b"x" * n + raw), n, len(raw)) for n in range(3)}
    urlsafe = {
        f"base64url+{n}": _inner(base64.urlsafe_b64encode(b"x" * n + raw), n, len(raw)) for n in range(3)
    }
    return {
        "plain": raw,
        "json": json.dumps(secret)[1:-1].encode(),
        "json-ascii": json.dumps(secret, ensure_ascii=True)[1:-1].encode(),
        "url": urllib.parse.quote(secret, safe="").encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        **shifted,
        **urlsafe,
    }


def _inner(encoded: bytes, shift: int, length: int) -> bytes:
    """The characters of a base64 text that the secret alone decides: not its neighbours' bits."""
    first = -(-shift * 8 // 6)
    last = (shift + length) * 8 // 6
    return encoded[first:last]


def leaks(bodies: list[bytes], secret: str) -> list[str]:
    whole = b"\n".join(body.partition(b"\r\n\r\n")[2] for body in bodies)
    return [name for name, form in writings(secret).items() if form in whole]


@pytest.mark.parametrize("name", ["provider.openai", "tools.crm.db_password"])
def test_no_form_of_a_secret_reaches_the_model(tenant: Tenant, record: ModelRecord, name: str) -> None:
    secret = tenant.secrets[name]
    forms = {label: form.decode() for label, form in writings(secret).items()}
    said = f"printf %s {shlex.quote(secret)}"
    echo = f"{said}; {said} | base64 -w0; {said} | od -An -tx1"
    nested = json.dumps({"credentials": json.dumps({"password": secret})})
    script: list[dict[str, object]] = [
        {"tool": "exec", "arguments": {"command": echo}},
        {"tool": "write", "arguments": {"path": "note.json", "content": nested}},
        {"tool": "read", "arguments": {"path": "note.json"}},
        {"text": "seen"},
    ]
    before = len(record.requests())
    turn = tenant.agent.say(f"these are all the same: {json.dumps(forms)}", script=script)
    sent = record.since(before)
    assert len(sent) > len(script) - 1, turn.output
    assert leaks(sent, secret) == []
    assert b"[[S:" in b"".join(sent), "nothing was redacted: the test proved nothing"


def test_the_provider_sees_its_own_key_and_no_other(tenant: Tenant, record: ModelRecord) -> None:
    before = len(record.requests())
    turn = tenant.agent.say("hello")
    sent = record.since(before)
    assert sent, turn.output
    heads = [body.partition(b"\r\n\r\n")[0] for body in sent]
    assert all(tenant.secrets["provider.openai"].encode() in head for head in heads)
    assert not any(b"tenantfleet-run" in body for body in sent), "the nonce left the host"
