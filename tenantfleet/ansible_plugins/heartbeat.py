"""Reads the heartbeat document v1 out of its envelope (docs/contracts/host.md)."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any


def heartbeat(envelope: str) -> dict[str, Any]:
    """The document inside an envelope. Its signature is the fleet service's to check: that knows the key.

    Raises:
        ValueError: it is no heartbeat v1.
    """
    try:
        payload = json.loads(envelope)["payload"]
        document = json.loads(base64.b64decode(payload, validate=True))
        version = document["version"]
    except (binascii.Error, KeyError, TypeError, UnicodeDecodeError, ValueError):
        raise ValueError("the heartbeat cannot be read") from None
    if version != 1:
        raise ValueError(f"heartbeat version {version} is not known")
    return dict(document)
