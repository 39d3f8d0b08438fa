from __future__ import annotations

from typing import Any

import pytest
import yaml

from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.machine import MachineList

KEY = "ssh-ed25519 " + "A" * 68
MACHINE: dict[str, Any] = {
    "id": "lab-a1",
    "region": "eu-lab",
    "site": "lab",
    "address": "10.77.3.11",
    "host_ca": KEY + " lab CA",
    "user": "debian",
}


def parse(*machines: dict[str, Any]) -> MachineList:
    return MachineList.parse(yaml.safe_dump({"version": 1, "machines": list(machines)}), kind="machines")


def test_a_certified_machine_is_believed_by_its_ca_and_a_pinned_one_by_its_key() -> None:
    pinned = {**MACHINE, "host_key": KEY}
    del pinned["host_ca"]
    assert parse(MACHINE).machines[0].known_hosts_line() == f"@cert-authority lab-a1 {KEY}"
    assert parse(pinned).machines[0].known_hosts_line() == f"lab-a1 {KEY}"


@pytest.mark.parametrize(
    "changes",
    [
        {"host_key": KEY},
        {"host_ca": None},
        {"host_ca": "ssh-ed25519 short"},
        {"host_ca": KEY + "\n* ssh-ed25519 evil"},
        {"address": "lab.test"},
        {"address": "10.77.3.300"},
        {"user": "root; id"},
        {"id": "a b"},
    ],
)
def test_a_machine_that_could_be_taken_for_another_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputRefusedError):
        parse({**MACHINE, **changes})


@pytest.mark.parametrize("changes", [{"address": "10.77.3.12"}, {"id": "lab-a2"}])
def test_two_machines_never_share_an_id_or_an_address(changes: dict[str, Any]) -> None:
    with pytest.raises(InputRefusedError, match="stands twice"):
        parse(MACHINE, {**MACHINE, **changes})
