"""Brings an answer to the caller: a stream piece by piece as it comes, anything else as a whole."""

import logging

from aiohttp import web

from egress_proxy.ending import Ending, Outcome
from egress_proxy.exit import Reply
from egress_proxy.redactor import Redactor
from egress_proxy.refusal import Reason, RefusalError
from egress_proxy.usage import EventReader, read_usage

log = logging.getLogger(__name__)
MAX_ANSWER_BYTES = 32 * 1024 * 1024


async def relay(
    request: web.BaseRequest, reply: Reply, ending: Ending, redactor: Redactor
) -> web.StreamResponse:
    """Send ``reply`` to the caller; settle ``ending`` before the caller can know that it has all.

    Else its next call could overtake the report, and the daemon would find the run busy.
    """
    ending.status = reply.status
    if reply.is_stream:
        return await _stream(request, reply, ending)
    return await _whole(reply, ending, redactor)


async def _stream(request: web.BaseRequest, reply: Reply, ending: Ending) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers={**reply.headers, "Cache-Control": "no-cache"})
    reader = EventReader(ending.usage)
    last = b""
    try:
        await response.prepare(request)
        async for chunk in reply.chunks:
            reader.feed(chunk)
            if reader.done:
                last = chunk
                break
            await response.write(chunk)
        ending.outcome = _outcome(reply)
        await ending.settle()
        await response.write(last)
        await response.write_eof()
    except RefusalError:
        # The head is out: only a broken connection still tells the caller that this is not all.
        ending.outcome = Outcome.UPSTREAM_ERROR
        if request.transport:
            request.transport.abort()
    except ConnectionError:
        ending.outcome = Outcome.CLIENT_GONE
    return response


async def _whole(reply: Reply, ending: Ending, redactor: Redactor) -> web.Response:
    body = bytearray()
    try:
        async for chunk in reply.chunks:
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise RefusalError(Reason.UPSTREAM_UNREACHABLE, "the answer is too large")  # noqa: TRY301
    except RefusalError:
        ending.outcome = Outcome.UPSTREAM_ERROR
        raise
    content = bytes(body)
    read_usage(content, ending.usage)
    ending.outcome = _outcome(reply)
    await ending.settle()
    if not _is_success(reply) and redactor.exact.occurs_in(content):
        # A provider that refuses our key may quote it: the caller must not learn it that way.
        content = redactor.without_registered(content.decode(errors="replace")).encode()
    return web.Response(status=reply.status, headers=reply.headers, body=content)


def _is_success(reply: Reply) -> bool:
    return reply.status // 100 == 2  # noqa: PLR2004 -- HTTP's class of successes


def _outcome(reply: Reply) -> Outcome:
    return Outcome.COMPLETED if _is_success(reply) else Outcome.UPSTREAM_ERROR
