"""``admission.sock``: the egress proxy asks for each model call, and reports how it went."""

from aiohttp import web

from safety_wrapper.admission import Refusal
from safety_wrapper.config import Config
from safety_wrapper.guard import Guard, Outcome
from safety_wrapper.strict import InvalidDocumentError, Json, check_keys, integer, text, texts
from safety_wrapper.web import application, body_of, only_uids

MOST_TOKENS = 2**40
MOST_BYTES = 2**40
SUCCESS = range(200, 300)


class AdmissionApi:
    def __init__(self, *, guard: Guard, config: Config) -> None:
        self._guard = guard
        self._config = config

    def application(self) -> web.Application:
        app = application(only_uids({self._config.egress_uid}))
        app.router.add_post("/v1/admissions", self._admit)
        app.router.add_post("/v1/admissions/{admission_id}/end", self._release)
        return app

    async def _admit(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        where = "admission"
        check_keys(body, where=where, required={"nonces", "provider", "model", "canaries", "bytes"})
        text(body, "provider", where=where)
        text(body, "model", where=where)
        integer(body, "bytes", where=where, least=0, most=MOST_BYTES)
        verdict = await self._guard.admit(
            texts(body, "nonces", where=where), canaries=texts(body, "canaries", where=where)
        )
        if isinstance(verdict, Refusal):
            return web.json_response({"admitted": False, "reason": verdict.value})
        return web.json_response(
            {
                "admitted": True,
                "admission_id": verdict.admission_id,
                "run_id": verdict.run_id,
                "route": verdict.route,
            }
        )

    async def _release(self, request: web.Request) -> web.Response:
        outcome = _outcome(await body_of(request))
        self._guard.release(request.match_info["admission_id"], outcome)
        return web.Response(status=204)


def _tokens(body: Json, key: str, where: str) -> int:
    """Return the count, 0 where the provider told none (null)."""
    return 0 if body[key] is None else integer(body, key, where=where, least=0, most=MOST_TOKENS)


def _outcome(body: Json) -> Outcome:
    where = "admission's end"
    required = {"outcome", "status", "input_tokens", "output_tokens", "model", "redactions"}
    check_keys(body, where=where, required=required)
    text(body, "outcome", where=where)
    redactions = body["redactions"]
    if not isinstance(redactions, dict):
        raise InvalidDocumentError(f"{where}.redactions is no object")
    return Outcome(
        succeeded=integer(body, "status", where=where, least=0, most=999) in SUCCESS,
        model=text(body, "model", where=where),
        input_tokens=_tokens(body, "input_tokens", where),
        output_tokens=_tokens(body, "output_tokens", where),
        redactions={
            layer: integer(redactions, layer, where=where, least=0, most=MOST_TOKENS) for layer in redactions
        },
    )
