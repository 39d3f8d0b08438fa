import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.pin import read_pin

OPENCLAW = Path(__file__).parents[3] / "tenant/openclaw"
type Lock = dict[str, dict[str, Any]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("pin.yml", "package-lock.json"):
        shutil.copy(OPENCLAW / name, tmp_path / name)
    return tmp_path


def change_lock(directory: Path, change: Callable[[Lock], object]) -> None:
    path = directory / "package-lock.json"
    document = json.loads(path.read_text())
    change(document["packages"])
    path.write_text(json.dumps(document))


def test_the_committed_pin_agrees_with_its_lock() -> None:
    pin = read_pin(OPENCLAW)
    assert (
        pin.openclaw.version
        == json.loads((OPENCLAW / "package.json").read_text())["dependencies"]["openclaw"]
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda p: p["node_modules/openclaw"].update(version="2026.9.5"), "another OpenClaw"),
        (lambda p: p["node_modules/openclaw"].update(integrity="sha512-x"), "another OpenClaw"),
        (lambda p: p["node_modules/openclaw"]["engines"].update(node=">=30"), "wants Node"),
        (lambda p: p["node_modules/zod"].update(resolved="https://x.test/zod.tgz"), "download address"),
        (lambda p: p["node_modules/zod"].pop("integrity"), "zod has no hash"),
    ],
)
def test_a_lock_that_says_otherwise_is_refused(
    copy: Path, change: Callable[[Lock], object], complaint: str
) -> None:
    change_lock(copy, change)
    with pytest.raises(ReleaseError, match=complaint):
        read_pin(copy)


def test_an_unknown_key_or_an_option_as_a_package_is_refused(copy: Path) -> None:
    original = (copy / "pin.yml").read_text()
    for wrong in (original + "\nlatest: true\n", original.replace("procps", "--include=x")):
        (copy / "pin.yml").write_text(wrong)
        with pytest.raises(ReleaseError, match=r"pin\.yml"):
            read_pin(copy)
