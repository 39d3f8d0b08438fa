import json
from pathlib import Path

import pytest

from lab import endpoints, fleet
from lab.state import Lab


def test_who_publishes_another_release_leaves_that_of_the_inventory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = dict.fromkeys(("store_dir", "registry_address", "ca_file"), "")
    monkeypatch.setattr(endpoints, "info", lambda _: place)
    monkeypatch.setattr(fleet, "_tenantfleet", lambda *_: json.dumps({"digest": "sha256:" + "0" * 64}))
    fleet.publish(Lab(root=tmp_path), stacks=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
