"""What the host looks like now. Every part may be missing: a heartbeat tells so and goes out all the same."""

import os
from dataclasses import dataclass
from pathlib import Path

from link.ask import Unanswered, ask_socket, ask_url
from link.config import UNITS, Config
from link.envelope import Json

UNWELL = 500  # an HTTP status from here on is not "up"
OK = 200


@dataclass(frozen=True, slots=True)
class Observation:
    activations: dict[str, str]
    digests: dict[str, str]
    admission: Json
    counters: dict[str, Json]
    redaction_tested: bool
    disk: dict[str, int]
    clock_synchronised: bool
    parts: dict[str, str]


def observe(config: Config) -> Observation:
    """Ask everything once; no failure of a part is an error here."""
    wrapper_up, status = _wrapper(config.status_socket)
    egress_up, figures = _egress(config.egress_url)
    room = os.statvfs(config.state_dir)
    return Observation(
        activations=_activations(config.activations_dir),
        digests=_digests(config.activations_dir),
        admission=status,
        counters={"wrapper": status.get("counters", {}), "egress": dict(figures)},
        redaction_tested=egress_up and figures.get("selftest_ok") == 1,
        disk={"free_bytes": room.f_bavail * room.f_frsize, "total_bytes": room.f_blocks * room.f_frsize},
        clock_synchronised=config.clock_file.exists(),
        parts={
            "egress": _word(up=egress_up),
            "wrapper": _word(up=wrapper_up),
            "openclaw": _word(up=_answers(config.openclaw_url)),
        },
    )


def _word(*, up: bool) -> str:
    return "up" if up else "down"


def _wrapper(path: Path) -> tuple[bool, dict[str, Json]]:
    """Return whether the wrapper's daemon answers, and its status; without one, admission is unknown."""
    try:
        answer = ask_socket(path, "/v1/status")
        status = answer.json()
    except Unanswered as reason:
        return False, {"admission": "unknown", "reason": f"wrapper: {reason}"}
    if answer.status != OK or not isinstance(status, dict):
        return False, {"admission": "unknown", "reason": f"wrapper: answered {answer.status}"}
    return True, status


def _egress(url: str) -> tuple[bool, dict[str, int]]:
    try:
        ready = ask_url(f"{url}/readyz").status == OK
        return ready, figures_of(ask_url(f"{url}/metrics").body)
    except Unanswered:
        return False, {}


def figures_of(text: bytes) -> dict[str, int]:
    """Return the whole-numbered samples of Prometheus' text format, by name and labels."""
    figures = {}
    for line in text.decode(errors="replace").splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and name and value.isascii() and value.isdigit():
            figures[name] = int(value)
    return figures


def _answers(url: str) -> bool:
    try:
        return ask_url(url).status < UNWELL
    except Unanswered:
        return False


def _activations(directory: Path) -> dict[str, str]:
    """Return the name of each unit's current activation."""
    return {
        unit: link.readlink().name for unit in UNITS if (link := directory / unit / "current").is_symlink()
    }


def _digests(directory: Path) -> dict[str, str]:
    """Return the digest that each unit's code link names; an image has no such link."""
    links = {unit: directory / unit / "current" / "code" for unit in UNITS}
    return {unit: link.readlink().name for unit, link in links.items() if link.is_symlink()}
