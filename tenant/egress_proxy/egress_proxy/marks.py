"""What the wrapper leaves in a conversation for the proxy: the run's nonce and, in a probe, a canary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import re2  # type: ignore[import-untyped]

from egress_proxy.encodings import variants
from egress_proxy.leaves import SEPARATOR, collect, rewrite
from egress_proxy.refusal import Reason, RefusalError

WORD = "tenantfleet-run"
_TOKEN = r"[A-Za-z0-9_-]{43}"  # noqa: S105 -- a pattern
_NONCE = re2.compile(rf"\[\[{WORD} ({_TOKEN})\]\]")
_OPEN = r"(?:\\{0,8}(?:\[|u005[bB])|%5[bB]|&#91;|&#x5[bB];)"
_CLOSE = r"(?:\\{0,8}(?:\]|u005[dD])|%5[dD]|&#93;|&#x5[dD];)"
# The mark as URLs, HTML, Markdown and JSON within JSON write it.
_ANY_FORM = re2.compile(
    rf"(?:{_OPEN}{{2}})?{WORD}(?: |%20|\+|\\{{1,8}}u0020|&#32;)({_TOKEN})(?:{_CLOSE}{{2}})?"
)
_CANARY = re2.compile(rf"\btfcanary-{_TOKEN}")


@dataclass(frozen=True)
class Marks:
    """``nonces``: those that system or developer messages show. ``canaries``: those found anywhere.

    ``strangers``: every nonce found anywhere in any form, so that none leaves.
    """

    nonces: tuple[str, ...]
    canaries: tuple[str, ...]
    strangers: frozenset[str]


def find_marks(document: Mapping[str, Any]) -> Marks:
    """Return the marks of a chat-completions request."""
    text = SEPARATOR.join(leaf.text for leaf in collect(document))
    instructions = SEPARATOR.join(
        part
        for message in document["messages"]
        if message["role"] in {"system", "developer"}
        for part in _texts(message.get("content"))
    )
    return Marks(
        nonces=tuple(dict.fromkeys(_NONCE.findall(instructions))),
        canaries=tuple(dict.fromkeys(_CANARY.findall(text))) if "tfcanary-" in text else (),
        strangers=frozenset(_ANY_FORM.findall(text)) if WORD in text else frozenset(),
    )


def _texts(content: object) -> list[str]:
    match content:
        case str():
            return [content]
        case list():
            return [
                part["text"]
                for part in content
                if isinstance(part, dict) and isinstance(part.get("text"), str)
            ]
    return []


def strip_nonces(document: Any, marks: Marks) -> Any:  # noqa: ANN401 -- a JSON document
    """Return ``document`` without any nonce: with its mark, bare, or encoded."""
    if not marks.strangers:
        return document
    bare = _forms(marks)
    return rewrite(document, lambda leaf: _strip(leaf.text, bare))


def _strip(text: str, bare: Sequence[str]) -> str:
    if WORD in text:
        text = _ANY_FORM.sub("", text)
    for form in bare:
        text = text.replace(form, "")
    return text


def _forms(marks: Marks) -> list[str]:
    return [variant.text for nonce in marks.strangers for variant in variants(nonce)]


def check_no_nonce(wire: bytes, marks: Marks) -> None:
    """Look at the bytes that would leave.

    Raises:
        RefusalError: a nonce of this request is still in them.
    """
    if any(form.encode() in wire for form in _forms(marks)):
        raise RefusalError(Reason.LEAK_STOPPED, "a run's nonce was about to leave")
