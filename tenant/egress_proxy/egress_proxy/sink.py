"""The built-in model: it answers a canary turn, so that the guard's proof needs no provider."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from egress_proxy.exit import EVENT_STREAM, Outbound, Reply

_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class Sink:
    """Calls ``exec`` with the canary in a comment; once the result is there, says ``<canary> ok``."""

    @asynccontextmanager
    async def open(self, outbound: Outbound) -> AsyncIterator[Reply]:
        canary, answered = canary_turn(outbound)
        message, reason = _text(f"{canary} ok") if answered else _tool_call(canary)
        frame = {
            "id": f"chatcmpl-{time.time_ns():x}",
            "created": int(time.time()),
            "model": outbound.document["model"],
        }
        if outbound.stream:
            yield Reply(200, {"Content-Type": EVENT_STREAM}, _once(_events(frame, message, reason)))
            return
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = {**frame, "object": "chat.completion", "choices": [choice], "usage": _NO_USAGE}
        yield Reply(200, {"Content-Type": "application/json"}, _once(json.dumps(answer).encode()))


def canary_turn(outbound: Outbound) -> tuple[str, bool]:
    """Return the canary of the last user message that has one, and whether a tool's result follows it."""
    messages = outbound.document["messages"]
    for index in range(len(messages) - 1, -1, -1):
        said = json.dumps(messages[index], ensure_ascii=False) if messages[index]["role"] == "user" else ""
        for canary in outbound.canaries:
            if canary in said:
                return canary, any(message["role"] == "tool" for message in messages[index + 1 :])
    return outbound.canaries[-1] if outbound.canaries else "tfcanary", False


def _text(text: str) -> tuple[dict[str, Any], str]:
    return {"role": "assistant", "content": text}, "stop"


def _tool_call(canary: str) -> tuple[dict[str, Any], str]:
    function = {"name": "exec", "arguments": json.dumps({"command": f"true # {canary}"})}
    call = {"id": f"call_{canary[-16:]}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"


def _events(frame: dict[str, Any], message: dict[str, Any], reason: str) -> bytes:
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", []))]
    delta = {**message, "tool_calls": calls} if calls else message
    base = {**frame, "object": "chat.completion.chunk"}
    chunks = (
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        {**base, "choices": [], "usage": _NO_USAGE},
    )
    return (
        b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
