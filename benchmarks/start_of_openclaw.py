"""What the gateway's start costs on a tenant's host, and what changes of its surroundings would save."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.hosts import LAB
from benchmarks.no_change_run import BenchError, Say, prepare

if TYPE_CHECKING:
    from lab.host import Host
    from lab.state import Lab

START = Path(__file__).parent / "on_host/gateway_start.py"
SHIPPED = "as shipped"
WARM = "/var/tmp/bench-compile-cache"  # noqa: S108 - of a lab host, by its root
type Variant = dict[str, Any]  # see on_host/gateway_start.py
NOTHING: Variant = {"environment": {}, "volumes": []}
CACHE: Variant = {"environment": {"NODE_DISABLE_COMPILE_CACHE": None}, "volumes": []}
LARGE_YOUNG = "--disable-sigusr1 --max-semi-space-size=64"
# OpenClaw keeps what Node has compiled in /tmp, which is new at each start, unless it is told not to.
VARIANTS = {
    SHIPPED: NOTHING,
    "compile cache of its own": CACHE,
    "compile cache prewarmed, read-only": {**CACHE, "volumes": [f"{WARM}:/tmp/node-compile-cache:ro"]},
    "young generation of 64 MiB": {"environment": {"NODE_OPTIONS": LARGE_YOUNG}, "volumes": []},
}
# `podman cp` does not see a tmpfs; the gateway writes its cache out when it is told to end.
SAVE = (
    f"rm -rf {WARM} && mkdir -p {WARM} "
    f"&& podman exec openclaw tar -C /tmp/node-compile-cache -cf - . | tar -C {WARM} -xf - "
    f"&& chown -R root:root {WARM} && chmod -R u=rwX,go=rX {WARM} && find {WARM} -type f | wc -l"
)


def measure(lab: Lab, name: str, *, rounds: int, say: Say) -> dict[str, Any]:
    """Every variant in turn, in each round."""
    host = prepare(lab, [name], say=say)[f"lab-{name}"]
    started(host, CACHE)
    files = int(_on_host(host, "sh", "-c", SAVE))
    say(f"  {files} compiled files kept")
    samples: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    try:
        for number in range(1, rounds + 1):
            for variant, settings in VARIANTS.items():
                sample = started(host, settings)
                samples[variant].append(sample)
                told = "  ".join(f"{key} {value:5.1f}" for key, value in sample.items())
                say(f"  round {number} {variant:36} {told}")
    finally:
        started(host, NOTHING)
    medians = {
        variant: {key: statistics.median(sample[key] for sample in taken) for key in taken[0]}
        for variant, taken in samples.items()
    }
    saved = {
        variant: {key: 1 - value / medians[SHIPPED][key] for key, value in values.items()}
        for variant, values in medians.items()
        if variant != SHIPPED
    }
    return {"samples": samples, "medians": medians, "saved": saved, "compiled_files": files, "faults": []}


def started(host: Host, variant: Variant) -> dict[str, float]:
    answer: dict[str, float] = json.loads(
        _on_host(host, "/usr/bin/python3", "-I", "-B", "-", json.dumps(variant), stdin=START.read_text())
    )
    return answer


def _on_host(host: Host, *argv: str, stdin: str = "") -> str:
    command = [LAB, "exec", host.name, "--", *argv]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{host.name}: {done.stdout[-600:]}{done.stderr[-600:]}")
    return done.stdout
