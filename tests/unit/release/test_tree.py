import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tenantfleet.release.errors import ReleaseError
from tenantfleet.release.tree import TreeSource, build_tree

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one small unit, and the project's own uv."""
    unit = tmp_path / "root/tenant/link"
    (unit / "link/__pycache__").mkdir(parents=True)
    (unit / "link/tests").mkdir()
    (unit / "tests").mkdir()
    (unit / "__main__.py").write_text("import greeting, link\nprint(greeting.TEXT, link.WHOM)\n")
    (unit / "link/__init__.py").write_text("WHOM = 'world'\n")
    (unit / "link/__pycache__/__init__.cpython-313.pyc").write_bytes(b"stale")
    (unit / "link/tests/test_link.py").write_text("")
    (unit / "tests/test_unit.py").write_text("")
    (unit / "README.md").write_text("not for hosts\n")
    uv = tmp_path / "root/.cache/uv/bin"
    uv.mkdir(parents=True)
    (uv / "uv").symlink_to(REPOSITORY / ".cache/uv/bin/uv")
    return tmp_path / "root"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "greeting-1.0-py3-none-any.whl"
    info = "greeting-1.0.dist-info"
    files = {
        "greeting.py": "TEXT = 'hello'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
        f"{info}/licenses/LICENSE": "free\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def lock(root: Path, wheel: Path, *, digest: str) -> None:
    line = f"greeting @ file://{wheel} --hash=sha256:{digest}\n"
    (root / "tenant/link/requirements.lock").write_text(line)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def members(archive: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return tar.getmembers()


def test_two_builds_give_the_same_bytes_whatever_times_and_modes_the_files_have(
    root: Path, wheel: Path, tmp_path: Path
) -> None:
    lock(root, wheel, digest=sha256(wheel))
    first = build_tree(TreeSource(root, "link"), tmp_path / "first")
    main = root / "tenant/link/__main__.py"
    os.utime(main, (1, 1))
    main.chmod(0o600)
    second = build_tree(TreeSource(root, "link"), tmp_path / "second")
    assert first == second
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert first.sha256 == sha256(tmp_path / "first")


def test_the_archive_holds_the_unit_and_its_wheels_and_nothing_of_this_machine(
    root: Path, wheel: Path, tmp_path: Path
) -> None:
    lock(root, wheel, digest=sha256(wheel))
    build_tree(TreeSource(root, "link"), tmp_path / "tree")
    found = members(tmp_path / "tree")
    assert [member.name for member in found] == [
        "__main__.py",
        "greeting-1.0.dist-info",
        "greeting-1.0.dist-info/METADATA",
        "greeting-1.0.dist-info/entry_points.txt",
        "greeting-1.0.dist-info/licenses",
        "greeting-1.0.dist-info/licenses/LICENSE",
        "greeting.py",
        "link",
        "link/__init__.py",
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in found} == {(0, 0, 0, "root", "root")}
    assert {m.mode for m in found if m.isdir()} == {0o755}
    assert {m.mode for m in found if m.isfile()} == {0o644}


def test_the_gzip_header_names_neither_file_nor_time(root: Path, tmp_path: Path) -> None:
    build_tree(TreeSource(root, "link"), tmp_path / "tree")
    header = (tmp_path / "tree").read_bytes()[:10]
    assert header[3] == 0  # no optional fields
    assert header[4:8] == bytes(4)


def test_an_unpacked_tree_runs_isolated(root: Path, wheel: Path, tmp_path: Path) -> None:
    lock(root, wheel, digest=sha256(wheel))
    build_tree(TreeSource(root, "link"), tmp_path / "tree")
    with tarfile.open(tmp_path / "tree") as tar:
        tar.extractall(tmp_path / "code", filter="data")
    argv = [sys.executable, "-I", "-B", str(tmp_path / "code")]
    assert subprocess.check_output(argv, text=True) == "hello world\n"


def test_a_wheel_with_another_hash_is_refused(root: Path, wheel: Path, tmp_path: Path) -> None:
    lock(root, wheel, digest="0" * 64)
    with pytest.raises(ReleaseError, match="Hash mismatch"):
        build_tree(TreeSource(root, "link"), tmp_path / "tree")


def test_a_requirement_without_a_hash_is_refused(root: Path, wheel: Path, tmp_path: Path) -> None:
    (root / "tenant/link/requirements.lock").write_text(f"greeting @ file://{wheel}\n")
    with pytest.raises(ReleaseError, match="hash"):
        build_tree(TreeSource(root, "link"), tmp_path / "tree")


def test_requirements_that_were_never_locked_are_refused(root: Path) -> None:
    (root / "tenant/link/requirements.in").write_text("greeting\n")
    with pytest.raises(ReleaseError, match="script/bootstrap --lock"):
        TreeSource(root, "link").fingerprint()


def test_a_unit_without_its_main_program_is_refused(root: Path) -> None:
    (root / "tenant/link/__main__.py").unlink()
    with pytest.raises(ReleaseError, match=r"lacks .*__main__\.py"):
        TreeSource(root, "link").fingerprint()


def test_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "tenant/link/link/shadow").symlink_to("/etc/shadow")
    with pytest.raises(ReleaseError, match="is a link"):
        build_tree(TreeSource(root, "link"), tmp_path / "tree")


def test_a_wheel_that_brings_a_name_of_the_unit_is_refused(root: Path, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("__main__.py", "print('mine')\n")
    lock(root, wheel, digest=sha256(wheel))
    with pytest.raises(ReleaseError, match="unit's own name"):
        build_tree(TreeSource(root, "link"), tmp_path / "tree")


def test_the_fingerprint_follows_content_and_ignores_what_stays_behind(root: Path) -> None:
    source = TreeSource(root, "link")
    before = source.fingerprint()
    (root / "tenant/link/README.md").write_text("changed\n")
    (root / "tenant/link/link/tests/test_more.py").write_text("")
    assert source.fingerprint() == before
    (root / "tenant/link/link/__init__.py").write_text("WHOM = 'all'\n")
    assert source.fingerprint() != before


def test_the_executable_bit_survives_and_counts(root: Path, tmp_path: Path) -> None:
    source = TreeSource(root, "link")
    before = source.fingerprint()
    (root / "tenant/link/link/__init__.py").chmod(0o755)
    assert source.fingerprint() != before
    build_tree(source, tmp_path / "tree")
    assert {m.name: m.mode for m in members(tmp_path / "tree")}["link/__init__.py"] == 0o755
