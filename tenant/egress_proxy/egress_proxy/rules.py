"""The known-pattern layer: keys that tell what they are by their form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import re2  # type: ignore[import-untyped]

from egress_proxy.json_body import NotStrictJsonError, parse_json
from egress_proxy.placeholder import Placeholders
from egress_proxy.refusal import NotReadyError
from egress_proxy.span import Layer, Span

SET_BYTES = 64 << 20


@dataclass(frozen=True)
class Rule:
    """A pattern in RE2 syntax.

    ``group`` holds the secret (0 = all of the match); with ``digit`` it must contain one, against prose.
    ``positive`` must match and ``negative`` must not: checked at every load.
    """

    id: str
    pattern: str
    group: int
    digit: bool
    positive: str
    negative: str
    expression: Any = field(repr=False, compare=False)

    def finds(self, text: str) -> Iterator[tuple[int, int]]:
        for match in self.expression.finditer(text):
            start, end = match.span(self.group)
            if not self.digit or any(letter.isdecimal() for letter in text[start:end]):
                yield start, end


def shipped_rules() -> bytes:
    """Return the rule file of this release."""
    return files("egress_proxy").joinpath("rules.json").read_bytes()


def parse_rules(data: bytes) -> list[Rule]:
    """Read a rule file and try each rule on its examples.

    Raises:
        NotReadyError: the file is malformed, or a rule does not do what its examples say.
    """
    try:
        rules = [_rule(entry) for entry in parse_json(data)]
    except (NotStrictJsonError, TypeError, KeyError, ValueError, re2.error) as error:
        raise NotReadyError(f"rules: malformed ({type(error).__name__})") from error
    for rule in rules:
        if not any(rule.finds(rule.positive)) or any(rule.finds(rule.negative)):
            raise NotReadyError(f"rules: {rule.id} does not do what its examples say")
    if not rules or len({rule.id for rule in rules}) != len(rules):
        raise NotReadyError("rules: at least one, each id once")
    return rules


def _rule(entry: dict[str, Any]) -> Rule:
    # Examples come in pieces, so that scanners of source code do not take them for real keys.
    return Rule(
        id=str(entry["id"]),
        pattern=entry["pattern"],
        group=entry.get("group", 0),
        digit=entry.get("digit", False),
        positive="".join(entry["positive"]),
        negative="".join(entry["negative"]),
        expression=re2.compile(entry["pattern"]),
    )


class PatternLayer:
    def __init__(self, rules: Sequence[Rule], placeholders: Placeholders) -> None:
        """Build the set that tells in one pass which rules are worth running.

        Raises:
            NotReadyError: the set does not recognise an example (it reports no "out of memory" itself).
        """
        self.names = frozenset(rule.id for rule in rules)
        self._rules = rules
        self._placeholders = placeholders
        options = re2.Options()
        options.max_mem = SET_BYTES
        self._set = re2.Set.SearchSet(options)
        for rule in rules:
            self._set.Add(rule.pattern)
        self._set.Compile()
        for rule in rules:
            if rule not in self.candidates(rule.positive.encode()):
                raise NotReadyError(f"rules: {rule.id} is not recognised by the set")

    def candidates(self, data: bytes) -> list[Rule]:
        """Return the rules that may find something in ``data`` (UTF-8)."""
        return [self._rules[index] for index in sorted(self._set.Match(data) or ())]

    def spans(self, text: str, rules: Sequence[Rule]) -> Iterator[Span]:
        for rule in rules:
            for start, end in rule.finds(text):
                placeholder = self._placeholders.make(rule.id, text[start:end])
                yield Span(start, end, Layer.PATTERN, rule.id, placeholder)
