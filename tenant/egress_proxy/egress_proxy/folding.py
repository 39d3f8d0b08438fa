"""Base64 and hexadecimal text that a tool broke into lines, as ``base64`` does after 76 characters."""

from collections.abc import Iterator
from dataclasses import dataclass

import re2  # type: ignore[import-untyped]

_BREAK_PATTERN = r"(?:\r|\\{1,4}r)?(?:\n|\\{1,4}n)"
_WRAPPED_PATTERN = rf"[A-Za-z0-9+/_-]{{32,}}(?:{_BREAK_PATTERN}[A-Za-z0-9+/_=-]+)+"
_BREAK, _WRAPPED = re2.compile(_BREAK_PATTERN), re2.compile(_WRAPPED_PATTERN)
_BREAK_IN_BYTES, _WRAPPED_IN_BYTES = (
    re2.compile(_BREAK_PATTERN.encode()),
    re2.compile(_WRAPPED_PATTERN.encode()),
)


@dataclass(frozen=True)
class Unwrapped:
    """A wrapped block as one line; ``places[i]`` is where its character i stands in the text."""

    line: str
    places: tuple[int, ...]


def unwrap_bytes(data: bytes) -> bytes:
    """Return every wrapped block of ``data`` as one line each; nothing for text without such blocks."""
    return b"\n".join(_BREAK_IN_BYTES.sub(b"", block) for block in _WRAPPED_IN_BYTES.findall(data))


def unwrap(text: str) -> Iterator[Unwrapped]:
    """Yield the wrapped blocks of ``text``."""
    for block in _WRAPPED.finditer(text):
        start, places = block.start(), list[int]()
        for gap in _BREAK.finditer(block.group()):
            places += range(start, block.start() + gap.start())
            start = block.start() + gap.end()
        places += range(start, block.end())
        yield Unwrapped("".join(text[place] for place in places), tuple(places))
