"""A proxy between a real model server and a daemon that speaks the other side of the admission contract."""

import asyncio
import json
import math
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
from aiohttp import web
from egress_proxy.config import load_config
from egress_proxy.service import Service, listening
from egress_proxy.state import load_state
from yarl import URL

from lab import model_server

DEADLINE_S = 30
BEARER = "egress-bearer-of-the-test"
PROVIDER_KEY = "provider-key-of-the-test-4711"
REDACTION_KEY = "redaction-key-of-the-test"
SECRET = 'pa"ss/wörd\\ of the+test=9'
REGISTRY = {"tools.crm.db_password": SECRET, "gateway_token": "gateway-token-of-the-test-77"}
PATH = "/lab/v1/chat/completions"

type Json = dict[str, Any]
type Answer = Callable[[Json], Awaitable[web.StreamResponse]]


@dataclass
class Daemon:
    """Admits a call that names exactly one live nonce, unless a test gives it another ``answer``."""

    live: set[str] = field(default_factory=set)
    questions: list[Json] = field(default_factory=list)
    ends: list[tuple[str, Json]] = field(default_factory=list)
    answer: Answer | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def nonce(self) -> str:
        nonce = secrets.token_urlsafe(32)
        self.live.add(nonce)
        return nonce

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/admissions", self._admit)
        app.router.add_post("/v1/admissions/{id}/end", self._end)
        return app

    async def _admit(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        assert question.keys() == {"nonces", "provider", "model", "canaries", "bytes"}
        self.questions.append(question)
        self.asked.set()
        return await (self.answer or self.verdict)(question)

    async def verdict(self, question: Json) -> web.Response:
        nonces = question["nonces"]
        if len(nonces) != 1 or nonces[0] not in self.live:
            reason = "unknown_nonce" if nonces else "no_nonce"
            return web.json_response({"admitted": False, "reason": reason})
        route = "sink" if question["canaries"] else "upstream"
        admission_id = f"a{len(self.questions)}"
        return web.json_response(
            {"admitted": True, "admission_id": admission_id, "run_id": "run-1", "route": route}
        )

    async def _end(self, request: web.Request) -> web.Response:
        end = await request.json()
        assert end.keys() == {"outcome", "status", "input_tokens", "output_tokens", "model", "redactions"}
        assert all(type(end[key]) is int for key in ("status", "input_tokens", "output_tokens"))
        self.ends.append((request.match_info["id"], end))
        self.ended.set()
        return web.Response(status=204)


@dataclass
class World:
    url: str
    daemon: Daemon
    service: Service
    session: aiohttp.ClientSession
    records: Path
    config_file: Path
    credentials: Path

    def headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {BEARER}", "Content-Type": "application/json", **more}

    def conversation(self, *messages: Json, **more: object) -> Json:
        """Return a guarded run's request."""
        system = {
            "role": "system",
            "content": f"You help.\n[[tenantfleet-run {self.daemon.nonce()}]]\nBe brief.",
        }
        return {"model": "lab-1", "messages": [system, *messages], **more}

    async def post(
        self, body: Json | bytes, *, path: str = PATH, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = URL(self.url + path, encoded=True)
        async with self.session.post(
            url, data=data, headers=self.headers() if headers is None else headers
        ) as response:
            return response.status, await response.read()

    async def say(self, text: str, **more: object) -> tuple[int, bytes]:
        return await self.post(self.conversation({"role": "user", "content": text}, **more))

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()

    async def refusal(self, body: Json | bytes, **more: Any) -> tuple[int, str]:  # noqa: ANN401 -- as post
        status, answer = await self.post(body, **more)
        return status, json.loads(answer)["error"]["code"]

    def sent(self) -> list[bytes]:
        """Return what the model server heard, a whole request each."""
        return [path.read_bytes() for path in sorted(self.records.glob("*.http"))]


def write_credentials(directory: Path, registry: object = REGISTRY) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "egress_bearer").write_text(BEARER)
    (directory / "redaction_key").write_text(REDACTION_KEY)
    (directory / "registry").write_text(json.dumps(registry))
    (directory / "provider.lab").write_text(PROVIDER_KEY)


def configuration(tmp_path: Path, upstream: str, **changes: object) -> Json:
    provider = {
        "id": "lab",
        "upstream": upstream,
        "credential": "provider.lab",
        "paths": ["/v1/chat/completions"],
    }
    return {
        "version": 1,
        "listen": "127.0.0.1:0",
        "providers": [provider],
        "admission_socket": str(tmp_path / "a.sock"),
        "limits": {
            "body_bytes": 300_000,
            "decoded_bytes": 600_000,
            "concurrent": 4,
            "upstream_timeout_s": 10,
        },
        **changes,
    }


@asynccontextmanager
async def world(
    tmp_path: Path, *, upstream: str | None = None, registry: object = REGISTRY, **changes: object
) -> AsyncIterator[World]:
    """Start everything; ``upstream`` replaces the model server, ``changes`` override the configuration."""
    daemon = Daemon()
    async with AsyncExitStack() as stack:
        records = tmp_path / "records"
        model = model_server.ModelServer(record_dir=records, api_key=PROVIDER_KEY)
        model_url = await stack.enter_async_context(
            model_server.listening(model, address="127.0.0.1", port=0)
        )
        await stack.enter_async_context(unix_site(daemon.application(), tmp_path / "a.sock"))
        config_file = tmp_path / "config.json"
        config_file.write_text(json.dumps(configuration(tmp_path, upstream or model_url, **changes)))
        write_credentials(tmp_path / "credentials", registry)
        service = Service(lambda: load_state(config_file, tmp_path / "credentials"))
        port = await stack.enter_async_context(listening(load_config(config_file), service))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
        )
        yield World(
            url=f"http://127.0.0.1:{port}",
            daemon=daemon,
            service=service,
            session=session,
            records=records,
            config_file=config_file,
            credentials=tmp_path / "credentials",
        )


@asynccontextmanager
async def unix_site(app: web.Application, path: Path) -> AsyncIterator[None]:
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def tcp_site(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve an upstream of a test's own; yield its base URL."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def forms(secret: str) -> dict[str, str]:
    """Return what must not be found, worked out from the encodings' definitions, not by the proxy's code."""
    data = secret.encode()
    found = {
        "plain": secret,
        "json": json.dumps(secret)[1:-1],
        "json utf-8": json.dumps(secret, ensure_ascii=False)[1:-1],
        "json in json": json.dumps(json.dumps(secret)[1:-1])[1:-1],
        "url": quote(secret, safe=""),
        "url lower case": re.sub("%..", lambda match: match[0].lower(), quote(secret, safe="")),
        "form": quote_plus(secret),
        "hex": data.hex(),
        "hex upper case": data.hex().upper(),
    }
    for offset in range(3):
        encoded = b64encode(b"\xff" * offset + data + b"\xff\xff").decode()
        sure = encoded[math.ceil(offset * 8 / 6) : (offset + len(data)) * 8 // 6]
        found[f"base64 {offset}"] = sure
        found[f"base64url {offset}"] = sure.replace("+", "-").replace("/", "_")
    return found


def leaks(data: bytes, secret: str = SECRET) -> list[str]:
    """Return the forms of ``secret`` in ``data`` as it is and under up to five layers of JSON's escapes."""
    views = [data.decode()]
    for _ in range(5):
        views.append(re.sub(r"\\(u[0-9a-f]{4}|.)", _unescape, views[-1]))
    return [name for name, form in forms(secret).items() if any(form in view for view in views)]


def _unescape(match: re.Match[str]) -> str:
    return json.loads(f'"{match[0]}"') if match[1][0] in 'u"\\/bfnrt' else match[0]


def encoded(secret: str) -> dict[str, str]:
    """Return texts that carry ``secret``, as tools would print them."""
    data = secret.encode()
    shifted = {f"base64 {offset}": b64encode(b"abc"[:offset] + data + b"!").decode() for offset in range(3)}
    urlsafe = {
        f"base64url {offset}": text.replace("+", "-").replace("/", "_")
        for offset, text in ((int(name[-1]), text) for name, text in shifted.items())
    }
    return {name: form for name, form in forms(secret).items() if "base64" not in name} | shifted | urlsafe
