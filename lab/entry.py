"""Running a command inside a host from outside, as `lab exec` does."""

import os
import sys

from lab.cgroup import Group
from lab.host import Host
from lab.kernel import give_up_powers
from lab.state import LabError

_SPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(host: Host, argv: list[str]) -> int:
    """Run it as the host's root with this process's standard streams; return its exit status.

    Raises LabError when the host is off.
    """
    init = host.init_pid()
    if init is None:
        raise LabError(f"{host.name} is off")
    spaces = [os.open(f"/proc/{init}/ns/{space}", os.O_RDONLY) for space in _SPACES]
    group = Group(host.inside.path / "lab-exec")
    group.create()
    group.enter()
    for space in spaces:
        os.setns(space)
        os.close(space)
    pid = os.fork()  # only a child is in the pid namespace
    if pid == 0:
        give_up_powers()  # who enters from outside must not bring the machine's powers along
        os.chdir("/root")
        try:
            environment = {"PATH": _PATH, "HOME": "/root", "TERM": os.environ.get("TERM", "dumb")}
            os.execvpe(argv[0], argv, environment)  # noqa: S606 (no shell, by intent)
        except OSError as problem:
            sys.stderr.write(f"{argv[0]}: {problem.strerror}\n")
            sys.stderr.flush()
        os._exit(127)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) % 256
