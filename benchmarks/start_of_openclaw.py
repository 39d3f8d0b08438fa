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
# What Node has compiled is kept below the package's own folder in /tmp, which is new at each start.
VARIANTS = {
    SHIPPED: [],
    "no compile cache": ["Environment=NODE_DISABLE_COMPILE_CACHE=1"],
    "compile cache prewarmed, read-only": [f"Volume={WARM}:/tmp/node-compile-cache:ro"],
    "young generation of 64 MiB": ["Environment=NODE_OPTIONS=--disable-sigusr1 --max-semi-space-size=64"],
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
    started(host, [])
    files = int(_on_host(host, "sh", "-c", SAVE))
    say(f"  {files} compiled files kept")
    samples: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    try:
        for number in range(1, rounds + 1):
            for variant, lines in VARIANTS.items():
                sample = started(host, lines)
                samples[variant].append(sample)
                told = "  ".join(f"{key} {value:5.1f}" for key, value in sample.items())
                say(f"  round {number} {variant:36} {told}")
    finally:
        started(host, [])
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


def started(host: Host, lines: list[str]) -> dict[str, float]:
    answer: dict[str, float] = json.loads(
        _on_host(host, "/usr/bin/python3", "-I", "-B", "-", json.dumps(lines), stdin=START.read_text())
    )
    return answer


def _on_host(host: Host, *argv: str, stdin: str = "") -> str:
    command = [LAB, "exec", host.name, "--", *argv]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{host.name}: {done.stdout[-600:]}{done.stderr[-600:]}")
    return done.stdout
