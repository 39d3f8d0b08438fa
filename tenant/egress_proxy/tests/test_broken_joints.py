"""Each neighbour and each part broken on purpose: nothing leaves, and the daemon hears how a call ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from egress_proxy import admission, selftest
from egress_proxy.admission import DaemonAdmission, Question
from egress_proxy.redactor import Redactor
from egress_proxy.refusal import RefusalError
from egress_proxy.registry import ExactLayer
from egress_proxy.rules import shipped_rules
from egress_proxy.state import build_redactor, load_state
from egress_world import (
    DEADLINE_S,
    PATH,
    PROVIDER_KEY,
    SECRET,
    Daemon,
    Json,
    World,
    leaks,
    tcp_site,
    unix_site,
    world,
)

_ADMITTED = {"admitted": True, "admission_id": "a1", "run_id": "r", "route": "upstream"}

type Upstream = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def _text_answer(_question: Json) -> web.StreamResponse:
    return web.Response(text="hello")


async def _failure(_question: Json) -> web.StreamResponse:
    return web.json_response(_ADMITTED, status=500)


def _json_answer(document: object) -> Callable[[Json], Awaitable[web.StreamResponse]]:
    async def answer(_question: Json) -> web.StreamResponse:
        return web.json_response(document)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        _text_answer,
        _failure,
        _json_answer([]),
        _json_answer({"admitted": True}),
        _json_answer({**_ADMITTED, "admitted": "true"}),
        _json_answer({**_ADMITTED, "admitted": 1}),
        _json_answer({**_ADMITTED, "route": "elsewhere"}),
        _json_answer({**_ADMITTED, "admission_id": "../../x"}),
        _json_answer({**_ADMITTED, "admitted": False}),
        _json_answer({"admitted": False, "reason": "busy"}),
    ],
)
def test_any_other_answer_of_the_daemon_is_a_no(
    tmp_path: Path, answer: Callable[[Json], Awaitable[web.StreamResponse]]
) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.daemon.answer = answer
            assert await w.refusal(w.conversation()) == (503, "not_admitted")
            assert w.sent() == []
            w.daemon.answer = None
            assert (await w.say("again"))[0] == 200

    asyncio.run(run())


def test_without_a_daemon_nothing_leaves(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, admission_socket=str(tmp_path / "nobody.sock")) as w:
            assert await w.refusal(w.conversation()) == (503, "not_admitted")
            assert w.sent() == []

    asyncio.run(run())


def test_a_daemon_that_hangs_is_a_no(tmp_path: Path) -> None:
    daemon = Daemon()

    async def hang(_question: Json) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    daemon.answer = hang

    async def run() -> None:
        async with unix_site(daemon.application(), tmp_path / "h.sock"):
            client = DaemonAdmission(tmp_path / "h.sock", deadline_s=0.2)
            with pytest.raises(RefusalError) as refusal:
                await client.admit(Question(["n"], "lab", "m", [], 1))
            assert refusal.value.status == 503
            await client.close()

    asyncio.run(run())
    assert admission.DEADLINE_S < 10


@pytest.mark.parametrize(
    ("reason", "status"),
    [(r, 400) for r in sorted(admission.FINAL)] + [(r, 503) for r in sorted(admission.PASSING)],
)
def test_the_daemons_reason_is_passed_on(tmp_path: Path, reason: str, status: int) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            w.daemon.answer = _json_answer({"admitted": False, "reason": reason})
            told, answer = await w.post(w.conversation())
            assert told == status
            assert reason in json.loads(answer)["error"]["message"]

    asyncio.run(run())


@asynccontextmanager
async def against(tmp_path: Path, upstream: Upstream) -> AsyncIterator[World]:
    async with tcp_site(upstream) as url, world(tmp_path, upstream=url) as running:
        yield running


def test_an_upstream_that_cannot_be_reached_is_told_and_metered(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, upstream="http://127.0.0.1:1/v1") as w:
            assert await w.refusal(w.conversation()) == (502, "upstream_unreachable")
            assert w.daemon.ends[-1][1]["outcome"] == "upstream_error"
            assert w.daemon.ends[-1][1]["status"] == 502

    asyncio.run(run())


def test_a_redirect_is_not_followed_with_the_key(tmp_path: Path) -> None:
    followed = []

    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/v1/chat/completions":
            followed.append(request.path)
        return web.Response(status=307, headers={"Location": "/evil"})

    async def run() -> None:
        async with against(tmp_path, elsewhere) as w:
            assert await w.refusal(w.conversation()) == (502, "upstream_unreachable")
        assert followed == []

    asyncio.run(run())


def test_a_providers_error_is_passed_on_without_our_key(tmp_path: Path) -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        text = f"bad key: {request.headers['Authorization']}"
        return web.json_response(
            {"error": text}, status=401, headers={"Retry-After": "7", "Set-Cookie": "a=b"}
        )

    async def run() -> None:
        async with against(tmp_path, refuse) as w:
            body = json.dumps(w.conversation())
            async with w.session.post(w.url + PATH, data=body, headers=w.headers()) as response:
                assert (response.status, response.headers["Retry-After"]) == (401, "7")
                assert "Set-Cookie" not in response.headers
                assert PROVIDER_KEY not in await response.text()
            end = w.daemon.ends[-1][1]
            assert (end["outcome"], end["status"]) == ("upstream_error", 401)

    asyncio.run(run())


def test_a_stream_that_breaks_off_breaks_off_for_the_caller_too(tmp_path: Path) -> None:
    async def break_off(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[]}\n\n')
        assert request.transport
        request.transport.abort()
        return response

    async def run() -> None:
        async with against(tmp_path, break_off) as w:
            with pytest.raises(aiohttp.ClientPayloadError):
                await w.say("x", stream=True)
            await asyncio.wait_for(w.daemon.ended.wait(), DEADLINE_S)
            assert w.daemon.ends[-1][1]["outcome"] == "upstream_error"

    asyncio.run(run())


def test_a_caller_that_leaves_ends_the_call_at_both_neighbours(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            while True:
                await response.write(b'data: {"choices":[]}\n\n')
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            left.set()
            raise

    async def run() -> None:
        async with against(tmp_path, endless) as w:
            body = json.dumps(w.conversation(stream=True))
            async with w.session.post(w.url + PATH, data=body, headers=w.headers()) as response:
                await response.content.readline()
                response.close()
            await asyncio.wait_for(w.daemon.ended.wait(), DEADLINE_S)
            await asyncio.wait_for(left.wait(), DEADLINE_S)
            assert w.daemon.ends[-1][1]["outcome"] == "client_gone"

    asyncio.run(run())


def test_an_admission_that_comes_too_late_is_given_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            release = asyncio.Event()

            async def late(question: Json) -> web.StreamResponse:
                await release.wait()
                return await w.daemon.verdict(question)

            w.daemon.answer = late
            call = asyncio.create_task(w.say("x"))
            await asyncio.wait_for(w.daemon.asked.wait(), DEADLINE_S)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            release.set()
            await asyncio.wait_for(w.daemon.ended.wait(), DEADLINE_S)
            assert w.daemon.ends[-1][1]["outcome"] == "client_gone"
            assert w.sent() == []

    asyncio.run(run())


def test_a_layer_that_raises_lets_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Redactor, _document: object) -> None:
        raise ZeroDivisionError(SECRET)

    async def run() -> None:
        async with world(tmp_path) as w:
            monkeypatch.setattr(Redactor, "redact", broken)
            assert await w.refusal(w.conversation()) == (503, "internal")
            assert w.sent() == []
            assert w.daemon.ends[-1][1]["outcome"] == "failed"

    asyncio.run(run())


@pytest.mark.parametrize("name", ["registry", "redaction_key", "egress_bearer", "provider.lab"])
def test_a_missing_credential_closes_the_proxy_until_it_is_back(tmp_path: Path, name: str) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            content = (w.credentials / name).read_text()
            (w.credentials / name).unlink()
            await w.service.reload()
            assert await w.refusal(w.conversation()) == (503, "not_ready")
            status, readiness = await w.get("/readyz")
            assert status == 503
            assert name in readiness
            (w.credentials / name).write_text(content)
            await w.service.reload()
            assert (await w.get("/readyz"))[0] == 200
            assert (await w.say("x"))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize("registry", [[], {"a": 1}, {"short_pin": "12345"}, {"blank": "       "}])
def test_a_registry_that_cannot_be_guaranteed_closes_the_proxy(tmp_path: Path, registry: object) -> None:
    async def run() -> None:
        async with world(tmp_path, registry=registry) as w:
            assert await w.refusal(w.conversation()) == (503, "not_ready")
            _, readiness = await w.get("/readyz")
            assert "registry" in readiness
            assert "12345" not in readiness

    asyncio.run(run())


def test_rules_that_do_not_do_what_their_examples_say_close_the_proxy(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            for broken in (
                b"[]",
                b"{",
                shipped_rules().replace(b"ghp", b"xhp", 1),
                shipped_rules().replace(b'"pattern": "', b'"pattern": "(', 1),
                shipped_rules().replace(b"ghp_tooshort", b"ghp_" + b"a1" * 18, 1),
            ):
                rules = tmp_path / "rules.json"
                rules.write_bytes(broken)
                w.service._load = lambda: load_state(w.config_file, w.credentials, rules_path=rules)  # noqa: B023
                await w.service.reload()
                assert await w.refusal(w.conversation()) == (503, "not_ready")
                assert "rules" in (await w.get("/readyz"))[1]

    asyncio.run(run())


def test_a_red_self_test_closes_the_proxy_and_a_green_one_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            with monkeypatch.context() as patch:
                patch.setattr(ExactLayer, "spans", lambda _self, _text: iter(()))
                await w.service.test()
                assert await w.refusal(w.conversation()) == (503, "not_ready")
                assert "selftest_ok 0" in (await w.get("/metrics"))[1]
                assert "self-test red" in (await w.get("/readyz"))[1]
            await w.service.test()
            assert (await w.say("x"))[0] == 200

    asyncio.run(run())


def test_the_self_test_names_the_layer_that_is_off(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as w:
            state = w.service.current()
            assert await selftest.failures(state) == []
            other = build_redactor(state.config, state.credentials, shipped_rules(), "another canary")
            failed = await selftest.failures(replace(state, redactor=other))
            assert {"plain", "json", "url", "hex", "base64 2", "base64url 1", "key", "json in json"} <= set(
                failed
            )
            blind = replace(state.redactor, entropy=None, structural=None)
            assert await selftest.failures(replace(state, redactor=blind)) == []

    asyncio.run(run())


def test_the_self_test_repeats_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        tested = asyncio.Event()
        async with world(tmp_path) as w:

            async def red(_state: object) -> list[str]:
                tested.set()
                return ["plain"]

            monkeypatch.setattr(selftest, "failures", red)
            w.service._interval_s = 0.01
            testing = asyncio.create_task(w.service.keep_testing())
            await asyncio.wait_for(tested.wait(), DEADLINE_S)
            testing.cancel()
            assert (await w.get("/readyz"))[0] == 503

    asyncio.run(run())


def test_what_is_not_registered_leaves_so_the_silence_elsewhere_means_something(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, registry={"other": "something-else"}) as w:
            assert (await w.say(f"see {SECRET}"))[0] == 200
            assert leaks(w.sent()[-1])

    asyncio.run(run())
