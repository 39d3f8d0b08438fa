"""The forms in which a registered secret is recognised."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, quote_plus

JSON_DEPTH = 4


class Encoding(StrEnum):
    PLAIN = "plain"
    JSON = "json"
    URL = "url"
    HEX = "hex"
    BASE64 = "base64"
    BASE64URL = "base64url"


@dataclass(frozen=True)
class Variant:
    """One form of a secret.

    ``left`` and ``right`` say whether the character beside it still carries some of the secret's bits, mixed
    with its neighbour's: base64 only.
    """

    text: str
    encoding: Encoding
    left: bool = False
    right: bool = False


def variants(value: str) -> list[Variant]:
    """Return every form of ``value`` once, its plain one first."""
    by_text: dict[str, Variant] = {}
    for variant in (
        Variant(value, Encoding.PLAIN),
        *_json_escaped(value),
        *_percent_encoded(value),
        *_hexadecimal(value),
        *_base64(value),
    ):
        by_text.setdefault(variant.text, variant)
    return list(by_text.values())


def _json_escaped(value: str) -> Iterator[Variant]:
    """Yield what JSON writers make of it, up to four times over.

    JSON inside JSON that is cut off or mixed with other text cannot be parsed, so its layers stay on.
    """
    forms = {value}
    for _ in range(JSON_DEPTH):
        escaped = {
            json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in forms for ascii_only in (True, False)
        }
        forms = escaped | {form.replace("/", "\\/") for form in escaped if "\\/" not in form}
        yield from (Variant(form, Encoding.JSON) for form in sorted(forms))


def _percent_encoded(value: str) -> Iterator[Variant]:
    every_byte = "".join(f"%{byte:02X}" for byte in value.encode())
    for text in (quote(value, safe=""), quote(value, safe="/"), quote_plus(value), every_byte):
        yield Variant(text, Encoding.URL)
        yield Variant(_lower_escapes(text), Encoding.URL)


def _lower_escapes(text: str) -> str:
    head, *escaped = text.split("%")
    return "%".join([head, *(piece[:2].lower() + piece[2:] for piece in escaped)])


def _hexadecimal(value: str) -> Iterator[Variant]:
    digits = value.encode().hex()
    yield Variant(digits, Encoding.HEX)
    yield Variant(digits.upper(), Encoding.HEX)


def _base64(value: str) -> Iterator[Variant]:
    """Yield the characters that depend on ``value`` alone, for each of its positions in a longer text."""
    data = value.encode()
    for offset, lead in ((0, 0), (1, 2), (2, 3)):
        shared = (offset + len(data)) % 3  # bytes in the last, unfilled group
        encoded = base64.b64encode(bytes(offset) + data).decode()
        sure = encoded[lead : len(encoded) - (0, 3, 2)[shared]]
        edges = {"left": offset != 0, "right": shared != 0}
        yield Variant(sure, Encoding.BASE64, **edges)
        yield Variant(sure.translate(str.maketrans("+/", "-_")), Encoding.BASE64URL, **edges)
