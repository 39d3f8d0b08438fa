"""``plugin.sock``: what the plugin inside the gateway asks and reports."""

import asyncio
from contextlib import suppress

from aiohttp import web

from safety_wrapper.guard import Guard, RefusedError, ToolRequest
from safety_wrapper.policy import Decision
from safety_wrapper.strict import InvalidDocumentError, Json, check_keys, name, text
from safety_wrapper.watch import Watch
from safety_wrapper.web import application, body_of

# While a person decides, a space now and then tells the plugin that the daemon lives; JSON allows it.
SIGN_OF_LIFE_S = 3.0


class PluginApi:
    def __init__(self, *, guard: Guard, watch: Watch) -> None:
        self._guard = guard
        self._watch = watch

    def application(self) -> web.Application:
        app = application(self._watch.admit_peer)
        app.router.add_post("/v1/runs", self._open_run)
        app.router.add_post("/v1/runs/{run_id}/start", self._start_run)
        app.router.add_post("/v1/runs/{run_id}/model-calls", self._announce_model_call)
        app.router.add_post("/v1/runs/{run_id}/end", self._end_run)
        app.router.add_post("/v1/tool-calls", self._decide_tool_call)
        app.router.add_post("/v1/tool-calls/{tool_call_id}/end", self._end_tool_call)
        return app

    async def _open_run(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        where = "run"
        check_keys(body, where=where, required={"run_id", "agent_id", "session_key", "trigger"})
        text(body, "agent_id", where=where)
        text(body, "trigger", where=where)
        nonce = self._guard.open_run(
            name(body, "run_id", where=where), session_key=text(body, "session_key", where=where)
        )
        return web.json_response({"nonce": nonce}, status=201)

    async def _start_run(self, request: web.Request) -> web.Response:
        try:
            self._guard.start_run(request.match_info["run_id"])
        except RefusedError as error:
            return web.json_response({"allow": False, "reason": str(error)}, status=403)
        return web.json_response({"allow": True})

    async def _announce_model_call(self, request: web.Request) -> web.Response:
        self._guard.announce_model_call(request.match_info["run_id"])
        return web.Response(status=204)

    async def _end_run(self, request: web.Request) -> web.Response:
        self._guard.end_run(request.match_info["run_id"])
        return web.Response(status=204)

    async def _end_tool_call(self, request: web.Request) -> web.Response:
        run_id = name(await body_of(request), "run_id", where="tool call's end")
        self._guard.end_tool_call(run_id, request.match_info["tool_call_id"])
        return web.Response(status=204)

    async def _decide_tool_call(self, request: web.Request) -> web.StreamResponse:
        tool_request = _tool_request(await body_of(request))
        deciding = asyncio.create_task(self._guard.decide_tool_call(tool_request))
        try:
            done, _ = await asyncio.wait({deciding}, timeout=SIGN_OF_LIFE_S)
            if done:
                return web.json_response(_answer(deciding.result()))
            return await self._decided_late(request, deciding)
        finally:
            deciding.cancel()

    async def _decided_late(
        self, request: web.Request, deciding: asyncio.Task[Decision]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        # A plugin that hung up (the run was aborted) withdraws its question.
        with suppress(ConnectionResetError):
            while not deciding.done():
                await response.write(b" ")
                await asyncio.wait({deciding}, timeout=SIGN_OF_LIFE_S)
            await response.write(web.json_response(_answer(deciding.result())).body or b"")  # type: ignore[arg-type]
            await response.write_eof()
        return response


def _answer(decision: Decision) -> Json:
    return {"decision": decision.verdict.value, "rule": decision.rule, "reason": decision.reason}


def _tool_request(body: Json) -> ToolRequest:
    where = "tool call"
    check_keys(body, where=where, required={"run_id", "tool_call_id", "tool", "params", "session_key"})
    if not isinstance(body["params"], dict):
        raise InvalidDocumentError(f"{where}.params is no object")
    return ToolRequest(
        run_id=name(body, "run_id", where=where),
        tool_call_id=name(body, "tool_call_id", where=where),
        tool=name(body, "tool", where=where, longest=200),
        params=body["params"],
        session_key=text(body, "session_key", where=where),
    )
