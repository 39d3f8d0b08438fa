"""Fetches a release's manifest by digest from the environment's release store."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenantfleet.model.errors import EnvironmentMissingError, ReleaseMismatchError
from tenantfleet.release.errors import DigestMismatchError, InvalidManifestError
from tenantfleet.release.manifest import MAX_BYTES, parse_manifest

if TYPE_CHECKING:
    from tenantfleet.app.environment import Environment

_TIMEOUT_S = 20


class _AddressedConnection(http.client.HTTPSConnection):
    """Connects to a given address; name and certificate stay those of the URL."""

    def __init__(self, host: str, port: int, *, address: str | None, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=_TIMEOUT_S, context=context)
        self._address = address or host
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=_TIMEOUT_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def fetch_manifest(environment: Environment, sha256: str) -> dict[str, Any]:
    """The manifest of that digest, as data.

    Raises:
        ReleaseMismatchError: `release.unknown`, `release.digest_mismatch` or `release.not_a_manifest`.
        EnvironmentMissingError: `store.unreachable`.
    """
    store = environment.settings.store_url
    status, body = _get(environment, f"manifests/{sha256}.json")
    if status == http.HTTPStatus.NOT_FOUND:
        raise ReleaseMismatchError(
            f"{store} has no release {sha256}",
            code="release.unknown",
            hint="Publish it (`tenantfleet release publish`), or correct the order's digest.",
        )
    if status != http.HTTPStatus.OK:
        raise _unreachable(store, f"it answered {status}")
    try:
        return parse_manifest(body, digest=sha256).model_dump(mode="json")
    except DigestMismatchError as error:
        raise ReleaseMismatchError(
            str(error),
            code="release.digest_mismatch",
            hint="Do not use this store before you know why it differs.",
        ) from None
    except InvalidManifestError as error:
        raise ReleaseMismatchError(
            str(error), code="release.not_a_manifest", hint="Publish the release again."
        ) from None


def fetch_tree(environment: Environment, sha256: str, size: int) -> bytes:
    """The archive of a tree, compared with its digest.

    Raises:
        ReleaseMismatchError: `release.digest_mismatch`.
        EnvironmentMissingError: `store.unreachable`.
    """
    store = environment.settings.store_url
    status, body = _get(environment, f"trees/{sha256}.tar.gz", limit=size)
    if status != http.HTTPStatus.OK:
        raise _unreachable(store, f"it answered {status} for a tree of the release")
    if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), sha256):
        raise ReleaseMismatchError(
            f"tree {sha256} has another digest in {store}",
            code="release.digest_mismatch",
            hint="Do not use this store before you know why it differs.",
        )
    return body


def _get(environment: Environment, name: str, *, limit: int = MAX_BYTES) -> tuple[int, bytes]:
    settings = environment.settings
    url = urlsplit(f"{settings.store_url.rstrip('/')}/{name}")
    try:
        context = ssl.create_default_context(
            cafile=str(environment.path(settings.store_ca)) if settings.store_ca else None
        )
        connection = _AddressedConnection(
            url.hostname or "", url.port or 443, address=settings.store_address, context=context
        )
        connection.request("GET", url.path)
        response = connection.getresponse()
        body = response.read(limit + 1)
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(settings.store_url, str(error)) from None
    return response.status, body


def _unreachable(store: str, why: str) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        f"the release store {store} cannot be read: {why}",
        code="store.unreachable",
        hint="Check store_url, store_ca and store_address in settings.yml, and that the store runs.",
    )
