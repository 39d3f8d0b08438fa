"""The end of an admitted call: told to the daemon exactly once, whatever happened."""

import asyncio
from collections import Counter
from enum import StrEnum

from egress_proxy.admission import Admission, Admitted, Ended
from egress_proxy.redactor import Matches  # noqa: TC001 -- imported plainly, as everywhere here
from egress_proxy.usage import Usage


class Outcome(StrEnum):
    COMPLETED = "completed"
    UPSTREAM_ERROR = "upstream_error"
    CLIENT_GONE = "client_gone"
    FAILED = "failed"


class Ending:
    """Collects what the daemon must hear. Nobody having said otherwise, the call failed."""

    def __init__(self, admission: Admission, admitted: Admitted, model: str) -> None:
        self._admission = admission
        self._admitted = admitted
        self._report: asyncio.Task[None] | None = None
        self.model = model
        self.outcome = Outcome.FAILED
        self.status = 503
        self.usage = Usage()
        self.matches: Matches = Counter()

    async def settle(self) -> None:
        """Report, once; the report goes on when the caller is cancelled meanwhile."""
        if self._report is None:
            self._report = asyncio.create_task(self._admission.end(self._admitted, self._ended()))
        await asyncio.shield(self._report)

    def _ended(self) -> Ended:
        layers: Counter[str] = Counter()
        for (layer, _rule), count in self.matches.items():
            layers[layer.value] += count
        return Ended(
            outcome=self.outcome.value,
            status=self.status,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            model=self.usage.model or self.model,
            redactions=layers,
        )
