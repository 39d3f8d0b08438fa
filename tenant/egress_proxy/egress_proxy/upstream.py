"""The exit to a model provider: the only place that holds its key and opens a connection to the outside."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path

import aiohttp

from egress_proxy.config import Credentials
from egress_proxy.exit import Outbound, Reply
from egress_proxy.refusal import Reason, RefusalError

log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 15
_KEPT = frozenset({"content-type", "retry-after", "x-request-id", "openai-processing-ms"})
_KEPT_PREFIX = "x-ratelimit-"
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


@lru_cache
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


class Upstream:
    """Sends calls to providers.

    It follows no redirect (it would carry the key elsewhere), keeps no cookie and heeds no proxy variable.
    """

    def __init__(self, credentials: Callable[[], Credentials], *, silence_s: int) -> None:
        self._credentials = credentials
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            skip_auto_headers={"User-Agent"},
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def open(self, outbound: Outbound) -> AsyncIterator[Reply]:
        """Send the call.

        Raises:
            RefusalError: the provider cannot be reached, or redirects.
        """
        provider = outbound.target.provider
        headers = {
            **outbound.headers,
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self._credentials().provider_keys[provider.credential]}",
        }
        try:
            response = await self._session.post(
                outbound.target.url,
                data=outbound.wire,
                headers=headers,
                allow_redirects=False,
                ssl=_trust(provider.ca_file),
            )
        except _FAILURES as error:
            raise _unreachable(provider.id, error) from None
        async with response:
            if response.status // 100 == 3:  # noqa: PLR2004 -- HTTP's class of redirections
                raise RefusalError(
                    Reason.UPSTREAM_UNREACHABLE, "the provider redirects; this is not followed"
                )
            yield Reply(response.status, _kept(response.headers), _chunks(provider.id, response))


async def _chunks(provider_id: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except _FAILURES as error:
        raise _unreachable(provider_id, error) from None


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.lower() in _KEPT or name.lower().startswith(_KEPT_PREFIX)
    }


def _unreachable(provider_id: str, error: Exception) -> RefusalError:
    log.warning("provider %s: %s", provider_id, type(error).__name__)
    return RefusalError(
        Reason.UPSTREAM_UNREACHABLE, f"the provider cannot be reached: {type(error).__name__}"
    )
