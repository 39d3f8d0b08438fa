import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lab.model_server import (
    INTERNAL_CONTEXT,
    MalformedRequestError,
    ModelServer,
    answer_to,
    listening,
    parse_request,
    parse_script,
)

type Json = dict[str, Any]
type Talk = Callable[[aiohttp.ClientSession], Awaitable[None]]

SCRIPT = '[[script: [{"tool": "exec", "arguments": {"command": "echo ]] [[x"}}, {"text": "bye"}]]]'
KEY = {"Authorization": "Bearer lab-key"}


def talk(tmp_path: Path, conversation: Talk, *, api_key: str | None = None) -> None:
    async def run() -> None:
        server = ModelServer(record_dir=tmp_path, api_key=api_key)
        async with (
            listening(server, address="127.0.0.1", port=0) as url,
            aiohttp.ClientSession(url.removesuffix("v1"), headers=KEY) as session,
        ):
            await conversation(session)

    asyncio.run(run())


def request(*messages: Json, **more: object) -> Json:
    return {"model": "lab-1", "messages": list(messages), **more}


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def test_a_script_is_played_step_by_step_and_then_done() -> None:
    messages = [user(f"please {SCRIPT} now")]
    first = answer_to(messages)
    assert (first.tool, json.loads(first.arguments)) == ("exec", {"command": "echo ]] [[x"})
    messages += [first.message(), {"role": "tool", "tool_call_id": first.call_id, "content": "x"}]
    messages += [user(f" {INTERNAL_CONTEXT} not a turn of its own")]
    assert answer_to(messages).text == "bye"
    messages += [{"role": "assistant", "content": "bye"}]
    assert answer_to(messages).text == "done"


def test_a_new_user_message_starts_anew() -> None:
    said = [user(SCRIPT), {"role": "assistant", "content": "x"}]
    assert answer_to([*said, user("thanks")]).text == "ok"
    assert answer_to([*said, user(SCRIPT)]).tool == "exec"
    assert answer_to([{"role": "system", "content": SCRIPT}]).text == "ok"


def test_a_script_may_stand_in_a_part_of_a_message() -> None:
    parts = [{"type": "image_url", "image_url": {}}, {"type": "text", "text": SCRIPT}]
    assert answer_to([{"role": "user", "content": parts}]).tool == "exec"


@pytest.mark.parametrize(
    "text", ["[[script: ", "[[script: {}]]", "[[script: []", '[[script: [{"tool": "x"}]]]', "[[script: [1]]]"]
)
def test_a_malformed_script_is_an_error(text: str) -> None:
    with pytest.raises(MalformedRequestError):
        parse_script(text)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"model": "m"}',
        b'{"model": 1, "messages": []}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "model": "m", "messages": [{"role": "user", "content": ""}]}',
        b'{"model": "m", "messages": [{"role": "robot", "content": ""}]}',
        b'{"model": "m", "messages": [{"role": "user"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}',
        b'{"model": "m", "messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]}',
        b'{"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}',
        b'{"model": "m", "stream": 1, "messages": [{"role": "user", "content": ""}]}',
        b'{"model": "m", "tools": [{}], "messages": [{"role": "user", "content": ""}]}',
    ],
)
def test_a_malformed_request_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        parse_request(body)


def test_an_answer_comes_whole_or_as_a_stream_of_the_same_content(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        body = request(user(SCRIPT))
        async with session.post("v1/chat/completions", json=body) as response:
            whole = await response.json()
        assert whole["choices"][0]["finish_reason"] == "tool_calls"
        assert whole["usage"]["total_tokens"] > 0
        options = {"stream": True, "stream_options": {"include_usage": True}}
        async with session.post("v1/chat/completions", json={**body, **options}) as response:
            assert response.content_type == "text/event-stream"
            events = [line[6:] for line in (await response.text()).splitlines() if line]
        assert events.pop() == "[DONE]"
        *chunks, usage = map(json.loads, events)
        assert usage["usage"]["completion_tokens"] > 0
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        arguments = "".join(
            call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", [])
        )
        assert arguments == whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]

    talk(tmp_path, conversation)


def test_every_request_is_recorded_as_it_came_also_a_refused_one(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        async with session.post("v1/chat/completions?a=%20b", data=b"{garbage") as response:
            assert response.status == 415
        async with session.get("v1/nowhere", headers={"X-Odd": "1"}) as response:
            assert response.status == 404

    (tmp_path / "000041.http").touch()
    talk(tmp_path, conversation)
    first, second = tmp_path / "000042.http", tmp_path / "000043.http"
    assert first.read_bytes().startswith(b"POST /v1/chat/completions?a=%20b HTTP/1.1\r\n")
    assert b"Authorization: Bearer lab-key\r\n" in first.read_bytes()
    assert first.read_bytes().endswith(b"\r\n\r\n{garbage")
    assert b"X-Odd: 1\r\n" in second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("key", "status"), [("right", 200), ("wrong", 401)])
def test_a_key_is_required_and_checked_when_one_is_set(tmp_path: Path, key: str, status: int) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        async with session.get("v1/models", headers={"Authorization": f"Bearer {key}"}) as response:
            assert response.status == status
        async with session.get("v1/models", headers={"Authorization": ""}) as response:
            assert response.status == 401

    talk(tmp_path, conversation, api_key="right")


def test_the_command_says_where_it_listens(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lab.model_server",
        "--listen",
        "127.0.0.1:0",
        "--record-dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("model server: http://127.0.0.1:")
        process.terminate()
