"""Which mirrors a machine uses, whichever way its apt sources are written."""

from pathlib import Path

import pytest

from tenantfleet.release.mirrors import Mirrors, machine_mirrors

MIRRORS = Mirrors("http://mirror.test/debian", "https://mirror.test/debian-security")
ONE_LINE = """
# deb http://off.test/debian trixie main
deb-src http://sources.test/debian trixie main
deb [arch=amd64 signed-by=/k] http://mirror.test/debian/ trixie main non-free-firmware # near
deb https://mirror.test/debian-security trixie-security main
"""
DEB822 = """
Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: trixie
Components: main

Types: deb deb-src
# a comment in the middle
URIs: http://mirror.test/debian/
 http://second.test/debian
Suites: trixie trixie-updates
Components: main

types: deb
uris: https://mirror.test/debian-security
suites: trixie-security
components: main
"""
CLOUD_IMAGE = """
Types: deb deb-src
URIs: mirror+file://{folder}/debian.list
Suites: trixie trixie-updates trixie-backports
Components: main

Types: deb deb-src
URIs: mirror+file:{folder}/security.list
Suites: trixie-security
Components: main
"""


def etc_apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, content in files.items():
        stem, _, kind = name.rpartition("_")
        (folder / "sources.list.d" / f"{stem}.{kind}").write_text(content)
    return folder


def test_one_line_sources(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    assert machine_mirrors(tmp_path) == MIRRORS


def test_deb822_sources(tmp_path: Path) -> None:
    assert machine_mirrors(etc_apt(tmp_path, debian_sources=DEB822)) == MIRRORS


def test_lists_of_mirrors_as_in_debians_cloud_images(tmp_path: Path) -> None:
    (tmp_path / "debian.list").write_text("http://mirror.test/debian\tpriority:1\nhttp://b.test/debian\n")
    (tmp_path / "security.list").write_text("https://mirror.test/debian-security\n")
    apt = etc_apt(tmp_path, debian_sources=CLOUD_IMAGE.format(folder=tmp_path))
    assert machine_mirrors(apt) == MIRRORS


@pytest.mark.parametrize(
    "line",
    [
        "deb https://vendor.test/linux/debian trixie stable",  # a vendor's, whose path ends alike
        "deb https://vendor.test/tool stable main",
        "deb cdrom:[Debian]/debian trixie main",
        "deb mirror+file:/no/such/file trixie main",
        "deb",
        "",
    ],
)
def test_without_a_mirror_of_its_own_the_machine_gets_debians(tmp_path: Path, line: str) -> None:
    assert machine_mirrors(etc_apt(tmp_path, a_list=line)) == Mirrors()
    assert Mirrors().archive == "http://deb.debian.org/debian"
