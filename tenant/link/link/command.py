"""The two commands: beat for ever, or check one heartbeat."""

import argparse
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from link.config import ConfigError, load_config
from link.envelope import EnvelopeError, Json, opened
from link.health import complaints
from link.service import serve

FRESH_S = 120  # docs/contracts/host.md beats every 30 s; two minutes is the promise of freshness
LOOK_AGAIN_S = 0.5
CONFIG = Path("/opt/tenantfleet/link/current/config/link.json")


def main(arguments: list[str]) -> int:
    """Return the exit status: 0 done, 1 heartbeat or set-up not good; argparse exits 2 on usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "verify":
            document = checked(options)
            sys.stdout.write(json.dumps(document, sort_keys=True) + "\n")
        else:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            serve(load_config(options.config), Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")))
    except (ConfigError, EnvelopeError, OSError) as error:
        sys.stderr.write(f"tf-link: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tf-link", description="Write signed heartbeats.")
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"configuration (default {CONFIG})")
    commands = parser.add_subparsers(dest="command")
    verify = commands.add_parser("verify", help="check a heartbeat and print its document")
    verify.add_argument("file", type=Path)
    verify.add_argument("--key", type=Path, help="public key in PEM (default: node_key.pub beside the file)")
    verify.add_argument("--fresh", action="store_true", help=f"refuse a heartbeat older than {FRESH_S} s")
    verify.add_argument("--well", metavar="TENANT", help="refuse one of which not all is well, or another's")
    verify.add_argument("--within", metavar="S", type=float, default=0, help="wait for one that is well")
    return parser


def checked(options: argparse.Namespace) -> dict[str, Json]:
    """Return the document of the first heartbeat that passes.

    A heartbeat is a look at one moment: what it found wrong may be over, and only the next one says so.

    Raises:
        OSError, EnvelopeError: none passed in time; the last one's reason.
    """
    key = options.key or options.file.with_name("node_key.pub")
    deadline = time.monotonic() + options.within
    while True:
        try:
            document = verified(options.file, key, fresh=options.fresh)
            if options.well:
                refuse_unwell(document, tenant_id=options.well)
        except (EnvelopeError, OSError):
            if time.monotonic() >= deadline:
                raise
        else:
            return document
        time.sleep(LOOK_AGAIN_S)


def refuse_unwell(document: dict[str, Json], *, tenant_id: str) -> None:
    """Raise EnvelopeError with all that is wrong, if anything is."""
    if found := complaints(document, tenant_id=tenant_id):
        raise EnvelopeError(f"heartbeat {document.get('sequence')}: {'; '.join(found)}")


def verified(file: Path, key: Path, *, fresh: bool) -> dict[str, Json]:
    """Return the document of a heartbeat. Raises OSError or EnvelopeError."""
    document = opened(file.read_bytes(), _public_key(key.read_bytes()))
    if fresh and (age := _age_s(document)) > FRESH_S:
        raise EnvelopeError(f"the heartbeat is {age} s old")
    return document


def _public_key(pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise EnvelopeError("not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise EnvelopeError("not an Ed25519 key")
    return key


def _age_s(document: dict[str, Json]) -> int:
    """Return the distance to now in whole seconds, in either direction: the future is not fresh."""
    try:
        at = datetime.fromisoformat(str(document.get("at")))
        return abs(int((datetime.now(UTC) - at).total_seconds()))
    except (ValueError, TypeError) as error:
        raise EnvelopeError("the heartbeat has no time") from error
