"""The entropy layer: long words that look drawn at random."""

import math
import string
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import re2  # type: ignore[import-untyped]

from egress_proxy.placeholder import Placeholders
from egress_proxy.span import Layer, Span

RULE = "random_text"
MIN_CHARACTERS = 20
# Below log2(MIN_CHARACTERS) = 4.3: above it the shortest words could never be found.
MIN_BITS = 3.7
_WORD = re2.compile(r"[A-Za-z0-9+/_=-]{20,}")
_WORD_IN_BYTES = re2.compile(rb"[A-Za-z0-9+/_=-]{20,}")  # RE2's own tongue: no positions to convert
_DIGITS = frozenset("0123456789")
_LETTERS = frozenset(string.ascii_letters)
_HEX_OR_UUID = re2.compile(r"(?i)[0-9a-f-]+")
_DIGEST = re2.compile(r"(?i)(?:sha(?:1|256|384|512)|md5|h1)[-:=].*")
_READABLE = re2.compile(
    r"(?:[A-Za-z]{3,}|[A-Z]?[a-z]+|[0-9]{1,4}|[A-Z]{2,})(?:[/_=+-]+(?:[A-Za-z]+[0-9]{0,4}|[0-9]{1,4})?)*"
)
_HUMP = re2.compile(r"[A-Z]?[a-z]{3,}")
READABLE_SHARE = 0.6


class EntropyLayer:
    names = frozenset({RULE})

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders

    def random_words(self, data: bytes) -> frozenset[str]:
        """Return the words in ``data`` (UTF-8) that look random."""
        words = {word.decode() for word in _WORD_IN_BYTES.findall(data)}
        return frozenset(word for word in words if is_random(word))

    def spans(self, text: str, words: frozenset[str]) -> Iterator[Span]:
        """Yield where ``words`` stand in ``text``."""
        if not any(word in text for word in words):
            return
        for match in _WORD.finditer(text):
            word = match.group()
            if word in words:
                start, end = match.span()
                yield Span(start, end, Layer.ENTROPY, RULE, self._placeholders.make(RULE, word))


@lru_cache(maxsize=8192)  # a conversation grows: each turn brings the words of all turns before
def is_random(word: str) -> bool:
    """Return whether ``word`` looks like a key rather than like a name, a path, a digest or an identifier."""
    core = word.strip("=-_/+")
    if len(core) < MIN_CHARACTERS or _DIGITS.isdisjoint(core) or _LETTERS.isdisjoint(core):
        return False
    if _HEX_OR_UUID.fullmatch(core) or _DIGEST.fullmatch(core) or _READABLE.fullmatch(core):
        return False
    readable = sum(len(hump) for hump in _HUMP.findall(core))
    return readable < READABLE_SHARE * len(core) and bits_per_character(core) >= MIN_BITS


def bits_per_character(word: str) -> float:
    """Return Shannon's entropy of the word's own letters, in bits per character."""
    total = len(word)
    return -sum(n / total * math.log2(n / total) for n in Counter(word).values())
