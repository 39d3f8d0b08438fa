"""Counters in Prometheus' text format. Labels are our own words: never a value, a hash or a length."""

from collections import Counter
from dataclasses import dataclass, field

from egress_proxy.redactor import Matches
from egress_proxy.refusal import Reason


@dataclass
class Metrics:
    matches: Matches = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    rejected: Counter[Reason] = field(default_factory=Counter)
    registry_entries: int = 0
    selftest_ok: bool = False

    def render(self) -> str:
        lines = ["# TYPE redaction_matches_total counter"]
        lines += (
            f'redaction_matches_total{{layer="{layer}",rule="{rule}"}} {count}'
            for (layer, rule), count in sorted(self.matches.items())
        )
        lines += ["# TYPE requests_total counter"]
        lines += (
            f'requests_total{{outcome="{name}"}} {count}' for name, count in sorted(self.requests.items())
        )
        lines += ["# TYPE rejected_total counter"]
        lines += (f'rejected_total{{reason="{reason}"}} {self.rejected[reason]}' for reason in Reason)
        lines += ["# TYPE registry_entries gauge", f"registry_entries {self.registry_entries}"]
        lines += ["# TYPE selftest_ok gauge", f"selftest_ok {int(self.selftest_ok)}"]
        return "\n".join(lines) + "\n"
