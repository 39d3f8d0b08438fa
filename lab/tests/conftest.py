import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.cgroup import Group
from lab.host import Host
from lab.state import Lab

PROGRAM = Path(sys.executable).with_name("lab")
# Images and the package cache stay from run to run; another folder means a lab of its own.
FOLDER = os.environ.get("LAB_TEST_DIR", "/var/tmp/tenantfleet-lab-test")


@dataclass(frozen=True)
class Bench:
    """A lab under test, used as its users do: by the command line and SSH."""

    lab: Lab

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"LAB_DIR": str(self.lab.root)}

    def run(self, *argv: str, status: int = 0) -> str:
        done = subprocess.run(
            [PROGRAM, *argv], env=self.environment, text=True, capture_output=True, check=False, timeout=900
        )
        if done.returncode != status:
            pytest.fail(
                f"lab {' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.consoles()}"
            )
        return done.stdout

    def ssh(self, name: str, command: str, *, status: int = 0, stdin: str | None = None) -> str:
        argv = ["ssh", "-F", str(self.lab.root / "ssh_config"), name, command]
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False, timeout=600)
        if done.returncode != status:
            pytest.fail(f"{name}: {command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout.strip()

    def host(self, name: str) -> Host:
        return Host.load(self.lab, name)

    def consoles(self) -> str:
        return "\n".join(
            f"{path}: {path.read_text()[-2000:]}" for path in self.lab.hosts.glob("*/console.log")
        )

    def traces(self) -> dict[str, list[str]]:
        """All that a lab has on this machine outside its folder, by kind."""
        return {
            "links": [link.name for link in Path("/sys/class/net").glob(f"*{self.lab.id}*")],
            "tables": [line for line in _lines("nft", "list", "tables") if self.lab.id in line],
            "groups": [str(path) for path in [Group.of(self.lab).path] if path.exists()],
            "processes": [_read(path / "stat") for path in Path("/proc").glob("[0-9]*") if self._ours(path)],
            "mounts": [str(path) for path in Path("/proc").glob("[0-9]*") if self._mounted(path)],
            "loops": [line for line in _lines("losetup", "-a") if str(self.lab.root) in line],
        }

    def _ours(self, process: Path) -> bool:
        if _read(process / "stat").rpartition(")")[2].split()[:1] == ["Z"]:  # dead, until its parent looks
            return False
        return str(self.lab.root) in _read(process / "cmdline") or self.lab.id in _read(process / "cgroup")

    def _mounted(self, process: Path) -> bool:
        return str(self.lab.root) in _read(process / "mountinfo")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # the process has ended
        return ""


def _lines(*argv: str) -> list[str]:
    return subprocess.run(argv, text=True, capture_output=True, check=True).stdout.splitlines()


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    if os.geteuid():
        pytest.fail("lab tests need root")
    bench = Bench(Lab(Path(FOLDER).resolve()))
    bench.run("down")
    bench.run("up")  # a machine that never had a lab builds its images first, which is nobody's case here
    bench.run("down")
    yield bench
    bench.run("down")
    assert not any(bench.traces().values()), bench.traces()


@pytest.fixture(scope="module")
def pair(bench: Bench) -> Bench:
    """Two hosts that run, called a1 and a2."""
    bench.run("up", "a1", "a2")
    return bench
