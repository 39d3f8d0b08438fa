"""The exact layer: every registered secret of the tenant in every listed encoding. It is the guarantee."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ahocorasick  # type: ignore[import-not-found]
import re2  # type: ignore[import-untyped]

from egress_proxy.encodings import Variant, variants
from egress_proxy.folding import unwrap, unwrap_bytes
from egress_proxy.placeholder import Placeholders, safe_name
from egress_proxy.refusal import NotReadyError
from egress_proxy.span import Layer, Span

# Shorter values occur in ordinary text by chance: redacting them would garble it, skipping them be a lie.
MIN_VALUE_CHARACTERS = 6
MIN_LINE_CHARACTERS = 20  # of one line of a secret of many lines, such as a key in PEM
AUTOMATON_BYTES = 256 << 20


@dataclass(frozen=True)
class Entry:
    """A form of a secret and what takes its place."""

    variant: Variant
    placeholder: str


class ExactLayer:
    """Finds registered values.

    An RE2 alternation of all forms says whether there is any (15 times faster, so it also looks at the final
    bytes); where it says yes, Aho-Corasick says which and where.
    """

    def __init__(self, registry: Mapping[str, str], placeholders: Placeholders) -> None:
        """Build both engines.

        Raises:
            NotReadyError: a value is too short (named by its entry).
        """
        values = {name: value.strip() for name, value in registry.items()}
        if short := sorted(name for name, value in values.items() if len(value) < MIN_VALUE_CHARACTERS):
            raise NotReadyError(
                f"registry: shorter than {MIN_VALUE_CHARACTERS} characters: {', '.join(short)}"
            )
        self.names = frozenset({*(safe_name(name) for name in values), "secret"})
        self._entries = _entries(values, placeholders)
        self._any = _alternation(self._entries)
        self._automaton = ahocorasick.Automaton()
        for form, entry in self._entries.items():
            self._automaton.add_word(form, entry)
        self._automaton.make_automaton()

    def occurs_in(self, data: bytes) -> bool:
        """Return whether ``data`` (UTF-8) holds any form of any registered value."""
        return self._any.search(data) is not None or self._any.search(unwrap_bytes(data)) is not None

    def spans(self, text: str) -> Iterator[Span]:
        if not self.occurs_in(text.encode()):
            return
        yield from self._spans_in(text)
        for block in unwrap(text):
            for span in self._spans_in(block.line):
                yield replace(span, start=block.places[span.start], end=block.places[span.end - 1] + 1)

    def _spans_in(self, text: str) -> Iterator[Span]:
        for last, entry in self._automaton.iter(text):
            variant = entry.variant
            start, end = last + 1 - len(variant.text), last + 1
            yield Span(
                max(0, start - variant.left),
                min(len(text), end + variant.right),
                Layer.EXACT,
                variant.encoding.value,
                entry.placeholder,
            )


def _entries(values: Mapping[str, str], placeholders: Placeholders) -> dict[str, Entry]:
    forms = {
        name: [variant for part in _parts(value) for variant in variants(part)]
        for name, value in values.items()
    }
    every_form = _alternation({variant.text: None for found in forms.values() for variant in found})
    entries: dict[str, Entry] = {}
    for name, found in forms.items():
        # A name that itself holds some secret may not stand in a placeholder.
        told = "secret" if every_form.search(safe_name(name).encode()) else name
        placeholder = placeholders.make(told, values[name])
        for variant in found:
            entries.setdefault(variant.text, Entry(variant, placeholder))
    return entries


def _parts(value: str) -> Iterator[str]:
    """Yield the value and, of many lines, each long one but the armour: half a private key is a leak, too."""
    yield value
    lines = [line.strip() for line in value.splitlines()]
    if len(lines) > 1:
        yield from (
            line for line in lines if len(line) >= MIN_LINE_CHARACTERS and not line.startswith("-----")
        )


def _alternation(forms: Mapping[str, object]) -> Any:  # noqa: ANN401 -- re2 has no types
    options = re2.Options()
    options.max_mem = AUTOMATON_BYTES
    options.log_errors = False
    return re2.compile("|".join(re2.escape(form) for form in forms).encode(), options=options)
