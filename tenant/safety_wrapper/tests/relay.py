"""The least egress proxy that keeps the admission contract: strips nonces, asks, relays or sinks.

Run: ``relay.py PORT UPSTREAM_URL ADMISSION_SOCKET UID GID``. It stands in for the product's
proxy, so that a failure here is the wrapper's.
"""

import asyncio
import json
import os
import re
import sys
from typing import Any

import aiohttp
from aiohttp import web

NONCE = re.compile(r"\[\[tenantfleet-run ([A-Za-z0-9_-]{43})\]\]\n?")
CANARY = re.compile(r"tfcanary-[A-Za-z0-9_-]{43}")


class Relay:
    def __init__(self, *, upstream: str, admission: str) -> None:
        self._upstream = upstream
        self._admission = admission

    async def complete(self, request: web.Request) -> web.StreamResponse:
        document = json.loads(await request.read())
        nonces = [n for m in document["messages"] for n in self._nonces(m)]
        text = NONCE.sub("", json.dumps(document))
        ask = {
            "nonces": nonces,
            "provider": "lab",
            "model": document["model"],
            "canaries": sorted(set(CANARY.findall(text))),
            "bytes": len(text),
        }
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._admission)) as daemon:
            try:
                async with daemon.post("http://daemon/v1/admissions", json=ask) as answer:
                    verdict = await answer.json() if answer.status == 200 else {"reason": str(answer.status)}
            except aiohttp.ClientError as error:
                verdict = {"reason": type(error).__name__}
            sys.stdout.write(json.dumps({"ask": ask, "verdict": verdict}) + "\n")
            sys.stdout.flush()
            if verdict.get("admitted") is not True:
                message = f"not admitted: {verdict['reason']}"
                final = verdict["reason"] in {"no_nonce", "unknown_nonce", "run_ended"}
                return web.json_response({"error": {"message": message}}, status=400 if final else 503)
            end = {"outcome": "ok", "status": 200, "input_tokens": 1, "output_tokens": 1, "redactions": {}}
            try:
                if verdict["route"] == "sink":
                    return await self._sink(request, text, ask["canaries"][0])
                return await self._relay(request, text)
            finally:
                path = f"http://daemon/v1/admissions/{verdict['admission_id']}/end"
                async with daemon.post(path, json={**end, "model": document["model"]}):
                    pass

    def _nonces(self, message: dict[str, Any]) -> list[str]:
        if message["role"] not in {"system", "developer"}:
            return []
        return NONCE.findall(json.dumps(message["content"]).replace("\\n", "\n"))

    async def _relay(self, request: web.Request, body: str) -> web.StreamResponse:
        headers = {"Authorization": "Bearer lab", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._upstream}/chat/completions", data=body, headers=headers) as upstream,
        ):
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": upstream.headers["Content-Type"]}
            )
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            return response

    async def _sink(self, request: web.Request, body: str, canary: str) -> web.StreamResponse:
        after = json.loads(body)["messages"][-3:]
        answered = any(message["role"] == "tool" for message in after)
        call = {"name": "exec", "arguments": json.dumps({"command": f"true # {canary}"})}
        delta: dict[str, Any] = (
            {"role": "assistant", "content": f"{canary} ok"}
            if answered
            else {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"index": 0, "id": "call_canary", "type": "function", "function": call}],
            }
        )
        reason = "stop" if answered else "tool_calls"
        base = {"id": "sink", "object": "chat.completion.chunk", "created": 0, "model": "sink"}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for choice in (
            {"index": 0, "delta": delta, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": reason},
        ):
            await response.write(f"data: {json.dumps({**base, 'choices': [choice]})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


async def main() -> None:
    port, upstream, admission, uid, gid = sys.argv[1:]
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    relay = Relay(upstream=upstream, admission=admission)
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/lab/v1/chat/completions", relay.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
