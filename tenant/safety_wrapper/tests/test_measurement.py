import os
import shutil
from pathlib import Path

import pytest
from safety_wrapper.measurement import (
    LARGEST_FILE_BYTES,
    UnitFacts,
    UnmeasuredError,
    check_ownership,
    hash_plugin,
    measure,
    mounted_source,
)
from safety_wrapper.unit import parse_properties

MOUNT = Path("/opt/tenantfleet/plugin")
STORE = Path("/opt/tenantfleet/store")
STRANGER = 2101


def start(*words: str) -> str:
    return f"{{ path=/usr/bin/podman ; argv[]=/usr/bin/podman run {' '.join(words)} image ; pid=0 }}"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "digest" / "plugin"
    folder.mkdir(parents=True)
    (folder / "index.js").write_text("x")
    (folder / "part").mkdir()
    (folder / "part" / "b.js").write_text("y")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("-v", f"{STORE}/d/plugin:{MOUNT}:ro"),
        ("-v", f"{STORE}/d/plugin:{MOUNT}:ro,noexec"),
        (f"--volume={STORE}/d/plugin:{MOUNT}:ro",),
    ],
)
def test_the_mounted_directory_is_read_from_the_units_command(words: tuple[str, ...]) -> None:
    assert mounted_source(start(*words), mount=MOUNT, store=STORE) == STORE / "d/plugin"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-v", f"{STORE}/d/plugin:{MOUNT}"),
        ("-v", f"{STORE}/d/plugin:{MOUNT}:rw"),
        ("-v", f"{STORE}/d/plugin:{MOUNT}/x:ro"),
        ("-v", f"{STORE}/a:{MOUNT}:ro", "-v", f"{STORE}/b:{MOUNT}:ro"),
        ("-v", f"{STORE}/a:{MOUNT}:ro", "--tmpfs", f"{MOUNT}/x"),
        ("-v", f"{STORE}/../evil:{MOUNT}:ro"),
        ("-v", f"{STORE}:{MOUNT}:ro"),
        ("-v", f"/opt/tenantfleet/safety_wrapper/current/code/plugin:{MOUNT}:ro"),
        ("-v", f"/var/lib/openclaw/x:{MOUNT}:ro"),
    ],
)
def test_any_other_mount_is_not_vouched_for(words: tuple[str, ...]) -> None:
    with pytest.raises(UnmeasuredError):
        mounted_source(start(*words), mount=MOUNT, store=STORE)


def test_the_digest_depends_on_every_name_mode_and_content(plugin: Path) -> None:
    digests = {hash_plugin(plugin)}
    (plugin / "index.js").write_text("z")
    digests.add(hash_plugin(plugin))
    (plugin / "index.js").chmod(0o755)
    digests.add(hash_plugin(plugin))
    (plugin / "index.js").rename(plugin / "index.mjs")
    digests.add(hash_plugin(plugin))
    (plugin / "more.js").write_text("")
    digests.add(hash_plugin(plugin))
    assert len(digests) == 5


def test_the_digest_does_not_depend_on_place_or_time(plugin: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(plugin, copy)
    os.utime(copy / "index.js", (1, 1))
    assert hash_plugin(copy) == hash_plugin(plugin)


def test_the_digest_is_the_contracts_formula(plugin: Path) -> None:
    # printf 'index.js\\000'; printf '0644\\000'; printf '%s\\n' "$(printf x | sha256sum | cut -c-64)"; …
    assert hash_plugin(plugin) == "c26354ed7e9ccafd5e3f19ac7f2a021d82c63f6d220c7870b85761ea52a8666e"


def test_what_is_not_a_plain_tree_is_not_hashed(plugin: Path, tmp_path: Path) -> None:
    (plugin / "link").symlink_to("index.js")
    with pytest.raises(UnmeasuredError, match="neither"):
        hash_plugin(plugin)
    (plugin / "link").unlink()
    os.mkfifo(plugin / "pipe")
    with pytest.raises(UnmeasuredError, match="neither"):
        hash_plugin(plugin)
    (plugin / "pipe").unlink()
    (plugin / "big").write_bytes(b"0" * (LARGEST_FILE_BYTES + 1))
    with pytest.raises(UnmeasuredError, match="larger"):
        hash_plugin(plugin)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(UnmeasuredError):
            hash_plugin(folder)


def test_a_tree_that_only_root_can_change_is_measured(plugin: Path, tmp_path: Path) -> None:
    facts = UnitFacts(start("-v", f"{plugin}:{MOUNT}:ro"), "1", "/x")
    assert measure(facts, mount=MOUNT, store=tmp_path / "store") == hash_plugin(plugin)


@pytest.mark.parametrize("part", [".", "index.js", "part", "part/b.js", ".."])
def test_a_part_that_another_user_owns_or_may_write_is_refused(plugin: Path, part: str) -> None:
    target = plugin / part
    os.chown(target, STRANGER, 0)
    with pytest.raises(UnmeasuredError, match="belongs"):
        check_ownership(plugin)
    os.chown(target, 0, 0)
    target.chmod(target.stat().st_mode | 0o020)
    with pytest.raises(UnmeasuredError, match="writable"):
        check_ownership(plugin)


def test_a_link_on_the_way_is_refused(plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(plugin.parent)
    with pytest.raises(UnmeasuredError, match="link"):
        check_ownership(tmp_path / "alias" / "plugin")


def test_systemds_properties_are_read_and_a_missing_one_is_an_error() -> None:
    text = "ExecStart={ a }\nExecStart={ b }\nInvocationID=i\nControlGroup=/system.slice/o\n"
    facts = parse_properties(text)
    assert facts.exec_start == "{ a }\n{ b }", "every command of the unit counts"
    assert facts.control_group == "/system.slice/o"
    with pytest.raises(UnmeasuredError, match="ControlGroup"):
        parse_properties("ExecStart=\nInvocationID=\n")


def test_a_daemon_reload_does_not_look_like_another_command() -> None:
    def told(start_time: str, pid: int) -> UnitFacts:
        command = "{ path=/usr/bin/podman ; argv[]=/usr/bin/podman run image ; ignore_errors=no"
        run = f"start_time=[{start_time}] ; stop_time=[n/a] ; pid={pid} ; code=(null) ; status=0/0 }}"
        rest = "InvocationID=i\nControlGroup=/system.slice/o\n"
        return parse_properties(f"ExecStart={command} ; {run}\n{rest}")

    assert told("Mon 2026-11-23 16:00:00 UTC", 4581) == told("n/a", 0)
