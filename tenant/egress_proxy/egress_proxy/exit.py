"""Where an admitted, redacted call may go, and what comes back: the seam between the gate and its exits."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from egress_proxy.request import Target

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Outbound:
    """A call that may leave: ``wire`` is all that an upstream sees of it, ``document`` stays here."""

    target: Target
    headers: Mapping[str, str]
    wire: bytes
    document: dict[str, Any]
    canaries: tuple[str, ...]
    stream: bool


@dataclass(frozen=True)
class Reply:
    """An answer whose body still arrives; ``chunks`` raises RefusalError when it breaks off."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    @property
    def is_stream(self) -> bool:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower() == EVENT_STREAM


class Exit(Protocol):
    def open(self, outbound: Outbound) -> AbstractAsyncContextManager[Reply]: ...
