"""Usage per model and hour. In memory until the fleet service takes it over: a restart begins at zero."""

from collections import Counter
from dataclasses import dataclass

HOUR_S = 3600
HOURS_KEPT = 48


@dataclass
class Usage:
    """Sums of one model in one hour; tokens as the provider reported them."""

    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Meter:
    def __init__(self) -> None:
        self._usage: dict[tuple[int, str], Usage] = {}
        self.redactions: Counter[str] = Counter()

    def add(self, *, at: float, model: str, succeeded: bool, input_tokens: int, output_tokens: int) -> None:
        """Meter one call that ended ``at`` (Unix seconds)."""
        hour = int(at) // HOUR_S * HOUR_S
        usage = self._usage.setdefault((hour, model), Usage())
        usage.calls += 1
        usage.failed += not succeeded
        usage.input_tokens += input_tokens
        usage.output_tokens += output_tokens
        oldest = hour - (HOURS_KEPT - 1) * HOUR_S
        self._usage = {key: value for key, value in self._usage.items() if key[0] >= oldest}

    def report(self) -> list[dict[str, int | str]]:
        return [
            {
                "hour": hour,
                "model": model,
                "calls": usage.calls,
                "failed": usage.failed,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
            }
            for (hour, model), usage in sorted(self._usage.items())
        ]
