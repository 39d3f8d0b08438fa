"""All layers over one document, and the last look at the bytes that would leave."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from egress_proxy.entropy import EntropyLayer
from egress_proxy.json_body import serialise
from egress_proxy.leaves import SEPARATOR, Leaf, Path, collect, rewrite
from egress_proxy.placeholder import placeholder_ranges
from egress_proxy.refusal import Reason, RefusalError
from egress_proxy.registry import ExactLayer
from egress_proxy.rules import PatternLayer, Rule
from egress_proxy.span import Layer, Span, merge, replace
from egress_proxy.structural import StructuralLayer, is_secret_key

type Matches = Counter[tuple[Layer, str]]

# Fields that a provider made or that hold an image: only the exact layer may touch them, or the call breaks.
_OPAQUE = frozenset(
    {
        ("model",),
        ("prompt_cache_key",),
        ("messages", "*", "role"),
        ("messages", "*", "tool_call_id"),
        ("messages", "*", "tool_calls", "*", "id"),
        ("messages", "*", "content", "*", "signature"),
        ("messages", "*", "content", "*", "input_audio", "data"),
        ("messages", "*", "reasoning_details", "*", "data"),
        ("messages", "*", "reasoning_details", "*", "signature"),
        ("messages", "*", "reasoning_details", "*", "id"),
    }
)
_IMAGE: Path = ("messages", "*", "content", "*", "image_url", "url")


@dataclass(frozen=True)
class Redacted:
    """A body that may leave."""

    wire: bytes
    matches: Matches


@dataclass(frozen=True)
class _Suspicion:
    """Which layers have to look at the single texts: one pass over all of them tells."""

    exact: bool
    rules: Sequence[Rule]
    structural: bool
    random_words: frozenset[str]

    def __bool__(self) -> bool:
        return self.exact or bool(self.rules) or self.structural or bool(self.random_words)


@dataclass(frozen=True)
class Redactor:
    """The layers in force; ``structural`` and ``entropy`` may be switched off by the configuration."""

    exact: ExactLayer
    patterns: PatternLayer
    structural: StructuralLayer | None
    entropy: EntropyLayer | None

    def redact(self, document: object) -> Redacted:
        """Return the bytes of ``document`` without its secrets.

        Raises:
            RefusalError: a registered value would still leave, or the document is nested too deeply.
        """
        matches: Matches = Counter()
        suspicion = self._suspect(collect(document))
        if suspicion:
            document = rewrite(document, lambda leaf: self._clean(leaf, suspicion, matches))
        wire = serialise(document).encode()
        if self.exact.occurs_in(wire):
            raise RefusalError(Reason.LEAK_STOPPED, "a registered secret was about to leave")
        return Redacted(wire, matches)

    def is_clean(self, text: str) -> bool:
        """Return whether neither a registered value nor a known pattern is in ``text``."""
        data = text.encode()
        return not self.exact.occurs_in(data) and not any(
            any(rule.finds(text)) for rule in self.patterns.candidates(data)
        )

    def without_registered(self, text: str) -> str:
        """Return ``text`` with registered values replaced."""
        return replace(text, merge(self.exact.spans(text)))

    def _suspect(self, leaves: Sequence[Leaf]) -> _Suspicion:
        keys = {leaf.text for leaf in leaves if leaf.is_key}
        values = (leaf.text for leaf in leaves if not leaf.is_key and not _is_opaque(leaf))
        visible = SEPARATOR.join((*keys, *values)).encode()
        opaque = SEPARATOR.join(leaf.text for leaf in leaves if _is_opaque(leaf)).encode()
        return _Suspicion(
            exact=self.exact.occurs_in(visible) or self.exact.occurs_in(opaque),
            rules=self.patterns.candidates(visible),
            structural=self.structural is not None
            and (any(map(is_secret_key, keys)) or self.structural.occurs_in(visible)),
            random_words=self.entropy.random_words(visible) if self.entropy else frozenset(),
        )

    def _clean(self, leaf: Leaf, suspicion: _Suspicion, matches: Matches) -> str:
        spans = merge(self._spans(leaf, suspicion))
        matches.update((span.layer, span.rule) for span in spans)
        return replace(leaf.text, spans)

    def _spans(self, leaf: Leaf, suspicion: _Suspicion) -> Iterator[Span]:
        if suspicion.exact:
            yield from self.exact.spans(leaf.text)
        if _is_opaque(leaf):
            return
        known = placeholder_ranges(leaf.text, self._names)
        for span in self._guesses(leaf, suspicion):
            if not any(start < span.end and span.start < end for start, end in known):
                yield span

    def _guesses(self, leaf: Leaf, suspicion: _Suspicion) -> Iterator[Span]:
        yield from self.patterns.spans(leaf.text, suspicion.rules)
        if leaf.is_key:
            return
        if self.structural and suspicion.structural:
            yield from self.structural.spans(leaf.text, _nearest_key(leaf.path))
        if self.entropy:
            yield from self.entropy.spans(leaf.text, suspicion.random_words)

    @cached_property
    def _names(self) -> frozenset[str]:
        return self.exact.names | self.patterns.names | StructuralLayer.names | EntropyLayer.names


def _nearest_key(path: Path) -> str | None:
    """Return the key under which a text stands, also through a list."""
    return next((step for step in reversed(path) if step != "*"), None)


def _is_opaque(leaf: Leaf) -> bool:
    if leaf.is_key:
        return False
    return leaf.path in _OPAQUE or (leaf.path == _IMAGE and leaf.text.startswith("data:"))
