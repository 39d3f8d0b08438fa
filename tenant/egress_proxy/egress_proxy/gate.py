"""The way of one request: allow-list, bearer, strict body, admission, redaction, exit. A doubt refuses."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from egress_proxy.admission import Admission, Admitted, Question, Route
from egress_proxy.ending import Ending, Outcome
from egress_proxy.exit import Exit, Outbound
from egress_proxy.marks import Marks, check_no_nonce, find_marks, strip_nonces
from egress_proxy.metrics import Metrics
from egress_proxy.redactor import Redactor
from egress_proxy.refusal import Reason, RefusalError
from egress_proxy.relay import relay
from egress_proxy.request import Call, Target, allowed_target, authenticate, forwarded_headers, read_call
from egress_proxy.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incoming:
    """A call that passed the allow-list, with what the wrapper left in it."""

    target: Target
    call: Call
    marks: Marks
    headers: Mapping[str, str]


class Gate:
    """Serves calls. ``state`` returns what is in force, or raises RefusalError while nothing may pass."""

    def __init__(
        self,
        *,
        state: Callable[[], State],
        admission: Admission,
        upstream: Exit,
        sink: Exit,
        metrics: Metrics,
        log: logging.Logger = log,
    ) -> None:
        self._state = state
        self._admission = admission
        self._exits: Mapping[Route, Exit] = {Route.UPSTREAM: upstream, Route.SINK: sink}
        self._metrics = metrics
        self._log = log
        self._busy = 0
        self._releases: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve or refuse ``request``; nothing but a cancellation gets out of here."""
        try:
            return await self._serve(request)
        except RefusalError as refusal:
            return self._refuse(refusal)
        except Exception as error:  # noqa: BLE001 -- fail closed whatever breaks; the type alone is logged
            self._log.error("request failed: %s at %s", type(error).__name__, _place(error))
            return self._refuse(RefusalError(Reason.INTERNAL, "the proxy failed; nothing was sent"))

    def _refuse(self, refusal: RefusalError) -> web.Response:
        self._metrics.rejected[refusal.reason] += 1
        self._log.info("refused: %s", refusal.reason)
        error = {"code": refusal.reason.value, "message": refusal.message}
        return web.json_response({"error": error}, status=refusal.status)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        state = self._state()
        target = allowed_target(request, state.config)
        authenticate(request, state.credentials.bearer)
        if self._busy >= state.config.limits.concurrent:
            raise RefusalError(Reason.BUSY, "too many calls at a time")
        self._busy += 1
        try:
            return await self._call(request, state, target)
        finally:
            self._busy -= 1

    async def _call(self, request: web.BaseRequest, state: State, target: Target) -> web.StreamResponse:
        call = await read_call(request, state.config)
        if not all(map(state.redactor.is_clean, target.texts)):
            raise RefusalError(Reason.SECRET_IN_TARGET, "the query holds a secret")
        marks = find_marks(call.document)
        incoming = Incoming(target, call, marks, forwarded_headers(request))
        question = Question(marks.nonces, target.provider.id, call.model, marks.canaries, call.size)
        admitted = await self._admit(question)
        ending = Ending(self._admission, admitted, call.model)
        try:
            outbound = self._outbound(incoming, state.redactor, ending)
            async with self._exits[admitted.route].open(outbound) as reply:
                return await relay(request, reply, ending, state.redactor)
        except asyncio.CancelledError:
            ending.outcome = Outcome.CLIENT_GONE
            raise
        except RefusalError as refusal:
            ending.status = refusal.status
            if refusal.reason is Reason.UPSTREAM_UNREACHABLE:
                ending.outcome = Outcome.UPSTREAM_ERROR
            raise
        finally:
            self._metrics.requests[f"{admitted.route}_{ending.outcome}"] += 1
            await ending.settle()

    def _outbound(self, incoming: Incoming, redactor: Redactor, ending: Ending) -> Outbound:
        document = strip_nonces(incoming.call.document, incoming.marks)
        redacted = redactor.redact(document)
        check_no_nonce(redacted.wire, incoming.marks)
        ending.matches = redacted.matches
        self._metrics.matches.update(redacted.matches)
        for (layer, rule), count in redacted.matches.items():
            self._log.info("redacted: layer=%s rule=%s count=%d", layer, rule, count)
        return Outbound(
            target=incoming.target,
            headers={name: value for name, value in incoming.headers.items() if redactor.is_clean(value)},
            wire=redacted.wire,
            document=document,
            canaries=incoming.marks.canaries,
            stream=incoming.call.stream,
        )

    async def _admit(self, question: Question) -> Admitted:
        """Ask for admission; an admission that arrives after the caller has gone is given back."""
        asking = asyncio.create_task(self._admission.admit(question))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            release = asyncio.create_task(self._release(asking, question.model))
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)
            raise

    async def _release(self, asking: "asyncio.Task[Admitted]", model: str) -> None:
        try:
            ending = Ending(self._admission, await asking, model)
        except RefusalError:
            return
        ending.outcome = Outcome.CLIENT_GONE
        await ending.settle()


def _place(error: Exception) -> str:
    """Return file and line of the innermost frame: an exception's own text could quote the request."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
