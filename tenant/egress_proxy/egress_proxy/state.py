"""What is in force from one load to the next: configuration, credentials and the redactor made of them."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from egress_proxy.config import Config, Credentials, load_config, load_credentials
from egress_proxy.entropy import EntropyLayer
from egress_proxy.placeholder import Placeholders
from egress_proxy.redactor import Redactor
from egress_proxy.registry import ExactLayer
from egress_proxy.rules import PatternLayer, parse_rules, shipped_rules
from egress_proxy.structural import StructuralLayer


@dataclass(frozen=True)
class State:
    """``canary`` is a registered secret for the self-test, with characters that encodings treat apart."""

    config: Config
    credentials: Credentials
    redactor: Redactor
    canary: str = field(repr=False)


def load_state(config_path: Path, credentials_directory: Path, *, rules_path: Path | None = None) -> State:
    """Read everything anew.

    Raises:
        ConfigError: the configuration or a credential is wrong.
        NotReadyError: the registry or a rule cannot be vouched for.
    """
    config = load_config(config_path)
    credentials = load_credentials(credentials_directory, config)
    rules = rules_path.read_bytes() if rules_path else shipped_rules()
    canary = f'tf"self/test\\ü {secrets.token_hex(16)}'
    return State(config, credentials, build_redactor(config, credentials, rules, canary), canary)


def build_redactor(config: Config, credentials: Credentials, rules: bytes, canary: str) -> Redactor:
    placeholders = Placeholders(credentials.redaction_key)
    registry = {
        **credentials.registry,
        **credentials.provider_keys,
        "egress_bearer": credentials.bearer,
        "redaction_key": credentials.redaction_key.decode(),
        "selftest": canary,
    }
    return Redactor(
        exact=ExactLayer(registry, placeholders),
        patterns=PatternLayer(parse_rules(rules), placeholders),
        structural=StructuralLayer(placeholders) if config.redaction.structural else None,
        entropy=EntropyLayer(placeholders) if config.redaction.entropy else None,
    )
