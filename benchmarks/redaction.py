"""CPU time of the egress proxy's redaction against what one would write first: ``re`` alternations.

Run: ``.venv/bin/python benchmarks/redaction.py``. Both find the same planted
secrets; the ratio counts, as the machine's own speed cancels out.
"""

import base64
import json
import re
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tenant" / "egress_proxy"))

from egress_proxy.config import Config, Credentials, Limits, Redaction  # noqa: E402 -- its tree is not installed
from egress_proxy.encodings import variants  # noqa: E402
from egress_proxy.redactor import Redactor  # noqa: E402
from egress_proxy.rules import parse_rules, shipped_rules  # noqa: E402
from egress_proxy.state import build_redactor  # noqa: E402

SECRETS = 500
ROUNDS = 15
NAIVE_ROUNDS = 2


def body(size: int, planted: list[str]) -> dict[str, Any]:
    """Return a chat of ``size`` bytes made of this project's own prose and code, with secrets in it."""
    files = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("tenant/**/*.py"), *ROOT.glob("lab/*.py")])
    prose = "\n".join(path.read_text(encoding="utf-8") for path in files)
    prose = (prose * (size // len(prose) + 1))[:size]
    pieces = [prose[at : at + 4000] for at in range(0, len(prose), 4000)]
    messages: list[dict[str, Any]] = []
    for index, piece in enumerate(pieces):
        messages.append({"role": "user" if index % 3 else "tool", "content": piece})
    for index, secret in enumerate(planted):
        messages[index % len(messages)]["content"] += f"\nfound {secret} here"
    return {"model": "m", "messages": messages}


def redactor(registry: dict[str, str]) -> Redactor:
    credentials = Credentials("bearer-of-benchmark", b"key-of-the-benchmark", registry, {})
    config = Config("127.0.0.1", 0, {}, Path("/"), Limits(), Redaction())
    return build_redactor(config, credentials, shipped_rules(), "canary-of-benchmark")


def naive(registry: dict[str, str]) -> Callable[[dict[str, Any]], bytes]:
    """Return the first thing that comes to mind: one alternation of all forms, then rule after rule."""
    forms = {variant.text for value in registry.values() for variant in variants(value)}
    exact = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))
    rules = [re.compile(rule.pattern.replace(r"\z", r"\Z")) for rule in parse_rules(shipped_rules())]

    def redact(document: dict[str, Any]) -> bytes:
        messages = []
        for message in document["messages"]:
            text = exact.sub("[[S]]", message["content"])
            for rule in rules:
                text = rule.sub("[[S]]", text)
            messages.append({**message, "content": text})
        return json.dumps({**document, "messages": messages}).encode()

    return redact


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    samples = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        samples.append((time.process_time() - start) * 1000)
    return statistics.median(samples)


def main() -> None:
    registry = {f"s{index}": secrets.token_urlsafe(24) for index in range(SECRETS)}
    values = list(registry.values())
    planted = [values[0], base64.b64encode(b"x" + values[1].encode()).decode(), values[2].encode().hex()]
    start = time.process_time()
    ours = redactor(registry)
    load_ms = (time.process_time() - start) * 1000
    theirs = naive(registry)
    print(f"{SECRETS} registered secrets, load {load_ms:.0f} ms; median CPU ms a body")
    print(f"{'body':>8} {'clean':>8} {'planted':>8} {'naive re':>9} {'ratio':>6}")
    for size in (10_000, 50_000, 200_000):
        clean, dirty = body(size, []), body(size, planted)
        ours.redact(dirty)  # RE2 builds its automata on first use
        assert values[0].encode() not in ours.redact(dirty).wire  # noqa: S101 -- a benchmark of nothing is worthless
        quiet = cpu_ms(lambda clean=clean: ours.redact(clean), ROUNDS)  # type: ignore[misc]
        busy = cpu_ms(lambda dirty=dirty: ours.redact(dirty), ROUNDS)  # type: ignore[misc]
        slow = cpu_ms(lambda dirty=dirty: theirs(dirty), NAIVE_ROUNDS)  # type: ignore[misc]
        print(f"{size // 1000:>5} KB {quiet:>8.2f} {busy:>8.2f} {slow:>9.1f} {slow / busy:>5.0f}x")


if __name__ == "__main__":
    main()
