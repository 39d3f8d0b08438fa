"""Start the gateway once and say what it took. Runs on the host, as root: `gateway_start.py VARIANT-AS-JSON`.

A variant is {"environment": {name: value or null for none}, "volumes": [...]}, put into a drop-in of the
quadlet below /run, which no reboot survives; an empty one takes the drop-in away. Output: JSON {"ready_s",
"ready_cpu_s", "canary_s", "canary_cpu_s"}: start to /readyz, then the canary turn.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNIT = "openclaw.service"
QUADLET = Path("/etc/containers/systemd/openclaw.container")
DROP_IN = Path("/run/containers/systemd/openclaw.container.d/90-bench.conf")
GROUP = Path("/sys/fs/cgroup/system.slice") / UNIT
READY = (
    "/usr/bin/curl",
    "--silent",
    "--fail",
    "--output",
    "/dev/null",
    "--max-time",
    "2",
    "http://127.0.0.1:18789/readyz",
)
CANARY = (
    *("/usr/bin/python3", "-I", "-B", "/opt/tenantfleet/safety_wrapper/current/code", "canary"),
    *("--timeout", "150"),
)
DEADLINE_S = 180.0


def systemctl(*argv: str) -> None:
    subprocess.run(["/usr/bin/systemctl", *argv], check=True)


def cpu_s() -> float:
    lines = (GROUP / "cpu.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6


def drop_in(variant: dict[str, Any]) -> str:
    """The unit's own environment with what the variant says of it: an empty assignment forgets all before."""
    lines = [line.strip() for line in QUADLET.read_text().splitlines() if line.startswith("Environment=")]
    own = dict(line.removeprefix("Environment=").split("=", 1) for line in lines)
    kept = {name: value for name, value in (own | variant["environment"]).items() if value is not None}
    environment = ["Environment=", *(f'Environment="{name}={value}"' for name, value in kept.items())]
    return "\n".join(
        ["[Container]", *environment, *(f"Volume={volume}" for volume in variant["volumes"]), ""]
    )


def settle(variant: dict[str, Any]) -> None:
    """Put the variant in force."""
    if any(variant.values()):
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(drop_in(variant))
    else:
        DROP_IN.unlink(missing_ok=True)
    systemctl("daemon-reload")
    argv = ("/usr/bin/systemctl", "show", "--property=ExecStart", UNIT)
    command = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    wanted = [f"{name}={value}" for name, value in variant["environment"].items() if value is not None]
    unwanted = [f"{name}=" for name, value in variant["environment"].items() if value is None]
    missing = [text for text in (*wanted, *variant["volumes"]) if text not in command]
    kept = [text for text in unwanted if text in command]
    if missing or kept:
        sys.exit(f"the variant is not in force: the unit lacks {missing} and still has {kept}")


def main() -> None:
    settle(json.loads(sys.argv[1]))
    systemctl("stop", UNIT)
    began = time.monotonic()
    systemctl("start", UNIT)
    while subprocess.run(READY, check=False).returncode:
        if time.monotonic() - began > DEADLINE_S:
            sys.exit(f"the gateway was not ready within {DEADLINE_S} s")
        time.sleep(0.05)
    ready_s, ready_cpu_s = time.monotonic() - began, cpu_s()
    began = time.monotonic()
    turn = subprocess.run(CANARY, check=False, capture_output=True, text=True)
    if turn.returncode:
        sys.exit(f"the canary turn failed: {turn.stdout}{turn.stderr}")
    canary = {"canary_s": time.monotonic() - began, "canary_cpu_s": cpu_s() - ready_cpu_s}
    print(json.dumps({"ready_s": ready_s, "ready_cpu_s": ready_cpu_s, **canary}))


if __name__ == "__main__":
    main()
