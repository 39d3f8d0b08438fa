from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tenantfleet.inventory.database import LedgerDatabase
from tenantfleet.inventory.machines import MachineLedger, MachineState
from tenantfleet.inventory.orders import OrderLedger, OrderState
from tenantfleet.model.errors import ConflictError, NoMachineError, OrderSpentError, TenantfleetError
from tenantfleet.model.machine import Machine
from tenantfleet.model.order import HubOrder, OrderKind

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> LedgerDatabase:
    return LedgerDatabase(tmp_path / "ledger.sqlite")


def machine(number: int, region: str = "eu-lab") -> Machine:
    return Machine(
        id=f"m{number}",
        region=region,
        site="lab",
        address=f"10.0.0.{number}",
        host_key="ssh-ed25519 " + "A" * 68,
        user="debian",
    )


def order(tenant_id: str = "acme", *, number: int = 1, tier: str = "lite") -> HubOrder:
    return HubOrder.parse(
        f"""
version: 1
order_id: 00000000-0000-4000-8000-{number:012d}
kind: provision
tenant_id: {tenant_id}
tenant_class: sandbox
region: eu-lab
tier: {tier}
domain: {tenant_id}.example.test
autonomy: standard
release: sha256:{"0a" * 32}
expires: 2026-05-01T13:00:00Z
sealed: YWdl
""",
        kind="order",
    )


def claim(ledger: MachineLedger, tenant_id: str, *candidates: str, region: str = "eu-lab") -> str:
    return ledger.claim(
        tenant_id=tenant_id, order_id="o", region=region, candidates=candidates, now=NOW
    ).machine_id


def test_the_ledger_can_be_read_by_its_owner_only(database: LedgerDatabase, tmp_path: Path) -> None:
    OrderLedger(database).submit(order(), again=False, now=NOW)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_of_many_tenants_that_claim_at_once_each_machine_goes_to_one(database: LedgerDatabase) -> None:
    ledger = MachineLedger(database)
    ledger.learn([machine(1), machine(2), machine(3)])
    start = threading.Barrier(12)
    got: list[str] = []
    refused: list[TenantfleetError] = []

    def want(tenant_id: str) -> None:
        start.wait()
        try:
            got.append(claim(ledger, tenant_id, "m1", "m2", "m3"))
        except NoMachineError as error:
            refused.append(error)

    threads = [threading.Thread(target=want, args=(f"t{number}x",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["m1", "m2", "m3"]
    assert len(refused) == 9


def test_a_tenant_that_claims_again_keeps_its_machine(database: LedgerDatabase) -> None:
    ledger = MachineLedger(database)
    ledger.learn([machine(1), machine(2)])
    assert claim(ledger, "acme", "m2", "m1") == "m2"
    assert claim(ledger, "acme", "m1", "m2") == "m2"


def test_a_tenant_never_gets_a_second_machine_elsewhere(database: LedgerDatabase) -> None:
    ledger = MachineLedger(database)
    ledger.learn([machine(1), machine(2, "us-lab")])
    claim(ledger, "acme", "m1")
    with pytest.raises(ConflictError):
        claim(ledger, "acme", "m2", region="us-lab")


def test_a_candidate_of_another_region_is_not_taken(database: LedgerDatabase) -> None:
    ledger = MachineLedger(database)
    ledger.learn([machine(1, "us-lab")])
    with pytest.raises(NoMachineError):
        claim(ledger, "acme", "m1")


def test_a_machine_that_had_a_tenant_is_taken_only_after_reinstallation(database: LedgerDatabase) -> None:
    ledger = MachineLedger(database)
    ledger.learn([machine(1)])
    claim(ledger, "acme", "m1")
    ledger.mark_enrolled("m1", now=NOW)
    ledger.release("acme")
    assert ledger.records()[0].state is MachineState.DIRTY
    with pytest.raises(NoMachineError):
        claim(ledger, "bravo", "m1")
    ledger.mark_reinstalled("m1")
    assert claim(ledger, "bravo", "m1") == "m1"
    assert not ledger.records()[0].enrolled


def test_two_unfinished_orders_of_one_tenant_conflict(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    ledger.submit(order(number=1), again=False, now=NOW)
    with pytest.raises(ConflictError) as caught:
        ledger.submit(order(number=2), again=False, now=NOW)
    assert caught.value.code == "tenant.busy"


def test_an_order_id_is_good_for_one_content(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    ledger.submit(order(), again=False, now=NOW)
    with pytest.raises(OrderSpentError) as caught:
        ledger.submit(order(tier="build"), again=False, now=NOW)
    assert caught.value.code == "order.replayed"


def test_a_failed_order_gets_another_attempt_unless_it_expired(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    (first,) = ledger.submit(order(), again=False, now=NOW)
    ledger.finish(first.order_id, 1, state=OrderState.FAILED, result={}, now=NOW)
    assert ledger.submit(order(), again=False, now=NOW)[0].attempt == 2
    ledger.finish(first.order_id, 2, state=OrderState.FAILED, result={}, now=NOW)
    with pytest.raises(OrderSpentError):
        ledger.submit(order(), again=False, now=NOW + timedelta(hours=2))


def test_the_end_of_an_earlier_attempt_does_not_close_the_one_at_work(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    order_id = ledger.submit(order(), again=False, now=NOW)[0].order_id
    ledger.finish(order_id, 1, state=OrderState.FAILED, result={}, now=NOW)
    (second,) = ledger.submit(order(), again=False, now=NOW)
    ledger.finish(order_id, 1, state=OrderState.DONE, result={"attempt": 1}, now=NOW)
    assert ledger.get(order_id) == second
    assert second.state is OrderState.RUNNING


def test_an_order_that_failed_does_not_hide_the_one_that_was_done(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    for number, state in ((1, OrderState.DONE), (2, OrderState.FAILED)):
        order_id = ledger.submit(order(number=number), again=False, now=NOW)[0].order_id
        ledger.finish(order_id, 1, state=state, result={}, now=NOW)
    ledger.submit(order(number=1), again=True, now=NOW)
    ledger.finish(str(order(number=1).order_id), 2, state=OrderState.FAILED, result={}, now=NOW)
    latest = ledger.latest_provision("acme")
    assert latest is not None
    assert latest.order_id == str(order(number=1).order_id)


def test_an_order_from_before_a_decommission_says_nothing_of_the_tenant(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    gone = order(number=2).model_copy(update={"kind": OrderKind.DECOMMISSION, "sealed": None})
    for minute, wanted in enumerate((order(number=1), gone)):
        (record,) = ledger.submit(wanted, again=False, now=NOW)
        then = NOW + timedelta(minutes=minute)
        ledger.finish(record.order_id, 1, state=OrderState.DONE, result={}, now=then)
    assert ledger.latest_provision("acme") is None
    ledger.submit(order(number=3), again=False, now=NOW)
    latest = ledger.latest_provision("acme")
    assert latest is not None
    assert latest.order_id == str(order(number=3).order_id)


def test_of_orders_that_are_handed_in_together_all_are_accepted_or_none(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    with pytest.raises(ConflictError):
        ledger.submit(order("bravo", number=3), order(number=1), order(number=2), again=False, now=NOW)
    assert not ledger.all()


def test_run_numbers_only_grow_also_when_many_take_them(database: LedgerDatabase) -> None:
    ledger = OrderLedger(database)
    taken: list[int] = []

    def take() -> None:
        for _ in range(5):
            taken.append(ledger.take_run_number(purpose="test", now=NOW))  # noqa: PERF401 - interleaved on purpose

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 21))
