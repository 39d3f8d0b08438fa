from __future__ import annotations

import pytest
import yaml

from tenantfleet.model.errors import InputRefusedError
from tenantfleet.model.settings import EgressProvider

UPSTREAM = "https://model.test:9443/v1"


def provider(**fields: str) -> EgressProvider:
    return EgressProvider.parse(
        yaml.safe_dump({"id": "openai", "upstream": UPSTREAM, **fields}), kind="settings"
    )


def test_a_provider_names_its_model_or_uses_the_default_one() -> None:
    assert provider().model == "default"
    assert provider(model="meta/llama-3.1:70b").model == "meta/llama-3.1:70b"


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "open_ai"},
        {"upstream": "https://model.test"},
        {"upstream": "https://model.test/v1/"},
        {"upstream": "https://model.test/xv1"},
        {"model": "two words"},
        {"model": ""},
    ],
)
def test_a_provider_that_the_egress_proxy_could_not_serve_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InputRefusedError):
        provider(**fields)
