"""Strict reading of JSON documents: every key is named, every value has its type."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

type Json = dict[str, Any]


class InvalidDocumentError(ValueError):
    """A document is not what its contract says; the text names the place."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise InvalidDocumentError("an object repeats a key")
    return mapping


def parse_object(text: bytes | str) -> Json:
    """Return the JSON object in ``text``.

    Raises:
        InvalidDocumentError: it is no JSON object, or an object in it repeats a key.
    """
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidDocumentError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidDocumentError("not a JSON object")
    return document


def read_object(path: Path) -> Json:
    """Return the JSON object in a file.

    Raises:
        InvalidDocumentError: it cannot be read, or it is no JSON object.
    """
    try:
        return parse_object(path.read_bytes())
    except OSError as error:
        raise InvalidDocumentError(f"{path}: {error.strerror}") from error
    except InvalidDocumentError as error:
        raise InvalidDocumentError(f"{path}: {error}") from error


def check_keys(
    document: Mapping[str, Any], *, where: str, required: set[str], optional: frozenset[str] = frozenset()
) -> None:
    """Refuse a document that lacks a required key or has an unknown one."""
    if missing := sorted(required - document.keys()):
        raise InvalidDocumentError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(document.keys() - required - optional):
        raise InvalidDocumentError(f"{where} has unknown keys: {', '.join(unknown)}")


def text(document: Mapping[str, Any], key: str, *, where: str, longest: int = 4096) -> str:
    value = document.get(key)
    if not isinstance(value, str) or len(value) > longest:
        raise InvalidDocumentError(f"{where}.{key} is no text of at most {longest} characters")
    return value


def name(document: Mapping[str, Any], key: str, *, where: str, longest: int = 512) -> str:
    value = text(document, key, where=where, longest=longest)
    if not value:
        raise InvalidDocumentError(f"{where}.{key} is empty")
    return value


def integer(document: Mapping[str, Any], key: str, *, where: str, least: int, most: int) -> int:
    value = document.get(key)
    if type(value) is not int or not least <= value <= most:
        raise InvalidDocumentError(f"{where}.{key} is no integer from {least} to {most}")
    return value


def texts(document: Mapping[str, Any], key: str, *, where: str) -> tuple[str, ...]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidDocumentError(f"{where}.{key} is no list of texts")
    return tuple(value)
