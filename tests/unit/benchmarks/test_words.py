"""What the benchmarks read out of others' words."""

from pathlib import Path

import pytest

from benchmarks import first_provision
from benchmarks.on_host import gateway_start


def test_the_durations_that_the_product_tells_are_taken_longest_first() -> None:
    lines = [
        "acme: run the playbook …",
        "  lab-f1: ok role : preflight | Refuse (what is not) a digest (0.1 s)",
        "  lab-f1: changed openclaw : install | Pull the image by digest (21.1 s)",
        "  lab-f1: failed openclaw : activate",
        "acme: run the playbook  done  140.4 s  19 changed",
    ]
    assert first_provision.tasks_of(lines) == [
        ("openclaw : install | Pull the image by digest", 21.1),
        ("role : preflight | Refuse (what is not) a digest", 0.1),
    ]


def test_a_variant_says_again_what_it_keeps_of_the_units_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = tmp_path / "openclaw.container"
    unit.write_text("[Container]\n# why\nEnvironment=A=1\nEnvironment=B=--x=y\nEnvironment=C=3\n")
    monkeypatch.setattr(gateway_start, "QUADLET", unit)
    text = gateway_start.drop_in({"environment": {"A": None, "C": "4 5"}, "volumes": ["/a:/b:ro"]})
    assert text.splitlines() == [
        "[Container]",
        "Environment=",
        'Environment="B=--x=y"',
        'Environment="C=4 5"',
        "Volume=/a:/b:ro",
    ]
