"""What release_slot decides: the name of an activation, what is refused, and what a diff says."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "library/release_slot.py"
TREE = "ab" * 32


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_slot", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release_slot = loaded()


def params(**more: object) -> dict[str, Any]:
    return {
        "unit": "echo",
        "state": "active",
        "code": TREE,
        "image": None,
        "files": [file("config/a", "one"), file("units/a.service", "[Service]")],
        "inputs": [],
        "services": ["a.service"],
        "reloads": [],
        "dependents": [],
        "probe": {"argv": ["/bin/true"], "timeout_s": 5},
        **more,
    }


def file(path: str, content: str = "", mode: str = "0644", owner: str = "root") -> dict[str, str]:
    return {"path": path, "content": content, "owner": owner, "group": "root", "mode": mode}


def wanted(**more: object) -> Any:  # noqa: ANN401 - the module is loaded from a file
    return release_slot.wanted_of(params(**more), {})


def test_the_same_content_has_the_same_name_whatever_its_order() -> None:
    assert wanted(files=list(reversed(params()["files"]))).id == wanted().id
    assert wanted(files=[file("config/a", mode="640")]).id == wanted(files=[file("config/a", mode="0640")]).id
    assert len(wanted().id) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"code": "cd" * 32},
        {"image": f"registry.example/openclaw@sha256:{TREE}"},
        {"services": []},
        {"reloads": ["b.service"]},
        {"dependents": ["b.service"]},
        {"probe": {"argv": ["/bin/true"], "timeout_s": 6}},
        {"files": [file("config/a", "two")]},
        {"files": [file("config/a", "one", mode="0600"), file("units/a.service", "[Service]")]},
        {"files": [file("config/a", "one", owner="tf-egress"), file("units/a.service", "[Service]")]},
        {"files": [file("config/b", "one"), file("units/a.service", "[Service]")]},
    ],
)
def test_any_difference_is_another_activation(change: dict[str, object]) -> None:
    assert wanted(**change).id != wanted().id


def test_another_input_is_another_activation() -> None:
    assert (
        release_slot.wanted_of(params(), {"/etc/x": "1"}).id
        != release_slot.wanted_of(params(), {"/etc/x": "2"}).id
    )


def test_the_activation_itself_holds_no_secret_place_for_content() -> None:
    assert "one" not in json.loads(wanted().document)["files"][0].values()


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "../up"},
        {"unit": "Echo"},
        {"code": "latest"},
        {"code": TREE.upper()},
        {"image": "registry.example/openclaw:latest"},
        {"probe": None},
        {"probe": {"argv": [], "timeout_s": 1}},
        {"files": [file("config/../../../etc/passwd")]},
        {"files": [file("/etc/passwd")]},
        {"files": [file("config")]},
        {"files": [file("config/.hidden")]},
        {"files": [file("units/evil.mount")]},
        {"files": [file("units/a.service.d/b.txt")]},
        {"files": [file("code/x")]},
        {"files": [file("config/a", mode="4755")]},
        {"files": [file("config/a", mode="u+rw")]},
        {"files": [file("config/a"), file("config/a")]},
    ],
    ids=str,
)
def test_what_cannot_be_an_activation_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(release_slot.SlotError):
        release_slot.refuse_bad(params(**change))


def test_what_the_roles_send_is_accepted() -> None:
    release_slot.refuse_bad(params(image=f"registry.lab.test:5000/tenantfleet/openclaw@sha256:{TREE}"))
    release_slot.refuse_bad(params(files=[file("units/openclaw.container.d/50-safety-wrapper.conf")]))
    release_slot.refuse_bad(params(state="absent", probe=None))


def test_a_diff_names_the_files_that_differ_and_only_those() -> None:
    after = wanted(files=[file("config/a", "two"), file("units/a.service", "[Service]")])
    entries = release_slot.differences(wanted(), after)
    assert [(entry["before"], entry["after"]) for entry in entries] == [("one", "two")]
    assert entries[0]["before_header"] == "config/a root:root 0644"


def test_a_diff_shows_a_mode_a_new_file_and_a_change_of_code() -> None:
    new = [file("config/a", "one", mode="0600"), file("config/b", "x"), file("units/a.service", "[Service]")]
    entries = release_slot.differences(wanted(), wanted(files=new, code="cd" * 32))
    assert [entry["before_header"] for entry in entries] == [
        "config/a root:root 0644",
        "config/b (absent)",
        "echo: code, services, probe",
    ]
    assert TREE in entries[2]["before"]


def test_a_first_activation_differs_in_everything() -> None:
    assert len(release_slot.differences(None, wanted())) == 3


@pytest.mark.parametrize("lenient", [True, False])
def test_an_input_that_is_missing_is_an_error_outside_of_check_mode(tmp_path: Path, lenient: bool) -> None:  # noqa: FBT001 - a table
    paths = [str(tmp_path / "nowhere")]
    if lenient:
        assert release_slot.input_digests(paths, lenient=True) == {paths[0]: "not there yet"}
    else:
        with pytest.raises(release_slot.SlotError, match="nowhere"):
            release_slot.input_digests(paths, lenient=False)
