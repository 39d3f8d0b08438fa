"""What a layer found in a text, and how finds become a new text."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Layer(StrEnum):
    """The layers, from the surest to the least sure: on an overlap the surer one wins."""

    EXACT = "exact"
    PATTERN = "pattern"
    STRUCTURAL = "structural"
    ENTROPY = "entropy"


_RANK = {layer: rank for rank, layer in enumerate(Layer)}


@dataclass(frozen=True)
class Span:
    """Characters ``start`` to ``end`` of a text, and the placeholder that takes their place."""

    start: int
    end: int
    layer: Layer
    rule: str
    placeholder: str

    @property
    def _strength(self) -> tuple[int, int]:
        return _RANK[self.layer], self.start - self.end


def merge(spans: Iterable[Span]) -> list[Span]:
    """Join overlapping spans: the surest, then longest, names the whole; in order of their place."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start < merged[-1].end:
            last = merged.pop()
            winner = min(last, span, key=lambda candidate: candidate._strength)  # noqa: SLF001 -- its own module
            span = Span(  # noqa: PLW2901 -- the joined span takes the place of both
                last.start, max(last.end, span.end), winner.layer, winner.rule, winner.placeholder
            )
        merged.append(span)
    return merged


def replace(text: str, spans: Iterable[Span]) -> str:
    """Return ``text`` with each span's placeholder; ``spans`` as ``merge`` returns them."""
    pieces: list[str] = []
    at = 0
    for span in spans:
        pieces += (text[at : span.start], span.placeholder)
        at = span.end
    return "".join(pieces) + text[at:]
