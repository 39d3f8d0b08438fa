"""A model behind the OpenAI chat-completions protocol, scripted by what it is told.

Run: ``python -m lab.model_server --listen ADDR:PORT --record-dir DIR [--tls-cert F --tls-key F]
[--api-key-file F]``

The last real user message may hold ``[[script: JSON]]``, a list of steps ``{"tool": name, "arguments": {…}}``
or ``{"text": "…"}``. The n-th model call after that message plays the n-th step, later calls answer ``done``;
without a script the answer is ``ok``. Every request, also a refused one, is written to ``DIR/NNNNNN.http``:
request line, headers and body as they came (mode 0600: they hold keys).
"""

import argparse
import asyncio
import hashlib
import hmac
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

MAX_BODY_BYTES = 64 * 1024 * 1024
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
# OpenClaw appends such a user message after tool results: it opens no new turn.
INTERNAL_CONTEXT = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"
SCRIPT_MARK = "[[script:"
PIECE = 24  # characters a streamed delta carries

type Json = dict[str, Any]


class MalformedRequestError(ValueError):
    """The request breaks the protocol; the text says where."""


@dataclass(frozen=True)
class Answer:
    """What the model says: a text, or one call of a tool."""

    text: str | None = None
    tool: str | None = None
    arguments: str = ""
    call_id: str = ""

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.tool else "stop"

    def message(self) -> Json:
        if not self.tool:
            return {"role": "assistant", "content": self.text}
        function = {"name": self.tool, "arguments": self.arguments}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": self.call_id, "type": "function", "function": function}],
        }

    def deltas(self) -> list[Json]:
        """Return the pieces that a stream carries, in order."""
        if not self.tool:
            return [
                {"role": "assistant", "content": ""},
                *({"content": piece} for piece in _pieces(self.text or "")),
            ]
        head = {"id": self.call_id, "type": "function", "function": {"name": self.tool, "arguments": ""}}
        return [
            {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **head}]},
            *(
                {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
                for piece in _pieces(self.arguments)
            ),
        ]


def _pieces(text: str) -> list[str]:
    return ["".join(piece) for piece in itertools.batched(text, PIECE)]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise MalformedRequestError("the body repeats a key of one object")
    return mapping


def parse_request(body: bytes) -> Json:
    """Return the chat-completions request in ``body``.

    Raises:
        MalformedRequestError: it is no such request.
    """
    try:
        request = json.loads(body, object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MalformedRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise MalformedRequestError("the body is not an object")
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise MalformedRequestError("'model' is missing or no string")
    if not isinstance(request.get("stream", False), bool):
        raise MalformedRequestError("'stream' is no boolean")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise MalformedRequestError("'messages' is missing, no list, or empty")
    known_calls: set[str] = set()
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", known_calls)
    _check_tools(request.get("tools", []))
    return request


def _check_message(message: object, where: str, known_calls: set[str]) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise MalformedRequestError(f"{where} has no known role")
    calls = message.get("tool_calls") or []
    if message["role"] == "tool" and message.get("tool_call_id") not in known_calls:
        raise MalformedRequestError(f"{where} answers no tool call of an earlier message")
    if calls and message["role"] != "assistant":
        raise MalformedRequestError(f"{where} calls tools without being the assistant's")
    known_calls.update(_call_id(call, where) for call in calls)
    content = message.get("content")
    if content is None and not (message["role"] == "assistant" and calls):
        raise MalformedRequestError(f"{where} has no content")
    if content is not None and not isinstance(content, str):
        _check_parts(content, where)


def _call_id(call: object, where: str) -> str:
    match call:
        case {"id": str(call_id), "type": "function", "function": {"name": str(), "arguments": str()}}:
            return call_id
    raise MalformedRequestError(f"{where} has a malformed tool call")


def _check_parts(parts: object, where: str) -> None:
    if not isinstance(parts, list) or not all(isinstance(part, dict) and "type" in part for part in parts):
        raise MalformedRequestError(f"{where}.content is neither text nor a list of typed parts")
    if any(part["type"] == "text" and not isinstance(part.get("text"), str) for part in parts):
        raise MalformedRequestError(f"{where}.content has a text part without text")


def _check_tools(tools: object) -> None:
    if not isinstance(tools, list):
        raise MalformedRequestError("'tools' is no list")
    for index, tool in enumerate(tools):
        match tool:
            case {"type": "function", "function": {"name": str()}}:
                continue
        raise MalformedRequestError(f"tools[{index}] is no function with a name")


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, be it a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def answer_to(messages: Sequence[Mapping[str, Any]]) -> Answer:
    """Return what the script of the last real user message says at this point of the conversation.

    Raises:
        MalformedRequestError: the script cannot be read.
    """
    real = [
        index
        for index, message in enumerate(messages)
        if message["role"] == "user" and not text_of(message).lstrip().startswith(INTERNAL_CONTEXT)
    ]
    steps = parse_script(text_of(messages[real[-1]])) if real else None
    if steps is None:
        return Answer(text="ok")
    played = sum(message["role"] == "assistant" for message in messages[real[-1] + 1 :])
    if played >= len(steps):
        return Answer(text="done")
    step = steps[played]
    if "text" in step:
        return Answer(text=step["text"])
    digest = hashlib.sha256(json.dumps(messages, default=str).encode()).hexdigest()
    return Answer(
        tool=step["tool"], arguments=json.dumps(step["arguments"]), call_id=f"call_{played}_{digest[:16]}"
    )


def parse_script(text: str) -> list[Json] | None:
    """Return the steps of the first ``[[script: …]]`` in ``text``, None without one.

    Raises:
        MalformedRequestError: the mark is there, a well-formed script is not.
    """
    _, mark, rest = text.partition(SCRIPT_MARK)
    if not mark:
        return None
    rest = rest.lstrip()
    try:
        steps, end = json.JSONDecoder().raw_decode(rest)
    except json.JSONDecodeError as error:
        raise MalformedRequestError(f"the script is not JSON: {error}") from error
    if not rest[end:].lstrip().startswith("]]") or not isinstance(steps, list):
        raise MalformedRequestError("the script is no list that ]] follows")
    for step in steps:
        match step:
            case {"tool": str(), "arguments": dict()} if len(step) == len(("tool", "arguments")):
                continue
            case {"text": str()} if len(step) == 1:
                continue
        raise MalformedRequestError("a step is neither {tool, arguments} nor {text}")
    return steps


@dataclass(frozen=True)
class Recorder:
    """Writes each request to a numbered file of its own, whole or not at all."""

    directory: Path
    numbers: "itertools.count[int]"

    @classmethod
    def into(cls, directory: Path) -> "Recorder":
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = [int(path.stem) for path in directory.glob("*.http") if path.stem.isdecimal()]
        return cls(directory=directory, numbers=itertools.count(max(taken, default=0) + 1))

    def record(self, request: web.BaseRequest, body: bytes) -> None:
        version = f"HTTP/{request.version.major}.{request.version.minor}"
        head = f"{request.method} {request.raw_path} {version}\r\n".encode("utf-8", "surrogateescape")
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in request.raw_headers)
        path = self.directory / f"{next(self.numbers):06d}.http"
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_bytes(head + lines + b"\r\n" + body)
        part.rename(path)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response(
        {"error": {"code": code, "type": "invalid_request_error", "message": message}}, status=status
    )


class ModelServer:
    """The HTTP side: authorisation, recording, answers whole or as a stream of server-sent events."""

    def __init__(self, *, record_dir: Path, api_key: str | None = None) -> None:
        self._recorder = Recorder.into(record_dir)
        self._api_key = api_key

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._recorded_and_authorised])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    @web.middleware
    async def _recorded_and_authorised(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._recorder.record(request, await request.read())
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            return _error(401, "missing_api_key", "an Authorization header with a bearer key is required")
        if self._api_key and not hmac.compare_digest(key.encode(), self._api_key.encode()):
            return _error(401, "invalid_api_key", "the key is not the expected one")
        return await handler(request)

    async def _models(self, _request: web.Request) -> web.Response:
        model = {"id": "lab-1", "object": "model", "created": 0, "owned_by": "lab"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            return _error(415, "unsupported_media_type", "the body must be application/json")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return _error(415, "unsupported_encoding", "the body must not be compressed")
        body = await request.read()
        try:
            call = parse_request(body)
            answer = answer_to(call["messages"])
        except MalformedRequestError as error:
            return _error(400, "malformed_request", str(error))
        frame = {"id": f"chatcmpl-{time.time_ns():x}", "created": int(time.time()), "model": call["model"]}
        usage = _usage(body, answer)
        if call.get("stream"):
            wants_usage = (call.get("stream_options") or {}).get("include_usage") is True
            return await _stream(request, _chunks(frame, answer, usage if wants_usage else None))
        choice = {"index": 0, "message": answer.message(), "finish_reason": answer.finish_reason}
        return web.json_response({**frame, "object": "chat.completion", "choices": [choice], "usage": usage})


def _usage(body: bytes, answer: Answer) -> Json:
    """Estimate four bytes a token: the shape of the figures matters here, not their truth."""
    prompt, completion = max(1, len(body) // 4), max(1, len(answer.text or answer.arguments) // 4)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chunks(frame: Json, answer: Answer, usage: Json | None) -> list[Json]:
    base = {**frame, "object": "chat.completion.chunk"}
    chunks: list[Json] = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in answer.deltas()
    ]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish_reason}]})
    return [*chunks, {**base, "choices": [], "usage": usage}] if usage else chunks


async def _stream(request: web.Request, chunks: list[Json]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@asynccontextmanager
async def listening(
    server: ModelServer, *, address: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve until the block ends; yield the base URL with the port in use (``port`` 0 = any free one)."""
    # A compressed body is recorded as it came: what the parser inflates could hide what was sent.
    runner = web.AppRunner(server.application(), auto_decompress=False, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port, ssl_context=tls).start()
        bound = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://{f'[{address}]' if ':' in address else address}:{bound}/v1"
    finally:
        await runner.cleanup()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab.model_server", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT")
    parser.add_argument("--record-dir", required=True, type=Path)
    parser.add_argument("--tls-cert", type=Path, metavar="PEM")
    parser.add_argument("--tls-key", type=Path, metavar="PEM")
    parser.add_argument("--api-key-file", type=Path, help="refuse every other key than the one in this file")
    arguments = parser.parse_args()
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    return arguments


async def _serve(arguments: argparse.Namespace) -> None:
    tls = None
    if arguments.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    key = arguments.api_key_file.read_text(encoding="utf-8").strip() if arguments.api_key_file else None
    server = ModelServer(record_dir=arguments.record_dir, api_key=key)
    address, _, port = arguments.listen.rpartition(":")
    async with listening(server, address=address.strip("[]"), port=int(port), tls=tls) as url:
        print(f"model server: {url}, recording into {arguments.record_dir}", flush=True)  # noqa: T201 -- its readiness line
        await asyncio.Event().wait()


def main() -> None:
    try:
        asyncio.run(_serve(_arguments()))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
