"""The question to the safety wrapper's daemon: may this call of a model be made? No answer means no."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from egress_proxy.json_body import NotStrictJsonError, parse_json
from egress_proxy.refusal import Reason, RefusalError

log = logging.getLogger(__name__)
MAX_ANSWER_BYTES = 64 * 1024
DEADLINE_S = 5.0
END_ATTEMPTS = 2
# What asking again will not change, and what it may.
FINAL = frozenset({"no_nonce", "unknown_nonce", "run_ended"})
PASSING = frozenset({"run_in_tool", "busy", "wrapper_unmeasured", "rate_limited"})


class Route(StrEnum):
    UPSTREAM = "upstream"
    SINK = "sink"


@dataclass(frozen=True)
class Question:
    nonces: Sequence[str]
    provider: str
    model: str
    canaries: Sequence[str]
    size: int


@dataclass(frozen=True)
class Admitted:
    admission_id: str
    run_id: str
    route: Route


@dataclass(frozen=True)
class Ended:
    """How an admitted call ended; tokens are 0 when the provider did not tell."""

    outcome: str
    status: int
    input_tokens: int
    output_tokens: int
    model: str
    redactions: Mapping[str, int]


class Admission(Protocol):
    async def admit(self, question: Question) -> Admitted: ...

    async def end(self, admitted: Admitted, ended: Ended) -> None: ...


class DaemonAdmission:
    """Asks over the daemon's unix socket, one connection a question: a restarted daemon is met at once."""

    def __init__(self, socket: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self._session = aiohttp.ClientSession(
            base_url="http://admission",
            connector=aiohttp.UnixConnector(path=str(socket), force_close=True),
            timeout=aiohttp.ClientTimeout(total=deadline_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._session.close()

    async def admit(self, question: Question) -> Admitted:
        """Ask.

        Raises:
            RefusalError: the daemon says no, is not there, hangs, or answers beside the contract.
        """
        body = {
            "nonces": list(question.nonces),
            "provider": question.provider,
            "model": question.model,
            "canaries": list(question.canaries),
            "bytes": question.size,
        }
        try:
            status, answer = await self._post("/v1/admissions", body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.warning("admission: no answer (%s)", type(error).__name__)
            raise RefusalError(Reason.NOT_ADMITTED, "the safety wrapper does not answer") from None
        return _verdict(status, answer)

    async def end(self, admitted: Admitted, ended: Ended) -> None:
        """Report the end of a call, twice if need be. A report that is lost leaves the run closed."""
        body = {
            "outcome": ended.outcome,
            "status": ended.status,
            "input_tokens": ended.input_tokens,
            "output_tokens": ended.output_tokens,
            "model": ended.model,
            "redactions": dict(ended.redactions),
        }
        for _ in range(END_ATTEMPTS):
            try:
                status, _ = await self._post(f"/v1/admissions/{admitted.admission_id}/end", body)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                log.warning("admission end: no answer (%s)", type(error).__name__)
            else:
                if status != HTTPStatus.NO_CONTENT:
                    log.warning("admission end: unexpected status %d", status)
                return

    async def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(
            path, data=json.dumps(body), headers=headers, allow_redirects=False
        ) as response:
            answer = await response.content.read(MAX_ANSWER_BYTES)
            return response.status, answer


def _verdict(status: int, answer: bytes) -> Admitted:
    try:
        document = parse_json(answer)
    except NotStrictJsonError:
        document = None
    match status, document:
        case 200, {
            "admitted": True,
            "admission_id": str(identifier),
            "run_id": str(run),
            "route": str(route),
        }:
            if _is_identifier(identifier) and route in Route:
                return Admitted(admission_id=identifier, run_id=run, route=Route(route))
        case 200, {"admitted": False, "reason": str(reason)} if reason in FINAL | PASSING:
            code = Reason.NO_LIVE_RUN if reason in FINAL else Reason.NOT_ADMITTED
            raise RefusalError(code, f"the safety wrapper refuses: {reason}")
    log.warning("admission: unexpected answer, status %d", status)
    raise RefusalError(Reason.NOT_ADMITTED, "the safety wrapper's answer is not understood")


def _is_identifier(text: str) -> bool:
    """Return whether ``text`` can stand in a path as it is."""
    return 0 < len(text) <= 128 and text.isascii() and text.replace("-", "").replace("_", "").isalnum()  # noqa: PLR2004
