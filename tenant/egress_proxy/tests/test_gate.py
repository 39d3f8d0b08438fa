"""The behaviour contract of the proxy, line by line, against real neighbours."""

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from egress_world import (
    BEARER,
    DEADLINE_S,
    PATH,
    PROVIDER_KEY,
    SECRET,
    Json,
    World,
    encoded,
    forms,
    leaks,
    tcp_site,
    world,
)

type Test = Callable[[World], Awaitable[None]]


def in_world(tmp_path: Path, test: Test, **changes: Any) -> None:  # noqa: ANN401 -- as world
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S * 2), world(tmp_path, **changes) as running:
            await test(running)

    asyncio.run(run())


def test_a_guarded_run_reaches_the_model_with_the_providers_key(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        status, answer = await w.say("hello")
        assert status == 200
        assert json.loads(answer)["choices"][0]["message"]["content"] == "ok"
        (sent,) = w.sent()
        assert f"Authorization: Bearer {PROVIDER_KEY}".encode() in sent
        assert BEARER.encode() not in sent
        assert sent.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")

    in_world(tmp_path, test)


def test_the_end_of_a_call_is_reported_with_its_tokens_before_the_caller_has_the_answer(
    tmp_path: Path,
) -> None:
    async def test(w: World) -> None:
        for stream in (False, True):
            await w.say(f"{SECRET} and {SECRET}", stream=stream, stream_options={"include_usage": True})
            admission_id, end = w.daemon.ends[-1]
            assert admission_id == f"a{len(w.daemon.questions)}"
            assert (end["outcome"], end["status"], end["model"]) == ("completed", 200, "lab-1")
            assert end["input_tokens"] > 10
            assert end["output_tokens"] > 0
            assert end["redactions"] == {"exact": 2}

    in_world(tmp_path, test)


def test_the_end_is_reported_before_done_and_not_after(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        body = json.dumps(w.conversation({"role": "user", "content": "x"}, stream=True))
        async with w.session.post(w.url + PATH, data=body, headers=w.headers()) as response:
            async for line in response.content:
                if line.strip() == b"data: [DONE]":
                    assert len(w.daemon.ends) == 1

    in_world(tmp_path, test)


def test_a_streams_first_bytes_arrive_while_the_upstream_is_still_speaking(tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[]}\n\n')
        await asyncio.wait_for(heard.wait(), DEADLINE_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def run() -> None:
        async with tcp_site(slow) as upstream, world(tmp_path, upstream=upstream) as w:
            body = json.dumps(w.conversation(stream=True))
            async with w.session.post(w.url + PATH, data=body, headers=w.headers()) as response:
                assert await response.content.readline() == b'data: {"choices":[]}\n'
                heard.set()
                assert (await response.read()).endswith(b"data: [DONE]\n\n")

    asyncio.run(run())


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_nonce_counts_only_in_instructions_and_never_leaves(tmp_path: Path, role: str) -> None:
    async def test(w: World) -> None:
        nonce = w.daemon.nonce()
        mark = f"[[tenantfleet-run {nonce}]]"
        inner = json.dumps({"note": mark, "bare": nonce, "hex": nonce.encode().hex()})
        messages = [
            {"role": role, "content": [{"type": "text", "text": f"Be brief.\n{mark}"}]},
            {"role": "user", "content": f"I saw {mark} and {mark.replace('[', '%5B').replace(']', '%5D')}"},
            {"role": "user", "content": inner},
            {"role": "user", "content": "log: " + json.dumps(inner)},
        ]
        status, answer = await w.post({"model": "m", "messages": messages, mark: 1})
        assert status == 200, answer
        assert w.daemon.questions[-1]["nonces"] == [nonce]
        assert leaks(w.sent()[-1], nonce) == []
        assert b"tenantfleet-run" not in w.sent()[-1]

    in_world(tmp_path, test)


def test_a_nonce_in_a_user_message_alone_admits_nothing(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        mark = f"[[tenantfleet-run {w.daemon.nonce()}]]"
        for message in (
            {"role": "user", "content": mark},
            {"role": "assistant", "content": mark},
            {"role": "system", "content": json.dumps({"x": mark}).replace("[[", "\\u005b\\u005b")},
        ):
            assert await w.refusal({"model": "m", "messages": [message]}) == (400, "no_live_run")
            assert w.daemon.questions[-1]["nonces"] == []
        assert w.sent() == []
        assert w.daemon.ends == []

    in_world(tmp_path, test)


def test_two_nonces_are_both_named_and_the_daemon_decides(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        nonces = [w.daemon.nonce(), w.daemon.nonce()]
        messages = [{"role": "system", "content": f"[[tenantfleet-run {nonce}]]"} for nonce in nonces]
        assert await w.refusal({"model": "m", "messages": messages}) == (400, "no_live_run")
        assert w.daemon.questions[-1]["nonces"] == nonces
        assert w.sent() == []

    in_world(tmp_path, test)


def test_admission_hears_provider_model_size_and_canaries(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        body = json.dumps(w.conversation()).encode()
        await w.post(body)
        question = w.daemon.questions[-1]
        assert (question["provider"], question["model"], question["bytes"]) == ("lab", "lab-1", len(body))
        assert question["canaries"] == []

    in_world(tmp_path, test)


@pytest.mark.parametrize("stream", [False, True])
def test_a_canary_turn_is_answered_by_the_built_in_model(tmp_path: Path, *, stream: bool) -> None:
    async def test(w: World) -> None:
        canary = "tfcanary-" + "a1" * 21 + "b"
        old = "tfcanary-" + "c" * 43
        messages: list[Json] = [
            {"role": "user", "content": old},
            {"role": "assistant", "content": f"{old} ok"},
        ]
        messages.append({"role": "user", "content": [{"type": "text", "text": f"Probe {canary}"}]})
        call = _message(await w.post(w.conversation(*messages, stream=stream)), stream=stream)
        function = call["tool_calls"][0]["function"]
        assert function["name"] == "exec"
        assert json.loads(function["arguments"]) == {"command": f"true # {canary}"}
        assert w.daemon.questions[-1]["canaries"] == [old, canary]

        reply = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "denied"}
        internal = {"role": "user", "content": "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>> x"}
        follow_up = [*messages, {"role": "assistant", "tool_calls": call["tool_calls"]}, reply, internal]
        text = _message(await w.post(w.conversation(*follow_up, stream=stream)), stream=stream)
        assert text["content"] == f"{canary} ok"
        assert w.sent() == []
        assert [end["outcome"] for _, end in w.daemon.ends] == ["completed", "completed"]

    in_world(tmp_path, test)


def _message(answer: tuple[int, bytes], *, stream: bool) -> Json:
    status, body = answer
    assert status == 200, body
    if not stream:
        whole: Json = json.loads(body)["choices"][0]["message"]
        return whole
    events = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]
    assert body.endswith(b"data: [DONE]\n\n")
    first: Json = json.loads(events[0])["choices"][0]["delta"]
    return first


@pytest.mark.parametrize("name", sorted(encoded(SECRET)))
def test_a_registered_secret_never_leaves(tmp_path: Path, name: str) -> None:
    text = encoded(SECRET)[name]

    async def test(w: World) -> None:
        calls = [_tool_call({"command": f"echo {text}", "deep": [json.dumps({"x": text})]})]
        result = {"role": "tool", "tool_call_id": "call_1", "content": f"line 1\n{text}\n"}
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
        places: list[Json] = [
            {"messages": [{"role": "user", "content": f"use {text} now"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": text}, image]}]},
            {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}, result]},
            {"messages": [{"role": "user", "content": "cut off: " + json.dumps({"a": text})[:-1]}]},
            {
                "metadata": {text: {"inner": text}},
                "tools": [{"type": "function", "function": {"name": text}}],
            },
        ]
        for place in places:
            body = w.conversation(*place.pop("messages", []))
            status, answer = await w.post({**body, **place})
            assert status == 200, answer
            assert leaks(w.sent()[-1]) == [], w.sent()[-1]
            assert b"[[S:tools.crm.db_password:" in w.sent()[-1]

    in_world(tmp_path, test)


def _tool_call(arguments: Json) -> Json:
    function = {"name": "exec", "arguments": json.dumps(arguments)}
    return {"id": "call_1", "type": "function", "function": function}


def test_the_search_for_leaks_finds_each_form() -> None:
    for name, text in encoded(SECRET).items():
        assert leaks(json.dumps({"x": text}, ensure_ascii=False).encode()), name
    assert len(set(forms(SECRET).values())) > 10


def test_placeholders_are_the_same_in_every_turn_and_are_left_alone(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        await w.say(SECRET)
        (placeholder,) = re.findall(rb"\[\[S:[^]]*\]\]", w.sent()[-1])
        assert re.fullmatch(rb"\[\[S:tools\.crm\.db_password:[0-9a-f]{8}\]\]", placeholder)
        await w.say(f"{SECRET} password={placeholder.decode()}")
        assert w.sent()[-1].count(placeholder) == 2

    in_world(tmp_path, test)


def test_query_and_headers_carry_no_secret(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for text in ("gateway-token-of-the-test-77", "gateway%2Dtoken-of-the-test-77", "ghp_" + "a1" * 18):
            path = f"{PATH}?x={text}"
            assert await w.refusal(w.conversation(), path=path) == (400, "secret_in_target")
        assert w.sent() == []
        headers = w.headers(
            **{"X-Title": "gateway-token-of-the-test-77", "User-Agent": "me/1", "Cookie": "a=b"}
        )
        assert (await w.post(w.conversation(), path=f"{PATH}?v=1", headers=headers))[0] == 200
        (sent,) = w.sent()
        assert sent.startswith(b"POST /v1/chat/completions?v=1 ")
        assert b"User-Agent: me/1" in sent
        assert b"gateway-token" not in sent
        assert b"Cookie" not in sent

    in_world(tmp_path, test)


def test_only_listed_methods_paths_and_types_pass(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        body = w.conversation()
        for path in (
            "/other/v1/chat/completions",
            "/lab/v1/embeddings",
            "/lab/v1/chat/completions/",
            "/lab/v1/../v1/chat/completions",
            "/lab/v1/chat%2Fcompletions",
            "/v1/chat/completions",
            "/",
        ):
            assert await w.refusal(body, path=path) == (403, "forbidden"), path
        for content_type in ("text/plain", "multipart/form-data", "application/json; charset=utf-16"):
            headers = w.headers(**{"Content-Type": content_type})
            assert await w.refusal(body, headers=headers) == (415, "unsupported_media_type")
        assert (await w.get(PATH))[0] == 403
        upgrade = w.headers(Connection="Upgrade", Upgrade="websocket")
        assert await w.refusal(body, headers=upgrade) == (403, "forbidden")
        assert w.sent() == []
        assert w.daemon.questions == []

    in_world(tmp_path, test)


def test_only_our_bearer_is_served(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for authorization in ("", "Bearer wrong", f"Basic {BEARER}", f"Bearer {BEARER}x", BEARER):
            headers = w.headers(Authorization=authorization)
            assert await w.refusal(w.conversation(), headers=headers) == (401, "unauthenticated")
        assert w.daemon.questions == []

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model":"m","messages":[],"model":"n"}',
        b'{"model":"m","messages":[{"role":"user","content":"a","content":"b"}]}',
        b'{"model":"m","messages":[],"x":NaN}',
        b'{"model":"m","messages":[],"x":-Infinity}',
        b'{"model":"m","messages":[],"x":1e999}',
        b'{"model":"m","messages":[],"x":"\xff\xfe"}',
        b'{"model":"m","messages":[1]}',
        b'{"model":"","messages":[]}',
        b'{"model":"m","messages":[],"stream":"yes"}',
        b'{"model":"m"}',
        b"[" * 50_000,
        b'{"model":"m","messages":[],"x":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_what_is_not_strict_json_is_refused(tmp_path: Path, body: bytes) -> None:
    async def test(w: World) -> None:
        assert await w.refusal(body) == (400, "malformed")
        assert w.sent() == []

    in_world(tmp_path, test)


def test_compressed_bodies_are_read_and_leave_plain(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        raw = zlib.compressobj(wbits=-15)
        squeezers: dict[str, Callable[[bytes], bytes]] = {
            "gzip": gzip.compress,
            "deflate": zlib.compress,
            "Deflate": lambda data: raw.compress(data) + raw.flush(),
            "identity": bytes,
        }
        for name, squeeze in squeezers.items():
            body = json.dumps(w.conversation({"role": "user", "content": SECRET})).encode()
            status, answer = await w.post(squeeze(body), headers=w.headers(**{"Content-Encoding": name}))
            assert status == 200, answer
            assert leaks(w.sent()[-1]) == []
            assert b"Content-Encoding" not in w.sent()[-1]

    in_world(tmp_path, test)


def test_bombs_and_oversize_bodies_are_refused(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        large = json.dumps(w.conversation({"role": "user", "content": "x" * 300_001})).encode()
        assert await w.refusal(large) == (413, "too_large")
        bomb = gzip.compress(b" " * 100_000_000)
        assert len(bomb) < 300_000
        packed = w.headers(**{"Content-Encoding": "gzip"})
        assert await w.refusal(bomb, headers=packed) == (413, "too_large")
        body = gzip.compress(json.dumps(w.conversation()).encode())
        assert await w.refusal(body + b"more", headers=packed) == (400, "malformed")
        assert await w.refusal(body[:-9], headers=packed) == (400, "malformed")
        for encoding in ("br", "zstd", "gzip, gzip"):
            headers = w.headers(**{"Content-Encoding": encoding})
            assert await w.refusal(b"{}", headers=headers) == (415, "unsupported_encoding")
        assert w.sent() == []

    in_world(tmp_path, test)


def test_a_half_surrogate_pair_is_mended_and_not_refused(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        body = json.dumps(w.conversation({"role": "user", "content": f"cut \ud83d {SECRET} \ud83d\ude00"}))
        assert (await w.post(body.encode()))[0] == 200
        assert "cut �".encode() in w.sent()[-1]
        assert "😀".encode() in w.sent()[-1]
        assert leaks(w.sent()[-1]) == []

    in_world(tmp_path, test)


def test_a_last_look_at_the_wire_stops_what_the_layers_let_through(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        # The layers look at texts: a registered value that stands as a number is left to the last look.
        body = w.conversation(x=48151623421)
        assert await w.refusal(body) == (503, "leak_stopped")
        assert w.sent() == []
        assert w.daemon.ends[-1][1]["outcome"] == "failed"
        assert 'rejected_total{reason="leak_stopped"} 1' in (await w.get("/metrics"))[1]

    in_world(tmp_path, test, registry={"pin": "48151623421"})


def test_too_many_calls_at_a_time_are_refused(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        release = asyncio.Event()

        async def hold(question: Json) -> web.StreamResponse:
            await release.wait()
            return await w.daemon.verdict(question)

        w.daemon.answer = hold
        held = asyncio.create_task(w.say("first"))
        await asyncio.wait_for(w.daemon.asked.wait(), DEADLINE_S)
        assert await w.refusal(w.conversation()) == (503, "busy")
        release.set()
        assert (await held)[0] == 200

    in_world(tmp_path, test, limits={"concurrent": 1})


def test_counters_and_readiness_tell_no_secret(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        await w.say(f"{SECRET} ghp_{'a1' * 18}")
        status, metrics = await w.get("/metrics")
        assert status == 200
        assert 'redaction_matches_total{layer="exact",rule="plain"} 1' in metrics
        assert 'redaction_matches_total{layer="pattern",rule="github-token"} 1' in metrics
        assert 'requests_total{outcome="upstream_completed"} 1' in metrics
        assert "registry_entries 2" in metrics
        assert "selftest_ok 1" in metrics
        status, readiness = await w.get("/readyz")
        assert status == 200
        assert leaks((metrics + readiness).encode()) == []

    in_world(tmp_path, test)
