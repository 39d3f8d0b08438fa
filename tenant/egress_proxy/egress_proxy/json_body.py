"""Bytes of a request body to a JSON document and back, with hard bounds and no ambiguity."""

import json
import zlib
from typing import Any, NoReturn

from egress_proxy.refusal import Reason, RefusalError

MAX_DEPTH = 100
GZIP_WINDOW = zlib.MAX_WBITS | 16
RAW_WINDOW = -zlib.MAX_WBITS


class NotStrictJsonError(ValueError):
    """The text is no JSON, or JSON that two readers may understand differently."""


def decode_body(body: bytes, encoding: str, *, limit: int) -> bytes:
    """Undo the content encoding, never producing more than ``limit`` bytes.

    Raises:
        RefusalError: unknown encoding, broken data, or more than ``limit`` bytes.
    """
    match encoding.strip().lower():
        case "" | "identity":
            plain = body
        case "gzip" | "x-gzip":
            plain = _inflate(body, GZIP_WINDOW, limit)
        case "deflate":
            # RFC 9110 means zlib's format; some senders mean the bare stream. The first two bytes tell.
            is_zlib = len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0
            plain = _inflate(body, zlib.MAX_WBITS if is_zlib else RAW_WINDOW, limit)
        case _:
            raise RefusalError(Reason.UNSUPPORTED_ENCODING, "the body's content encoding is not supported")
    if len(plain) > limit:
        raise RefusalError(Reason.TOO_LARGE, "the decoded body is too large")
    return plain


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error:
        raise RefusalError(Reason.MALFORMED, "the body is not what its content encoding says") from None
    if len(plain) > limit:
        raise RefusalError(Reason.TOO_LARGE, "the decoded body is too large")
    if not stream.eof or stream.unused_data:
        raise RefusalError(Reason.MALFORMED, "the compressed body is cut off or has something behind it")
    return plain


def parse_json(data: bytes | str) -> Any:  # noqa: ANN401 -- a JSON document
    """Return the document in ``data``; lone surrogates, which no UTF-8 can carry, become U+FFFD.

    Raises:
        NotStrictJsonError: invalid UTF-8 or JSON, a repeated key, NaN or infinity, or nested too deeply.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        # JavaScript cuts texts inside a surrogate pair and then writes the half as \udXXX.
        return _without_surrogates(document) if "\\ud" in text.lower() else document
    except NotStrictJsonError:
        raise
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise NotStrictJsonError(f"not JSON in UTF-8 ({type(error).__name__})") from None


def serialise(document: object) -> str:
    """Return ``document`` as compact JSON, as it goes over the wire."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise NotStrictJsonError("an object repeats a key")
    return mapping


def _no_constant(_name: str) -> NoReturn:
    raise NotStrictJsonError("NaN and infinities are not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in {float("inf"), float("-inf")}:
        raise NotStrictJsonError("a number is too large")
    return number


def _without_surrogates(node: Any, depth: int = 0) -> Any:  # noqa: ANN401 -- a JSON document
    if depth > MAX_DEPTH:
        raise NotStrictJsonError("nested too deeply")
    match node:
        case str():
            return node.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_surrogates(item, depth + 1) for item in node]
        case dict():
            return _unique(
                [
                    (_without_surrogates(key), _without_surrogates(value, depth + 1))
                    for key, value in node.items()
                ]
            )
    return node
