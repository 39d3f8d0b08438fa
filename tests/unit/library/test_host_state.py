import ast
import errno
import grp
import importlib.util
import json
import os
import pwd
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

LIBRARY = Path(__file__).parents[3] / "library"
SCHEMA = json.loads((LIBRARY / "host_state.schema.json").read_text())


def load() -> Any:  # noqa: ANN401 - the module is loaded from a file
    spec = importlib.util.spec_from_file_location("host_state", LIBRARY / "host_state.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_state"] = module
    spec.loader.exec_module(module)
    return module


hs = load()
ME = pwd.getpwuid(os.getuid()).pw_name
MINE = grp.getgrgid(os.getgid()).gr_name


def respond(document: dict[str, Any], *, check: bool = False, diff: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = hs.respond(
        {"version": 1, **document, "_ansible_check_mode": check, "_ansible_diff": diff}
    )
    return answer


def refusal(document: dict[str, Any]) -> str:
    """What is wrong with a document that is only read, as its paths are the machine's own."""
    with pytest.raises(hs.Refused) as refused:
        hs.document_of({"version": 1, **document})
    return str(refused.value)


def entry(path: Path | str, mode: str = "0640", **more: str) -> dict[str, str]:
    return {"path": str(path), "owner": ME, "group": MINE, "mode": mode, **more}


def did(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(resource["kind"], resource["action"]) for resource in result["resources"]]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def nft(*lines: str) -> dict[str, Any]:
    return {"files": [entry("/etc/tenantfleet/nftables.d/own.nft", content="\n".join(lines))]}


# --- the document ---

FILE = entry("/a/b", content="x")
UNIT = {"name": "a.service", "state": "started"}
BAD_SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"version": 2}, "version: must be 1"),
    ({"version": True}, "version: must be 1"),
    ({"version": "1"}, "version: must be 1"),
    ({"commands": ["reboot"]}, "unknown key 'commands'"),
    ({"files": {"path": "/a"}}, "host_state.files: must be a list"),
    ({"files": None}, "host_state.files: must be a list"),
    ({"files": ["/a"]}, "files[0]: must be a dict"),
    ({"files": [{**FILE, "ower": "root"}]}, "files[0]: unknown key 'ower'"),
    ({"files": [{key: FILE[key] for key in FILE if key != "mode"}]}, "files[0]: mode is missing"),
    ({"files": [{**FILE, "mode": 420}]}, "mode: must be four octal digits in quotes"),
    ({"files": [{**FILE, "mode": 1777}]}, "mode: must be four octal digits in quotes"),
    ({"files": [{**FILE, "mode": "644"}]}, "mode: must be four octal digits"),
    ({"files": [{**FILE, "mode": "0648"}]}, "mode: must be four octal digits"),
    ({"files": [{**FILE, "content": {"a": 1}}]}, "content: must be UTF-8 text"),
    ({"files": [{**FILE, "path": "a/b"}]}, "path: must be a normal absolute path, not 'a/b'"),
    ({"files": [{**FILE, "path": "/a/../b"}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "path": "/a/./b"}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "path": "/a/"}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "path": "//a"}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "path": "/"}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "path": "/a\nb"}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "path": "/" + "a" * 201}]}, "must be a normal absolute path"),
    ({"files": [{**FILE, "owner": "root:root"}]}, "owner: must be an account's name"),
    ({"files": [{**FILE, "group": 0}]}, "group: must be an account's name"),
    ({"absent": ["etc"]}, "absent[0]: must be a normal absolute path"),
    ({"links": [{"path": "/a", "target": ""}]}, "target: must be a link's target"),
    ({"units": [{**UNIT, "name": "a"}]}, "name: must be a unit's name with its suffix"),
    ({"units": [{**UNIT, "name": "--now.service x"}]}, "name: must be a unit's name with its suffix"),
    ({"units": [{**UNIT, "state": "restarted"}]}, "state: must be started or stopped"),
    ({"units": [{**UNIT, "enabled": "yes"}]}, "enabled: must be true or false"),
    ({"units": [{**UNIT, "restart_on": "/a"}]}, "restart_on: must be a list"),
    ({"units": [{**UNIT, "restart_on": ["a"]}]}, "restart_on[0]: must be a normal absolute path"),
]


@pytest.mark.parametrize(("document", "words"), BAD_SHAPES)
def test_a_document_of_wrong_shape_is_refused_by_module_and_schema(
    document: dict[str, Any], words: str
) -> None:
    assert words in refusal(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, **document}, SCHEMA)


def test_a_document_without_a_version_is_refused() -> None:
    result = hs.respond({"_ansible_check_mode": False, "_ansible_diff": False})
    assert result["msg"] == "host_state: version is missing"


def test_content_that_is_no_utf8_is_refused() -> None:
    assert "content: must be UTF-8 text" in refusal({"files": [{**FILE, "content": "\ud800"}]})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"files": [FILE, FILE]}, "named twice: /a/b"),
        ({"files": [FILE], "absent": ["/a/b"]}, "named twice: /a/b"),
        ({"files": [FILE], "directories": [entry("/a/b")]}, "named twice: /a/b"),
        ({"units": [UNIT, UNIT]}, "named twice: a.service"),
        ({"files": [FILE], "absent": ["/a"]}, "/a/b: lies below /a, which is not to be a directory"),
        ({"files": [FILE, entry("/a/b/c", content="")]}, "/a/b/c: lies below /a/b"),
        ({"files": [FILE], "links": [{"path": "/a", "target": "b"}]}, "/a/b: lies below /a"),
        ({"files": [entry("/etc/sysusers.d/x", content="")]}, "a file of that name is not read there"),
        ({"files": [entry("/etc/sysctl.d/x.cnf", content="")]}, "a file of that name is not read there"),
        ({"files": [entry("/etc/sudoers.d/x.conf", content="")]}, "a file of that name is not read there"),
    ],
)
def test_a_document_that_contradicts_itself_or_debian_is_refused(
    document: dict[str, Any], words: str
) -> None:
    assert words in refusal(document)


def test_nothing_is_done_before_the_whole_document_is_judged(tmp_path: Path) -> None:
    files = [entry(tmp_path / "good", content="x"), entry("relative", content="x")]
    assert respond({"files": files})["failed"]
    assert not (tmp_path / "good").exists()


def test_a_good_document_satisfies_module_and_schema() -> None:
    document = {
        "version": 1,
        "absent": ["/a/.hidden", "/a/..twodots"],
        "directories": [entry("/d", "1777")],
        "files": [FILE],
        "links": [{"path": "/l", "target": "../x"}],
        "units": [{**UNIT, "enabled": False, "restart_on": ["/a/b"], "reload_on": []}],
    }
    jsonschema.validate(document, SCHEMA)
    parsed = hs.document_of(document)
    assert parsed.files == (hs.File("/a/b", ME, MINE, 0o640, b"x"),)
    assert parsed.units == (hs.Unit("a.service", "started", False, ("/a/b",), ()),)  # noqa: FBT003 - a field


@given(st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5))
def test_no_content_ends_the_literal_that_carries_the_arguments(value: object) -> None:
    source = (LIBRARY / "host_state.py").read_text()
    assert source.count("<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>") == 1
    arguments = {
        "content": value,
        "tricks": ['"""', "'''", '\\"""', '"', "\\", "", "\\\\", "<<X>>", "\U0001f600"],
    }
    line = next(line for line in source.splitlines() if line.startswith("ARGUMENTS = "))
    sent = line.replace("<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>", json.dumps(arguments))
    assert json.loads(ast.literal_eval(sent.removeprefix("ARGUMENTS = "))) == arguments


# --- packet filter rules ---


@pytest.mark.parametrize(
    "lines",
    [
        ("table inet own {", "}"),
        (
            "# flush ruleset would be wrong",
            "table inet own",
            "delete table inet own",
            "table inet own {",
            "}",
        ),
        (
            "define x = { 22, 80 }",
            "add table inet own; flush table inet own",
            "table inet own { chain c { } }",
        ),
        ('table inet own { chain c { comment "} flush ruleset"; } } # }',),
        ("table inet own { }", "table netdev own { }"),
    ],
)
def test_rules_that_stay_in_their_own_table_are_accepted(lines: tuple[str, ...]) -> None:
    assert hs.document_of({"version": 1, **nft(*lines)}).files


@pytest.mark.parametrize(
    "lines",
    [
        ("flush ruleset", "table inet own { }"),
        ("table inet own { }; flush   ruleset inet",),
        ("table inet own {", "}", "flush", "table inet netavark"),
        ('table inet own { chain c { comment "{"; } }', "flush ruleset"),
        ("table inet own { }", "delete table inet netavark"),
        ("table inet own { }", "add rule inet filter input accept"),
        ('include "/etc/other.nft"', "table inet own { }"),
        ("table inet own { } } flush ruleset",),
        ("# nothing",),
    ],
)
def test_rules_that_touch_anything_else_are_refused(lines: tuple[str, ...]) -> None:
    assert re.search("may only name its own table|must name one table", refusal(nft(*lines)))


# --- files ---


def test_a_file_is_created_once_with_content_owner_and_mode(tmp_path: Path) -> None:
    document = {"files": [entry(tmp_path / "f", "2750", content="é\n")]}
    assert did(respond(document)) == [("file", "created")]
    assert (tmp_path / "f").read_text() == "é\n"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o2750
    assert respond(document) == {"changed": False, "resources": [], "diff": [], "warnings": []}
    assert names_in(tmp_path) == ["f"]


@pytest.mark.parametrize(
    "damage", [lambda f: f.write_text("y"), lambda f: f.chmod(0o600), lambda f: f.write_text("xx")]
)
def test_a_file_that_differs_is_replaced_whole(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    document = {"files": [entry(tmp_path / "f", content="x")]}
    respond(document)
    damage(tmp_path / "f")
    with (tmp_path / "f").open() as reader:
        before = (tmp_path / "f").read_text()
        assert did(respond(document)) == [("file", "updated")]
        assert reader.read() == before
    assert (tmp_path / "f").read_text() == "x"
    assert not respond(document)["changed"]


def test_check_mode_lists_the_same_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    document = {
        "absent": [str(tmp_path / "old")],
        "directories": [entry(tmp_path / "d" / "e"), entry(tmp_path / "d")],
        "files": [entry(tmp_path / "d" / "e" / "f", content="x")],
        "links": [{"path": str(tmp_path / "d" / "l"), "target": "e"}],
    }
    expected = respond(document, check=True)
    assert names_in(tmp_path) == ["old"]
    assert respond(document)["resources"] == expected["resources"]
    assert names_in(tmp_path) == ["d"]
    assert not respond(document, check=True)["changed"]


def test_a_link_at_a_files_place_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("victim")
    (tmp_path / "f").symlink_to("victim")
    assert did(respond({"files": [entry(tmp_path / "f", content="x")]})) == [("file", "updated")]
    assert (tmp_path / "victim").read_text() == "victim"
    assert not (tmp_path / "f").is_symlink()


def test_a_file_never_replaces_a_directory_nor_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "p")
    for name in ("d", "p"):
        result = respond({"files": [entry(tmp_path / name, content="x")]})
        assert "it is left alone" in result["msg"]
        assert not result["changed"]


def test_a_directory_never_replaces_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "d").symlink_to("real")
    assert "there is already a link" in respond({"directories": [entry(tmp_path / "d")]})["msg"]


def test_no_link_is_followed_where_others_than_root_may_write(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    tmp_path.chmod(0o777)
    (tmp_path / "way").symlink_to("elsewhere")
    result = respond({"files": [entry(tmp_path / "way" / "f", content="x")]})
    assert "a link that not only root can make" in result["msg"]
    assert not (tmp_path / "elsewhere" / "f").exists()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    result = respond({"files": [entry(tmp_path / "no" / "f", content="x")]})
    assert result["failed"]
    assert f"{tmp_path}/no/f" in result["msg"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")

    def disk_full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", disk_full)
    result = respond({"files": [entry(tmp_path / "f", content="x")]})
    assert "No space left on device" in result["msg"]
    assert f"{tmp_path}/f" in result["msg"]
    assert (tmp_path / "f").read_text() == "old"
    assert names_in(tmp_path) == ["f"]


def test_what_a_killed_call_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".f.host_state~").write_text("half")
    respond({"files": [entry(tmp_path / "f", content="x")]})
    assert names_in(tmp_path) == ["f"]


def test_an_unknown_owner_is_refused_but_a_check_goes_on(tmp_path: Path) -> None:
    document = {"files": [{**entry(tmp_path / "f", content="x"), "owner": "nobody-of-that-name"}]}
    assert "there is no user or group nobody-of-that-name" in respond(document)["msg"]
    assert not (tmp_path / "f").exists()
    result = respond(document, check=True)
    assert did(result) == [("file", "created")]
    assert "nobody-of-that-name" in result["warnings"][0]


def test_the_diff_shows_content_and_mode_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old\n")
    (tmp_path / "f").chmod(0o644)
    content, mode = respond({"files": [entry(tmp_path / "f", content="new\n")]}, diff=True)["diff"]
    assert (content["before"], content["after"]) == ("old\n", "new\n")
    assert (mode["before"]["mode"], mode["after"]["mode"]) == ("0644", "0640")


def test_the_diff_withholds_an_old_file_that_is_closed_to_others_and_not_ours(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("secret")
    (tmp_path / "f").chmod(0o600)
    result = respond({"files": [entry(tmp_path / "f", content="new")]}, diff=True)
    assert "secret" not in json.dumps(result)
    absent = respond({"absent": [str(tmp_path / "f")]}, diff=True)
    assert "new" not in json.dumps(absent["diff"])


# --- directories, links, absent ---


def test_directories_are_made_parents_first_and_mended(tmp_path: Path) -> None:
    document = {"directories": [entry(tmp_path / "a" / "b", "0750"), entry(tmp_path / "a", "2711")]}
    assert did(respond(document)) == [("directory", "created")] * 2
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o2711
    (tmp_path / "a" / "b").chmod(0o777)
    assert did(respond(document)) == [("directory", "updated")]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o750
    assert not respond(document)["changed"]


def test_a_link_is_made_turned_and_never_replaces_a_file(tmp_path: Path) -> None:
    link = tmp_path / "l"
    assert did(respond({"links": [{"path": str(link), "target": "one"}]})) == [("link", "created")]
    assert did(respond({"links": [{"path": str(link), "target": "two"}]})) == [("link", "updated")]
    assert link.readlink() == Path("two")
    assert not respond({"links": [{"path": str(link), "target": "two"}]})["changed"]
    link.unlink()
    link.write_text("precious")
    assert "already a file" in respond({"links": [{"path": str(link), "target": "two"}]})["msg"]
    assert link.read_text() == "precious"


@pytest.mark.parametrize("check", [True, False])
def test_absent_removes_files_links_and_empty_directories_only(tmp_path: Path, *, check: bool) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "f").touch()
    (tmp_path / "d" / "l").symlink_to("/")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    result = respond({"absent": [str(tmp_path / "full")]}, check=check)
    assert "is not empty: x" in result["msg"]
    names = [str(tmp_path / name) for name in ("d", "d/e", "d/f", "d/l", "never/was")]
    assert len(respond({"absent": names}, check=check)["resources"]) == 4
    assert (tmp_path / "d").exists() == check
    assert respond({"absent": names}, check=check)["changed"] == check


# --- what Debian's tools read ---


def test_plain_directory_lines_of_tmpfiles_are_compared() -> None:
    lines = ["# c", "d /run/a", "d /run/b/ 0750 one two 10d -", "D /run/c 750 - two", "d /run/d - - - -"]
    skipped = [
        "d /run/%i 0755",
        "d /run/e :0755 one two",
        "f /run/f 0644",
        "d! /run/g",
        "L /run/h - - - - /x",
    ]
    file = hs.File("/etc/tmpfiles.d/x.conf", "root", "root", 0o644, "\n".join(lines + skipped).encode())
    assert list(hs.declared_directories(file)) == [
        hs.Directory("/run/a", "root", "root", 0o755),
        hs.Directory("/run/b", "one", "two", 0o750),
        hs.Directory("/run/c", "root", "two", 0o750),
        hs.Directory("/run/d", "root", "root", 0o755),
    ]


def test_settings_that_must_hold_are_read_as_systemd_sysctl_reads_them() -> None:
    lines = ["; c", "net.ipv4.ip_forward=1", " kernel/core_pattern = |/bin/false  x "]
    lines += ["net.ipv4.conf.eth0/100.rp_filter = 2", "-net.core.bpf_jit_harden = 2"]
    lines += ["net.ipv4.conf.*.rp_filter = 1", "-net.ipv4.conf.all"]
    text = "\n".join(lines)
    file = hs.File("/etc/sysctl.d/x.conf", "root", "root", 0o644, text.encode())
    assert hs.settings_of(file) == {
        "net/ipv4/ip_forward": "1",
        "kernel/core_pattern": "|/bin/false x",
        "net/ipv4/conf/eth0.100/rp_filter": "2",
    }


@pytest.mark.parametrize(
    ("line", "gap"),
    [
        ("u root 0 - /root", False),
        ("u! root -", False),
        ("g root 0", False),
        ("u nobody-of-that-name 4711", True),
        ("g nobody-of-that-name -", True),
        ("m root nobody-of-that-name", True),
        ("r - 500-900", False),
    ],
)
def test_an_account_that_is_missing_is_found(line: str, *, gap: bool) -> None:
    assert hs.account_gap(line, "x.conf") is gap


@pytest.mark.parametrize(
    "line", ["u root 4711", "g root 4711", "u root 0 - /elsewhere", "u root - - - /bin/none"]
)
def test_an_account_that_exists_otherwise_is_refused(line: str) -> None:
    with pytest.raises(hs.Refused, match="root exists with"):
        hs.account_gap(line, "x.conf")


# --- units ---

RUNNING = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
    "WantedBy": "multi-user.target",
    "RequiredBy": "",
    "ActiveEnterTimestampMonotonic": "100000000",
    "StateChangeTimestampMonotonic": "200000000",
}
GONE = {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": "", "WantedBy": ""}
WRITTEN = {"/before": 50.0, "/between": 150.0, "/after": 250.0}


@pytest.mark.parametrize(
    ("unit", "status", "actions"),
    [
        ({}, {}, []),
        ({"enabled": True}, {}, []),
        ({"enabled": False}, {}, ["disabled"]),
        ({"enabled": True}, {"UnitFileState": "disabled"}, ["enabled"]),
        ({"enabled": True}, GONE, ["enabled", "started"]),
        ({"state": "stopped", "enabled": False}, GONE, []),
        ({"state": "stopped", "enabled": False}, {}, ["stopped", "disabled"]),
        ({"state": "stopped"}, {"ActiveState": "activating"}, ["stopped"]),
        ({"state": "stopped"}, {"ActiveState": "failed"}, []),
        ({}, {"ActiveState": "failed"}, ["started"]),
        ({}, {"ActiveState": "activating"}, ["started"]),
        ({}, {"ActiveState": "reloading"}, []),
        ({}, {"NeedDaemonReload": "yes"}, ["restarted"]),
        ({"enabled": True}, {"UnitFileState": "generated"}, []),
        ({"enabled": True}, {"UnitFileState": "generated", "WantedBy": ""}, ["enabled"]),
        ({"restart_on": ("/before",)}, {}, []),
        ({"restart_on": ("/before", "/between")}, {}, ["restarted"]),
        ({"reload_on": ("/between",)}, {}, []),
        ({"reload_on": ("/after",)}, {}, ["reloaded"]),
        ({"restart_on": ("/after",), "reload_on": ("/after",)}, {}, ["restarted"]),
        ({"restart_on": ("/after",)}, {"ActiveState": "inactive"}, ["started"]),
        ({"state": "stopped", "restart_on": ("/after",)}, {"ActiveState": "inactive"}, []),
    ],
)
def test_what_a_unit_needs_follows_from_its_status(
    unit: dict[str, Any], status: dict[str, str], actions: list[str]
) -> None:
    wanted = hs.Unit(**{"name": "a.service", "state": "started", **unit})
    assert hs.actions_for(wanted, RUNNING | status, WRITTEN.__getitem__) == actions


def test_the_time_of_a_directory_or_of_the_future_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    assert hs.Call(check=False, diff=False).written_at(str(file)) > 0
    assert hs.Call(check=False, diff=False).written_at(str(tmp_path)) == 0
    assert hs.Call(check=False, diff=False).written_at(str(tmp_path / "none")) == 0
    os.utime(file, (4e9, 4e9))
    assert hs.Call(check=False, diff=False).written_at(str(file)) == 0


# --- promises of the module's own size ---


def test_the_module_stays_small_and_light() -> None:
    source = (LIBRARY / "host_state.py").read_text()
    assert len(source.splitlines()) <= 620
    imported = {
        name.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= sys.stdlib_module_names
    assert not imported & {"dataclasses", "pathlib", "tempfile", "inspect", "shutil", "logging"}
