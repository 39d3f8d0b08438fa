import pytest

from tenantfleet.cli import _verdict
from tenantfleet.model.outcome import HostOutcome, HostState, RunOutcome


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([HostState.OK], 0),
        ([HostState.UNREACHABLE], 21),
        ([HostState.OK, HostState.UNREACHABLE], 20),
        ([HostState.FAILED], 20),
        ([HostState.NOT_ATTEMPTED], 20),
    ],
)
def test_a_look_at_hosts_ends_with_the_contracts_exit_code(states: list[HostState], code: int) -> None:
    hosts = tuple(HostOutcome(host=f"h{number}", state=state) for number, state in enumerate(states))
    assert _verdict(RunOutcome(hosts=hosts, error="", duration_s=1.0)) == code
