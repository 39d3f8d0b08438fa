"""``status.sock``: what operators, the link and the canary prober may see and do."""

import secrets
import time
from dataclasses import asdict
from typing import Any

from aiohttp import web

from safety_wrapper.canaries import CANARY_S, CanaryRecord
from safety_wrapper.config import Config
from safety_wrapper.guard import Guard
from safety_wrapper.policy import Verdict
from safety_wrapper.strict import InvalidDocumentError, check_keys, name
from safety_wrapper.watch import Watch
from safety_wrapper.web import ROOT, application, body_of, connection_of, only_uids, refusal, require_uid


class StatusApi:
    def __init__(self, *, guard: Guard, watch: Watch, config: Config) -> None:
        self._guard = guard
        self._watch = watch
        self._config = config

    def application(self) -> web.Application:
        app = application(only_uids({ROOT, self._config.link_uid, self._config.ops_uid}))
        app.router.add_get("/v1/status", self._status)
        app.router.add_post("/v1/canaries", self._new_canary)
        app.router.add_get("/v1/canaries/{canary}", self._canary)
        app.router.add_get("/v1/approvals", self._approvals)
        app.router.add_post("/v1/approvals/{approval_id}/decision", self._decide)
        return app

    async def _status(self, _request: web.Request) -> web.Response:
        guard, watch = self._guard, self._watch
        counters = {**guard.counters, **{f"redactions_{k}": v for k, v in guard.meter.redactions.items()}}
        return web.json_response(
            {
                "admission": "closed" if guard.closed else "open",
                "reason": guard.closed or "",
                "plugin": {
                    "expected_sha256": self._config.plugin_sha256,
                    "measured_sha256": watch.measured_sha256,
                },
                "policy": {
                    "revision": guard.policy.revision,
                    "sha256": guard.policy.sha256,
                    "autonomy": guard.autonomy,
                },
                "gateway_pid": watch.gateway.pid if watch.gateway else None,
                "runs_live": guard.runs.count(now=time.monotonic()),
                "counters": counters,
                "usage": guard.meter.report(),
                "approvals": {
                    "waiting": len(guard.approvals.waiting),
                    **asdict(guard.approvals.counters),
                },
            }
        )

    async def _new_canary(self, request: web.Request) -> web.Response:
        require_uid(connection_of(request), {ROOT})
        canary = f"tfcanary-{secrets.token_urlsafe(32)}"
        try:
            self._guard.canaries.add(canary, now=time.monotonic())
        except OverflowError as error:
            return refusal(429, str(error))
        return web.json_response({"canary": canary, "expires_s": int(CANARY_S)}, status=201)

    async def _canary(self, request: web.Request) -> web.Response:
        require_uid(connection_of(request), {ROOT})
        record = self._guard.canaries.record(request.match_info["canary"])
        if record is None:
            return refusal(404, "no such canary")
        return web.json_response(_canary_document(record))

    async def _approvals(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(question) for question in self._guard.approvals.waiting])

    async def _decide(self, request: web.Request) -> web.Response:
        require_uid(connection_of(request), {ROOT, self._config.link_uid})
        body = await body_of(request)
        where = "decision"
        check_keys(body, where=where, required={"decision", "approver"})
        if body["decision"] not in {Verdict.ALLOW, Verdict.DENY}:
            raise InvalidDocumentError(f"{where}.decision is neither allow nor deny")
        decided = self._guard.decide_approval(
            request.match_info["approval_id"],
            verdict=Verdict(body["decision"]),
            approver=name(body, "approver", where=where, longest=200),
        )
        return web.Response(status=204) if decided else refusal(404, "no such approval waits")


def _canary_document(record: CanaryRecord) -> dict[str, Any]:
    return {
        "before_agent_run": record.before_agent_run,
        "before_tool_call": record.before_tool_call,
        "tool_denied": record.tool_denied,
        "admitted": record.admitted,
        "passed": record.passed,
    }
