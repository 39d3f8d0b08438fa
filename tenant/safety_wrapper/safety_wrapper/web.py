"""What the three sockets share: who may call, JSON in, JSON out."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler

from safety_wrapper.guard import RefusedError
from safety_wrapper.peer import UntrustedPeerError, peer_of
from safety_wrapper.strict import InvalidDocumentError, Json, parse_object

log = logging.getLogger(__name__)

LARGEST_BODY_BYTES = 32 * 1024 * 1024  # the parameters of one `write` call
ROOT = 0

type PeerCheck = Callable[[socket.socket], Awaitable[None]]


def application(check: PeerCheck) -> web.Application:
    """Return an application that hears nobody whom ``check`` does not let pass."""

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await check(connection_of(request))
            return await handler(request)
        except UntrustedPeerError as error:
            log.warning("refused: %s %s: %s", request.method, request.path, error)
            return refusal(403, "not_allowed")
        except InvalidDocumentError as error:
            return refusal(400, str(error))
        except RefusedError as error:
            return refusal(403, str(error))

    return web.Application(middlewares=[checked], client_max_size=LARGEST_BODY_BYTES)


def refusal(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def connection_of(request: web.Request) -> socket.socket:
    """Return the socket that the request came by.

    Raises:
        UntrustedPeerError: the peer has hung up already.
    """
    transport = request.transport
    connection: socket.socket | None = transport.get_extra_info("socket") if transport else None
    if connection is None:
        raise UntrustedPeerError("the peer is gone")
    return connection


def only_uids(uids: Collection[int]) -> PeerCheck:
    """Return the check that the peer's uid is one of these."""

    async def check(connection: socket.socket) -> None:
        await asyncio.sleep(0)
        require_uid(connection, uids)

    return check


def require_uid(connection: socket.socket, uids: Collection[int]) -> None:
    uid = peer_of(connection).uid
    if uid not in uids:
        raise UntrustedPeerError(f"uid {uid} may not ask this")


async def body_of(request: web.Request) -> Json:
    """Return the request's JSON object.

    Raises:
        InvalidDocumentError: it is none.
    """
    return parse_object(await request.read())
