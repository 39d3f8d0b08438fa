"""The structural layer: a value is a secret because of the name that it is given."""

from collections.abc import Iterator
from functools import lru_cache

import re2  # type: ignore[import-untyped]

from egress_proxy.placeholder import Placeholders
from egress_proxy.span import Layer, Span

BY_KEY, BY_ASSIGNMENT = "secret_key", "assignment"
MIN_VALUE_CHARACTERS = 6
_ENDINGS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secretkey",
    "apikey",
    "accesskey",
    "privatekey",
    "encryptionkey",
    "signingkey",
    "clientsecret",
    "token",
    "credential",
    "credentials",
    "authorization",
    "setcookie",
)
_ASSIGNMENT_PATTERN = (
    r"""(?i)(?:password|passwd|passphrase|secret|secret[_-]?key|api[_-]?key|access[_-]?key|private[_-]?key|"""
    r"""token|credentials?)\\?["']?[ \t]{0,4}(?:=|:|=>|:=)[ \t]{0,4}\\?["']?([^\s"'\\,;(){}<>\[\]$]{6,256})"""
)
_ASSIGNMENT = re2.compile(_ASSIGNMENT_PATTERN)
_ASSIGNMENT_IN_BYTES = re2.compile(_ASSIGNMENT_PATTERN.encode())  # RE2's own tongue: no positions to convert


class StructuralLayer:
    names = frozenset({BY_KEY, BY_ASSIGNMENT})

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders

    def occurs_in(self, data: bytes) -> bool:
        """Return whether ``data`` (UTF-8) holds an assignment to redact."""
        return any(_looks_chosen(value.decode()) for value in _ASSIGNMENT_IN_BYTES.findall(data))

    def spans(self, text: str, key: str | None) -> Iterator[Span]:
        """Yield the whole text under a key that names a secret, else values of assignments inside it."""
        if key is not None and is_secret_key(key) and len(text) >= MIN_VALUE_CHARACTERS:
            yield self._span(text, 0, len(text), BY_KEY)
            return
        for match in _ASSIGNMENT.finditer(text):
            start, end = match.span(1)
            if _looks_chosen(text[start:end]):
                yield self._span(text, start, end, BY_ASSIGNMENT)

    def _span(self, text: str, start: int, end: int, rule: str) -> Span:
        return Span(start, end, Layer.STRUCTURAL, rule, self._placeholders.make(rule, text[start:end]))


@lru_cache(maxsize=4096)
def is_secret_key(key: str) -> bool:
    """Return whether an object's key names a secret: ``db_password``, ``X-Api-Key``, ``clientSecret``."""
    return "".join(letter for letter in key.lower() if letter.isalnum()).endswith(_ENDINGS)


def _looks_chosen(value: str) -> bool:
    """Return whether a value mixes letters and digits: prose and code after such a word rarely do."""
    return any(letter.isdecimal() for letter in value) and any(letter.isalpha() for letter in value)
