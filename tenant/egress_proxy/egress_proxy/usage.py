"""Reads, while an answer passes by, how many tokens it cost and where it ends."""

import json
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_MODEL_CHARACTERS = 200
MAX_TOKENS = 2**40


@dataclass
class Usage:
    """Tokens as the provider reports them, 0 until it does."""

    input_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None

    def read(self, document: Any) -> None:  # noqa: ANN401 -- a JSON document
        """Take what an answer or a chunk of one says; anything malformed is passed over."""
        if not isinstance(document, dict):
            return
        if isinstance(document.get("model"), str):
            self.model = document["model"][:MAX_MODEL_CHARACTERS]
        match document.get("usage"):
            case {"prompt_tokens": prompt, "completion_tokens": completion}:
                if _is_count(prompt) and _is_count(completion):
                    self.input_tokens, self.output_tokens = prompt, completion


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_TOKENS


def _loads(data: bytes) -> Any:  # noqa: ANN401 -- a JSON document
    try:
        return json.loads(data)
    except ValueError:
        return None


def read_usage(body: bytes, usage: Usage) -> None:
    usage.read(_loads(body))


class EventReader:
    """Follows a stream of server-sent events, however it is cut into chunks."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._rest = b""
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Read ``chunk``; ``done`` is set by the event that ends the conversation's turn."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:  # not an event of this protocol: meter nothing rather than grow
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
        elif b'"usage"' in data or self._usage.model is None:
            self._usage.read(_loads(data))
