"""Every text of a JSON document: values, keys, and the texts inside JSON that is itself a text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egress_proxy.json_body import MAX_DEPTH, NotStrictJsonError, parse_json, serialise
from egress_proxy.refusal import Reason, RefusalError

EMBEDDED = "<json>"
MAX_EMBEDDED = 4
SEPARATOR = "\x00"

type Path = tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """A text and where it stands: keys from the root, ``*`` in a list, ``<json>`` inside a text."""

    text: str
    path: Path
    is_key: bool = False


type Rewrite = Callable[[Leaf], str]


def rewrite(node: Any, change: Rewrite, path: Path = ()) -> Any:  # noqa: ANN401 -- a JSON document
    """Return ``node`` with every text replaced by what ``change`` makes of it.

    Raises:
        RefusalError: the document is nested too deeply.
    """
    if len(path) > MAX_DEPTH:
        raise RefusalError(Reason.MALFORMED, "the body is nested too deeply")
    match node:
        case str():
            return _rewrite_text(node, change, path)
        case list():
            below = (*path, "*")
            return [rewrite(item, change, below) for item in node]
        case dict():
            return _rewrite_object(node, change, path)
    return node


def _rewrite_object(node: dict[str, Any], change: Rewrite, path: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.items():
        name = change(Leaf(key, path, is_key=True))
        while name in result:  # two secrets as keys may share a placeholder: neither value may vanish
            name += "'"
        result[name] = rewrite(value, change, (*path, key))
    return result


def _rewrite_text(text: str, change: Rewrite, path: Path) -> str:
    inner = embedded_json(text) if path.count(EMBEDDED) < MAX_EMBEDDED else None
    if inner is None:
        return change(Leaf(text, path))
    changed = rewrite(inner, change, (*path, EMBEDDED))
    # An untouched text keeps its very bytes: the provider's prompt cache depends on them.
    return text if changed == inner else serialise(changed)


def embedded_json(text: str) -> list[Any] | dict[str, Any] | None:
    """Return the object or list that ``text`` is as a whole, None when it is plain text."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        document = parse_json(text)
    except NotStrictJsonError:
        return None
    return document if isinstance(document, (list, dict)) else None


def collect(document: object) -> list[Leaf]:
    """Return every text of ``document``."""
    leaves: list[Leaf] = []

    def remember(leaf: Leaf) -> str:
        leaves.append(leaf)
        return leaf.text

    rewrite(document, remember)
    return leaves
