from __future__ import annotations

import json

import pytest

from tenantfleet.model.errors import NoMachineError
from tenantfleet.model.order import HubOrder
from tenantfleet.model.settings import FleetSettings
from tenantfleet.planning.provision import plan_order

SETTINGS = FleetSettings.model_validate_json(
    json.dumps(
        {
            "version": 1,
            "environment": "dev",
            "regions": ["eu-lab"],
            "provider": {"kind": "static", "machines": "machines.yml"},
            "store_url": "https://releases.test",
            "registry": "registry.test:5000",
            "recovery_recipient": "age1" + "q" * 58,
            "network": {"dns": ["10.0.0.1"]},
        }
    )
)


def order(**changes: object) -> HubOrder:
    fields = {
        "version": 1,
        "order_id": "0b9e6a5e-7a7e-4a52-9b8e-3d1b9b8f7a10",
        "kind": "provision",
        "tenant_id": "acme",
        "tenant_class": "sandbox",
        "region": "eu-lab",
        "tier": "lite",
        "domain": "acme.example.test",
        "autonomy": "standard",
        "release": "sha256:" + "0a" * 32,
        "expires": "2026-12-01T00:00:00Z",
        "sealed": "c2VjcmV0",
    }
    return HubOrder.model_validate_json(json.dumps({**fields, **changes}))


def test_equal_orders_have_equal_plans_and_a_changed_one_another() -> None:
    plans = [
        plan_order(order(), settings=SETTINGS, manifest={"version": 1}, ssh_user_ca="ca") for _ in range(2)
    ]
    assert plans[0].sha256 == plans[1].sha256
    other = plan_order(order(autonomy="strict"), settings=SETTINGS, manifest={"version": 1}, ssh_user_ca="ca")
    assert other.sha256 != plans[0].sha256


def test_a_plan_holds_nothing_of_the_sealed_payload() -> None:
    plan = plan_order(order(), settings=SETTINGS, manifest={}, ssh_user_ca="ca")
    assert "c2VjcmV0" not in json.dumps(plan.as_data())


def test_a_decommission_neither_needs_a_manifest_nor_verifies() -> None:
    plan = plan_order(
        order(kind="decommission", sealed=None), settings=SETTINGS, manifest={}, ssh_user_ca="ca"
    )
    assert [step.name for step in plan.steps] == ["claim", "plan", "run", "done"]
    assert plan.steps[2].playbook == "tenant_decommission.yml"


def test_an_unknown_region_is_refused() -> None:
    with pytest.raises(NoMachineError) as caught:
        plan_order(order(region="mars"), settings=SETTINGS, manifest={}, ssh_user_ca="ca")
    assert caught.value.code == "order.unknown_region"
