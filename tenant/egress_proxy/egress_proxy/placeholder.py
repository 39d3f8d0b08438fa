"""``[[S:name:8hex]]``: what the model sees in place of a secret."""

import hashlib
import hmac
from dataclasses import dataclass, field

import re2  # type: ignore[import-untyped]

_FORM = re2.compile(r"\[\[S:([A-Za-z0-9._-]{1,64}):[0-9a-f]{8}\]\]")
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
NAME_LENGTH = 64


@dataclass(frozen=True)
class Placeholders:
    """Makes placeholders: the same over turns and restarts, and silent without the tenant's key."""

    key: bytes = field(repr=False)

    def make(self, name: str, value: str) -> str:
        """Return the placeholder of ``value``: keyed, as a plain hash of a short secret can be guessed."""
        digest = hmac.new(self.key, f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()
        return f"[[S:{safe_name(name)}:{digest[:8]}]]"


def safe_name(name: str) -> str:
    return "".join(letter if letter in _ALLOWED else "_" for letter in name[:NAME_LENGTH]) or "secret"


def placeholder_ranges(text: str, names: frozenset[str]) -> list[tuple[int, int]]:
    """Return where ``text`` holds placeholders with one of ``names``: the model repeats them."""
    if "[[S:" not in text:
        return []
    return [match.span() for match in _FORM.finditer(text) if match.group(1) in names]
