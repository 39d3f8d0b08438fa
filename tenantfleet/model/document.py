"""Strict documents: parsed once from YAML or JSON text, then trusted."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from tenantfleet.model.errors import InputRefusedError, TenantfleetError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

LIMIT_CHARACTERS = 1_000_000


class _StrictLoader(yaml.SafeLoader):
    """YAML as JSON knows it: no aliases, no duplicate keys, no dates by guess."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"field {min(twice)!r} stands twice", None)
        return super().construct_mapping(node, deep=deep)


# A date stays a string, so that a document reads the same in YAML and in JSON.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be 1")  # noqa: TRY004 - pydantic wants a ValueError; true equals 1 for it
    return value


VersionOne = Annotated[Literal[1], BeforeValidator(_not_a_boolean)]


class Document(BaseModel):
    """Base of all documents: unknown fields, wrong types and later changes are refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, text: str, *, kind: str) -> Self:
        """Parse YAML or JSON text.

        Args:
            text: the document; at most one million characters.
            kind: what a person calls it, e.g. `order`; also the first part of the error's code.

        Raises:
            InputRefusedError: naming each offending field, never its value.
        """
        data = plain(text, kind=kind)
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise _refusal(kind, error.errors(include_input=False, include_url=False)) from None
        except (TypeError, ValueError, RecursionError):
            raise _not_plain(kind) from None


def plain(text: str, *, kind: str) -> Any:  # noqa: ANN401 - plain data of any shape
    """Read YAML or JSON text as JSON knows it: no aliases, no key twice.

    Args:
        text: at most one million characters.
        kind: what a person calls it; also the first part of the error's code.

    Raises:
        InputRefusedError: it is too large, or no such text.
    """
    if len(text) > LIMIT_CHARACTERS:
        raise InputRefusedError(f"the {kind} is too large", code=f"{kind}.too_large", hint="Check the file.")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InputRefusedError(
            f"the {kind} is not valid YAML{line}: {problem}",
            code=f"{kind}.not_yaml",
            hint="Correct the file.",
        ) from None
    except (TypeError, ValueError, RecursionError):
        raise _not_plain(kind) from None


def _not_plain(kind: str) -> InputRefusedError:
    return InputRefusedError(
        f"the {kind} is not plain data",
        code=f"{kind}.not_plain",
        hint="Use strings, numbers and lists only.",
    )


_HELP = {"order": "; `tenantfleet order schema` prints what an order may hold"}
_CODES = {"extra_forbidden": "unknown_field", "missing": "missing_field"}


def _refusal(kind: str, errors: Iterable[ErrorDetails]) -> TenantfleetError:
    found = [(".".join(map(str, error["loc"])), error["type"], error["msg"]) for error in errors]
    where, what, _ = found[0]
    if what == "string_pattern_mismatch" and where in {"release", "manifest_sha256"}:
        code = "not_a_digest"
    else:
        code = _CODES.get(what, "wrong_type" if what.endswith("_type") else "wrong_value")
    text = "; ".join(
        f"{name or 'document'}: {message[0].lower()}{message[1:]}" for name, _, message in found[:8]
    )
    return InputRefusedError(
        f"the {kind} was refused: {text}",
        code=f"{kind}.{code}",
        hint=f"Correct {where or 'the document'} and try again{_HELP.get(kind, '')}.",
    )


def canonical(value: object) -> bytes:
    """Canonical JSON: UTF-8, sorted keys, no white space; floats are refused by type."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _refuse_floats(value: object) -> None:
    match value:
        case float():
            raise TypeError("a float has no canonical form")
        case dict():
            for item in value.values():
                _refuse_floats(item)
        case list() | tuple():
            for item in value:
                _refuse_floats(item)
        case _:
            pass
