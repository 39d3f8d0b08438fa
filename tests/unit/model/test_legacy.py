from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.legacy import LegacyInventory

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = (ROOT / "lab/older_product.yml").read_text()


def test_what_settings_declare_is_what_the_host_is_told() -> None:
    declared = LegacyInventory.parse(EXAMPLE, kind="settings").host_vars()
    assert declared == {"legacy": yaml.safe_load(EXAMPLE)}
    schema = json.loads((ROOT / "library/legacy_state.schema.json").read_text())
    jsonschema.validate({"version": 1, "inventory": declared["legacy"]}, schema)


def test_nothing_declared_is_no_variable_so_that_plans_stay_the_same() -> None:
    assert LegacyInventory().host_vars() == {}


def test_its_kinds_are_those_of_the_module() -> None:
    schema = json.loads((ROOT / "library/legacy_state.schema.json").read_text())
    assert set(LegacyInventory.model_fields) == set(schema["properties"]["inventory"]["properties"])


@pytest.mark.parametrize(
    "text", ["projects: {n8n: delete}", "projects: [n8n]", "project: {n8n: remove}", "docker: purge"]
)
def test_a_word_that_nobody_knows_is_refused(text: str) -> None:
    with pytest.raises(InputRefusedError):
        LegacyInventory.parse(text, kind="settings")
