"""Why a request is not served."""

from enum import StrEnum


class Reason(StrEnum):
    """A refusal's code: in the error body and as the label of ``rejected_total``."""

    NOT_READY = "not_ready"
    FORBIDDEN = "forbidden"
    UNAUTHENTICATED = "unauthenticated"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    SECRET_IN_TARGET = "secret_in_target"  # noqa: S105 -- the name of a refusal
    BUSY = "busy"
    NOT_ADMITTED = "not_admitted"
    NO_LIVE_RUN = "no_live_run"
    LEAK_STOPPED = "leak_stopped"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    INTERNAL = "internal"


_STATUS = {
    Reason.FORBIDDEN: 403,
    Reason.UNAUTHENTICATED: 401,
    Reason.UNSUPPORTED_MEDIA_TYPE: 415,
    Reason.UNSUPPORTED_ENCODING: 415,
    Reason.TOO_LARGE: 413,
    Reason.MALFORMED: 400,
    Reason.SECRET_IN_TARGET: 400,
    # docs/adr/0010: the gateway repeats a call that got 503, and shuts its provider off after a 401 or 403.
    Reason.NO_LIVE_RUN: 400,
    Reason.UPSTREAM_UNREACHABLE: 502,
}


class RefusalError(Exception):
    """A request ends here; ``message`` may be shown and logged, so it holds nothing of the request."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status: 503 for all that is not the caller's own mistake."""
        return _STATUS.get(self.reason, 503)


class NotReadyError(Exception):
    """The proxy cannot vouch for what it would let out; the text says why and holds no secret."""
