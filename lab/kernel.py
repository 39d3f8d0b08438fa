"""The kernel calls that Python's standard library lacks: mounts, and giving up powers for good."""

import ctypes
import errno
import os
import signal
from enum import IntFlag
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
_seccomp.seccomp_init.restype = ctypes.c_void_p


class Mount(IntFlag):
    """Flags of mount(2)."""

    NOTHING = 0
    READ_ONLY = 1
    NO_SUID = 2
    NO_DEVICES = 4
    NO_EXEC = 8
    REMOUNT = 32
    BIND = 4096
    RECURSIVE = 16384
    PRIVATE = 1 << 18
    SHARED = 1 << 20


def _must(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(
    source: str | Path, target: str | Path, *, kind: str = "", flags: Mount = Mount.NOTHING, data: str = ""
) -> None:
    """Attach a file system or a folder. Raises OSError with what was mounted where."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _must(result, f"mount {kind or source} on {target}")


def bind(source: Path, target: Path, *, recursive: bool = False) -> None:
    mount(source, target, flags=Mount.BIND | (Mount.RECURSIVE if recursive else Mount.NOTHING))


def make_root(root: Path) -> None:
    """Make `root`, a mount point, the root of this mount namespace and forget the machine's tree."""
    os.chdir(root)
    _must(_libc.pivot_root(b".", b"."), "pivot_root")
    lazily = 2
    _must(_libc.umount2(b".", lazily), "umount")  # the machine's tree, now stacked below ours
    os.chdir("/")


def die_with_parent() -> None:
    set_parent_death_signal = 1
    _must(_libc.prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0), "prctl")


# Root in a host is root, but for what would reach past it into the machine (linux/capability.h).
_WITHHELD_CAPABILITIES = {
    "SYS_MODULE": 16,
    "SYS_RAWIO": 17,
    "SYS_TIME": 25,
    "MAC_OVERRIDE": 32,
    "MAC_ADMIN": 33,
    "SYSLOG": 34,
    "WAKE_ALARM": 35,
    "BLOCK_SUSPEND": 36,
}
_REFUSED_CALLS = (
    "swapon",
    "swapoff",
    "acct",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
)
_CAP_SYS_RESOURCE = 24
_RLIMIT_MEMLOCK = 8
_ALLOW, _ANSWER = 0x7FFF0000, 0x00050000


class _Comparison(ctypes.Structure):
    """libseccomp's scmp_arg_cmp: argument number, operator, value."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def give_up_powers() -> None:
    """Drop the capabilities, and refuse the calls, by which root could change the whole machine.

    Inherited by every child and impossible to undo. No wall against hostile code: root keeps CAP_SYS_ADMIN.
    """
    drop_from_bounding_set = 24
    may_raise_limits = _holds_capability(_CAP_SYS_RESOURCE)
    for number in _WITHHELD_CAPABILITIES.values():
        _must(_libc.prctl(drop_from_bounding_set, number, 0, 0, 0), "prctl")
    rules = ctypes.c_void_p(_seccomp.seccomp_init(ctypes.c_uint32(_ALLOW)))
    bad_architecture, no_new_privileges = 2, 3
    _seccomp.seccomp_attr_set(rules, bad_architecture, ctypes.c_uint32(_ALLOW))
    _seccomp.seccomp_attr_set(rules, no_new_privileges, ctypes.c_uint32(0))  # sudo works in a host
    for name in _REFUSED_CALLS:
        _answer(rules, name, errno.EPERM)
    if not may_raise_limits:
        # crun insists on raising RLIMIT_MEMLOCK, which kernels since 5.11 no longer need. Where this
        # machine's own root may not, prlimit(pid, RLIMIT_MEMLOCK, new, NULL) only pretends.
        equal, unequal = 4, 1
        pretend = ((1, equal, _RLIMIT_MEMLOCK), (2, unequal, 0), (3, equal, 0))
        _answer(rules, "prlimit64", 0, *pretend)
    _must(_seccomp.seccomp_load(rules), "seccomp_load")
    _seccomp.seccomp_release(rules)


def _answer(rules: ctypes.c_void_p, call: str, code: int, *conditions: tuple[int, int, int]) -> None:
    number = _seccomp.seccomp_syscall_resolve_name(call.encode())
    array = (_Comparison * len(conditions))(*(_Comparison(a, op, value, 0) for a, op, value in conditions))
    result = _seccomp.seccomp_rule_add_array(
        rules, ctypes.c_uint32(_ANSWER | code), number, len(conditions), array
    )
    if result < 0:
        raise OSError(-result, f"seccomp rule for {call}: {os.strerror(-result)}")


def _holds_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
