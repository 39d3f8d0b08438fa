"""What `activate` decides, on folders of a test: links, effects and their order, refusals, what is swept."""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAMS = Path(__file__).parents[3] / "roles/release_store/files"
TREE = "ab" * 32


def loaded() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("activate", str(PROGRAMS / "activate"))
    spec = importlib.util.spec_from_loader("activate", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def effects(activate: ModuleType) -> ModuleType:
    """The program's own module of that name."""
    return sys.modules[activate.steps.__module__]


@pytest.fixture(scope="module")
def activate() -> Iterator[ModuleType]:
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # roles/ stays free of it
    yield loaded()
    sys.dont_write_bytecode = bytecode
    sys.path.remove(str(PROGRAMS))


@pytest.fixture
def paths(activate: ModuleType, tmp_path: Path) -> Any:  # noqa: ANN401 - the program is loaded from a file
    (tmp_path / f"opt/tenantfleet/store/{TREE}").mkdir(parents=True)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/containers/systemd").mkdir(parents=True)
    return activate.Paths("echo", tmp_path)


def lay_down(paths: Any, files: dict[str, str], **more: object) -> str:  # noqa: ANN401 - as above
    """Write an activation as release_slot does; its id."""
    me = pwd.getpwuid(os.getuid()).pw_name
    entries = [
        {
            "path": path,
            "owner": me,
            "group": me,
            "mode": "0644",
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
        for path, content in files.items()
    ]
    document = {
        "version": 1,
        "unit": "echo",
        "code": TREE,
        "image": None,
        "services": [],
        "reloads": [],
        "dependents": [],
        "inputs": {},
        "probe": {"argv": ["/bin/true"], "timeout_s": 1},
        "files": entries,
        **more,
    }
    content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    name = hashlib.sha256(content).hexdigest()[:16]
    slot: Path = paths.slots / name
    slot.mkdir(parents=True)
    (slot / "code").symlink_to(f"../../store/{TREE}")
    (slot / "activation.json").write_bytes(content)
    for path, text in files.items():
        (slot / path).parent.mkdir(parents=True, exist_ok=True)
        (slot / path).write_text(text)
        (slot / path).chmod(0o644)
    return name


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("units/tf-echo.service", "etc/systemd/system/tf-echo.service"),
        ("units/tf-echo.timer", "etc/systemd/system/tf-echo.timer"),
        ("units/tf-echo.service.d/50-a.conf", "etc/systemd/system/tf-echo.service.d/50-a.conf"),
        ("units/openclaw.container", "etc/containers/systemd/openclaw.container"),
        ("units/openclaw.container.d/50-a.conf", "etc/containers/systemd/openclaw.container.d/50-a.conf"),
        ("config/tf-echo.service", None),
        ("units/readme.txt", None),
    ],
)
def test_a_unit_file_is_linked_where_its_kind_is_read(
    activate: ModuleType, path: str, link: str | None
) -> None:
    assert sys.modules["activation"].link_of(path) == link
    assert activate is not None


def test_a_first_activation_starts_in_order_and_enables_what_can_be_enabled(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
) -> None:
    files = {
        "units/a.service": "[Service]\n\n[Install]\nWantedBy=multi-user.target\n",
        "units/b.service": "[Service]\n",
        "units/c.container": "[Container]\n\n[Install]\nWantedBy=multi-user.target\n",
    }
    new = activate.load(paths, lay_down(paths, files, services=["b.service", "a.service", "c.service"]))
    change = activate.transition(old=None, new=new, links=frozenset(), active=("x.service",))
    assert change.start == ("b.service", "a.service", "c.service")
    assert change.stop == ("c.service", "a.service", "b.service")
    wanted = "etc/systemd/system/multi-user.target.wants/a.service"
    assert [link for link in change.link if ".wants/" in link] == [wanted]
    assert change.link[wanted] == "/opt/tenantfleet/echo/current/units/a.service"
    assert change.dependents == ("x.service",)
    assert change.link["etc/systemd/system/a.service"] == "/opt/tenantfleet/echo/current/units/a.service"


def test_what_the_new_activation_lacks_is_stopped_and_unlinked(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
) -> None:
    both = {
        "units/a.service": "[Install]\nWantedBy=multi-user.target\n",
        "units/gone.service": "[Install]\nWantedBy=multi-user.target\n",
    }
    old = activate.load(paths, lay_down(paths, both, services=["a.service", "gone.service"]))
    one = {"units/a.service": "[Install]\nWantedBy=multi-user.target\n"}
    new = activate.load(paths, lay_down(paths, one, services=["a.service"]))
    change = activate.transition(old=old, new=new, links=frozenset(old.links), active=())
    assert set(change.stop) == {"a.service", "gone.service"}
    assert change.unlink == (
        "etc/systemd/system/gone.service",
        "etc/systemd/system/multi-user.target.wants/gone.service",
    )
    assert change.start == ("a.service",)

    back = activate.transition(old=new, new=old, links=frozenset(new.links), active=())
    assert back.start == ("a.service", "gone.service")
    assert set(back.link) == set(old.links)


def test_nothing_is_left_of_a_unit_whose_first_activation_goes(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
) -> None:
    only = activate.load(
        paths,
        lay_down(
            paths, {"units/a.service": "[Install]\nWantedBy=multi-user.target\n"}, services=["a.service"]
        ),
    )
    change = activate.transition(old=only, new=None, links=frozenset(only.links), active=())
    assert (change.stop, change.unlink) == (("a.service",), tuple(sorted(only.links)))
    assert (change.link, change.start) == ({}, ())


def told_to_systemd(
    activate: ModuleType, monkeypatch: pytest.MonkeyPatch, states: dict[str, str]
) -> list[str]:
    """Put a systemd of these unit states in place of the host's; the list of what it is told, as it grows."""
    told: list[str] = []

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        words = " ".join(argv[1:])
        if argv[0] == "/usr/bin/systemctl" and argv[1] not in {"is-active", "show"}:
            told.append(words)
        output = states.get(argv[2], "inactive") if argv[1] == "is-active" else ""
        return subprocess.CompletedProcess(argv, 0, stdout=output, stderr="")

    for module in (activate, effects(activate)):
        monkeypatch.setattr(module, "run", run)
    return told


def test_dependents_that_run_or_come_up_stand_still_while_the_links_move(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = {
        "a.service": "active",
        "b.service": "activating",
        "c.service": "reloading",
        "d.service": "failed",
    }
    told = told_to_systemd(activate, monkeypatch, states)
    real_point = effects(activate).point

    def point(slots: Path, link: str, activation_id: str | None) -> None:
        told.append(f"point {link}")
        real_point(slots, link, activation_id)

    monkeypatch.setattr(effects(activate), "point", point)
    name = lay_down(paths, {"units/tf-echo.service": ""}, reloads=["r.service"], dependents=[*states])
    assert activate.switch(paths, name, "first").verdict == "confirmed"
    order = [words for words in told if not words.startswith("reset-failed")]
    assert order == [
        *(f"stop {dependent}" for dependent in ("a.service", "b.service", "c.service")),
        "point previous",
        "point current",
        "daemon-reload",
        *(f"start {dependent}" for dependent in ("a.service", "b.service", "c.service")),
    ]


def test_systemd_forgets_the_failure_of_a_service_that_goes(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = told_to_systemd(activate, monkeypatch, {"tf-echo.service": "failed"})
    probe = {"argv": ["/bin/false"], "timeout_s": 0.1}
    name = lay_down(paths, {"units/tf-echo.service": ""}, services=["tf-echo.service"], probe=probe)
    assert activate.switch(paths, name, "first").verdict == "failed"
    gone = told.index("daemon-reload", told.index("start tf-echo.service"))
    assert told[gone:] == ["daemon-reload", "reset-failed tf-echo.service"]


def test_dependents_of_an_activation_with_nothing_to_go_back_to_run_again(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = {"argv": ["/bin/false"], "timeout_s": 0.1}
    name = lay_down(paths, {"units/tf-echo.service": ""}, dependents=["x.service"], probe=probe)
    effects(activate).point(paths.slots, "current", name)
    told = told_to_systemd(activate, monkeypatch, {"x.service": "active"})
    outcome = activate.switch(paths, name, "again")
    assert (outcome.verdict, outcome.in_force) == ("failed", None)
    assert "left as it is" in outcome.reason
    assert told[-1] == "start x.service"
    told.clear()
    attempt = {"attempt": "died", "activation": name, "current": name, "previous": None, "at": activate.now()}
    sys.modules["activation"].write_json(paths.in_progress, {**attempt, "active": ["x.service"]})
    activate.recover(paths)
    assert told == ["reset-failed x.service", "start x.service"]


def test_a_unit_without_services_reloads_before_and_after(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    new = activate.load(paths, lay_down(paths, {"config/policy.json": "{}"}, reloads=["tf-wrapper.service"]))
    forward = activate.transition(old=None, new=new, links=frozenset(), active=())
    back = activate.transition(old=new, new=None, links=frozenset(), active=())
    assert forward.reload == back.reload == ("tf-wrapper.service",)
    assert forward.stop == forward.start == ()


def test_an_install_section_that_cannot_be_honoured_is_refused(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    name = lay_down(paths, {"units/a.service": "[Install]\nAlias=b.service\n"}, services=["a.service"])
    with pytest.raises(ValueError, match="Alias is not supported"):
        activate.load(paths, name)


def test_an_untouched_activation_is_verified(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    activate.verify(paths, activate.load(paths, lay_down(paths, {"config/a": "one"})))


@pytest.mark.parametrize("damage", ["content", "mode", "document", "code"])
def test_a_changed_activation_is_refused(activate: ModuleType, paths: Any, damage: str) -> None:  # noqa: ANN401
    name = lay_down(paths, {"config/a": "one"})
    slot = paths.slots / name
    match damage:
        case "content":
            (slot / "config/a").write_text("two")
        case "mode":
            (slot / "config/a").chmod(0o666)
        case "document":
            (slot / "activation.json").write_bytes((slot / "activation.json").read_bytes() + b"\n")
        case "code":
            (paths.store / TREE).rmdir()
    with pytest.raises(activate.StepFailedError):
        activate.verify(paths, activate.load(paths, name))


def test_a_file_of_somebody_else_in_the_way_is_refused(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    (paths.root / "etc/systemd/system/a.service").write_text("[Service]")
    new = activate.load(paths, lay_down(paths, {"units/a.service": ""}))
    with pytest.raises(activate.StepFailedError, match="stands in the way"):
        activate.verify(paths, new)


def test_links_are_switched_and_removed(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    name = lay_down(paths, {})
    effects(activate).point(paths.slots, "current", name)
    assert paths.linked_id("current") == name
    effects(activate).point(paths.slots, "current", None)
    assert paths.linked_id("current") is None


def test_only_links_through_our_own_current_are_ours(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    folder = paths.root / "etc/systemd/system"
    effects(activate).relink(
        folder / "a.service.d/b.conf", "/opt/tenantfleet/echo/current/units/a.service.d/b.conf"
    )
    effects(activate).relink(folder / "other.service", "/opt/tenantfleet/echo2/current/units/other.service")
    assert paths.own_links() == {"etc/systemd/system/a.service.d/b.conf"}
    effects(activate).unlink(folder / "a.service.d/b.conf")
    assert not (folder / "a.service.d").exists()


def test_a_probe_is_repeated_until_it_passes(activate: ModuleType, paths: Any, tmp_path: Path) -> None:  # noqa: ANN401
    second_time = f"mkdir {tmp_path}/first 2>/dev/null && exit 1 || exit 0"
    probe = {"argv": ["/bin/sh", "-c", second_time], "timeout_s": 30}
    assert activate.prove(activate.load(paths, lay_down(paths, {}, probe=probe))) is None


def test_a_probe_that_hangs_is_ended_with_all_its_children(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
) -> None:
    probe = {"argv": ["/bin/sh", "-c", "echo waiting; sleep 1000 & sleep 1000"], "timeout_s": 0.3}
    begun = time.monotonic()
    why = activate.prove(activate.load(paths, lay_down(paths, {}, probe=probe)))
    assert "waiting" in why
    assert time.monotonic() - begun < 20


def test_a_probe_that_does_not_exist_is_a_reason(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    probe = {"argv": ["/nowhere/probe"], "timeout_s": 0.1}
    assert "No such file" in activate.prove(activate.load(paths, lay_down(paths, {}, probe=probe)))


def test_the_sweep_keeps_what_is_linked_named_or_young(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    names = [lay_down(paths, {"config/a": f"{n}"}) for n in range(5)]
    for age, name in enumerate(reversed(names)):
        os.utime(paths.slots / name, (1000 - age, 1000 - age))
    effects(activate).point(paths.slots, "current", names[0])
    effects(activate).point(paths.slots, "previous", names[1])
    quoted, unknown, young = ("cd" * 32, "ef" * 32, "12" * 32)
    lay_down(paths, {"units/x.container": f"Volume=/opt/tenantfleet/store/{quoted}/plugin"})
    for tree in (quoted, unknown, young):
        (paths.store / tree).mkdir()
    for tree in (TREE, quoted, unknown):
        os.utime(paths.store / tree, (1000, 1000))
    activate.sweep(paths, keep=2)
    left = {path.name for path in paths.slots.iterdir() if not path.is_symlink()}
    assert names[0] in left
    assert names[1] in left
    assert names[4] in left
    assert len(left) == 4
    assert {path.name for path in paths.store.iterdir()} == {".lock", TREE, quoted, young}


def test_a_manifest_goes_with_the_trees_that_it_names(activate: ModuleType, paths: Any) -> None:  # noqa: ANN401
    gone = "cd" * 32
    manifests = paths.verdict.parents[1] / "manifests"
    manifests.mkdir(parents=True)
    lay_down(paths, {})
    for name, tree, age in (("11", TREE, 9e5), ("22", gone, 9e5), ("33", gone, 60)):
        unit = {"kind": "tree", "sha256": tree, "size": 1}
        image = {"kind": "oci", "sha256": "ef" * 32, "size": 1}
        (manifests / f"{name * 32}.json").write_text(json.dumps({"units": {"echo": unit, "openclaw": image}}))
        os.utime(manifests / f"{name * 32}.json", (time.time() - age,) * 2)
    activate.sweep(paths, keep=2)
    assert sorted(path.name[:2] for path in manifests.iterdir()) == ["11", "33"]


def test_an_image_goes_with_the_last_activation_that_names_it(
    activate: ModuleType,
    paths: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed: list[tuple[str, ...]] = []
    monkeypatch.setattr(sys.modules[activate.sweep.__module__], "run", lambda *argv: removed.append(argv))
    images = [f"registry.test:5000/tenantfleet/openclaw@sha256:{digit * 64}" for digit in "123"]
    first = lay_down(paths, {"units/a.container": f"Image={images[0]}\n"})
    second = lay_down(paths, {"config/compose.yml": f'image: "{images[1]}"\n'}, image=images[2])
    for slot in (first, second):
        os.utime(paths.slots / slot, (1000, 1000))
    effects(activate).point(paths.slots, "current", lay_down(paths, {}, image=images[2]))
    activate.sweep(paths, keep=0)
    assert [argv[-1] for argv in removed] == images[:2]


def test_a_machine_that_never_had_a_unit_has_nothing_to_sweep(activate: ModuleType, tmp_path: Path) -> None:
    activate.sweep(activate.Paths("echo", tmp_path), keep=2)
