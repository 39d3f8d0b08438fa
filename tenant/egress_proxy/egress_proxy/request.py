"""A caller's request, from its head and bytes to a checked chat-completions call."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web

from egress_proxy.config import Config, Provider
from egress_proxy.json_body import NotStrictJsonError, decode_body, parse_json
from egress_proxy.refusal import Reason, RefusalError

MAX_MODEL_CHARACTERS = 200
FORWARDED_HEADERS = ("Accept", "User-Agent", "OpenAI-Beta", "HTTP-Referer", "X-Title", "Idempotency-Key")


@dataclass(frozen=True)
class Target:
    """Where a request goes: the provider, the URL of the call, and the query as it came."""

    provider: Provider
    path: str
    query: str

    @property
    def url(self) -> str:
        return (
            self.provider.upstream + self.path.removeprefix("/v1") + (f"?{self.query}" if self.query else "")
        )

    @property
    def texts(self) -> tuple[str, str]:
        """What of it must hold no secret."""
        return self.query, unquote_plus(self.query)


@dataclass(frozen=True)
class Call:
    """A chat-completions request; ``document`` is a JSON object whose messages are objects with a role."""

    document: dict[str, Any]
    size: int

    @property
    def model(self) -> str:
        return str(self.document["model"])

    @property
    def stream(self) -> bool:
        return self.document.get("stream") is True


def allowed_target(request: web.BaseRequest, config: Config) -> Target:
    """Compare the head with the allow-list.

    Raises:
        RefusalError: method, path or content type is not on it, or the caller wants another protocol.
    """
    path, _, query = request.raw_path.partition("?")
    identifier, slash, rest = path.removeprefix("/").partition("/")
    provider = config.providers.get(identifier)
    # An upgrade or CONNECT would turn the connection into something that nobody redacts.
    if request.method != "POST" or "Upgrade" in request.headers:
        raise RefusalError(Reason.FORBIDDEN, "only POST without an upgrade is allowed")
    if provider is None or slash + rest not in provider.paths:
        raise RefusalError(Reason.FORBIDDEN, "the path is not allowed")
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise RefusalError(Reason.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json in UTF-8")
    return Target(provider=provider, path=slash + rest, query=query)


def authenticate(request: web.BaseRequest, bearer: str) -> None:
    """Compare the bearer in constant time.

    Raises:
        RefusalError: it is not ours.
    """
    shown = request.headers.get("Authorization", "")
    if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), f"Bearer {bearer}".encode()):
        raise RefusalError(Reason.UNAUTHENTICATED, "the bearer is not the expected one")


async def read_call(request: web.BaseRequest, config: Config) -> Call:
    """Read, decode and parse the body, each within its bound.

    Raises:
        RefusalError: too large, unknown encoding, no strict JSON, or no chat-completions request.
    """
    if request.content_length is not None and request.content_length > config.limits.body_bytes:
        raise RefusalError(Reason.TOO_LARGE, "the body is too large")
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > config.limits.body_bytes:
            raise RefusalError(Reason.TOO_LARGE, "the body is too large")
    encodings = request.headers.getall("Content-Encoding", [])
    plain = decode_body(bytes(body), ",".join(encodings), limit=config.limits.decoded_bytes)
    try:
        return Call(document=_checked(parse_json(plain)), size=len(plain))
    except NotStrictJsonError as error:
        raise RefusalError(Reason.MALFORMED, f"the body is refused: {error}") from None


def _checked(document: object) -> dict[str, Any]:
    match document:
        case {"model": str(), "messages": [*messages]} if (
            isinstance(document, dict)
            and 0 < len(document["model"]) <= MAX_MODEL_CHARACTERS
            and all(map(_has_role, messages))
            and isinstance(document.get("stream"), bool | None)
        ):
            return document
    raise RefusalError(Reason.MALFORMED, "the body is no chat-completions request")


def _has_role(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def forwarded_headers(request: web.BaseRequest) -> Mapping[str, str]:
    """Return the caller's headers that an upstream may see; never ``Authorization``, cookies or addresses."""
    return {name: request.headers[name] for name in FORWARDED_HEADERS if name in request.headers}
