"""A host's own copy of kernel.*, vm.* and fs.*: those are the machine's, and no host may write them.

A hardening role writes and reads back; here it does so in memory, without effect. net.* is real: it belongs
to the host's network namespace.
"""

import os
import uuid
from pathlib import Path

from lab.kernel import bind

# In Debian's kernels, maybe not in this machine's.
_DEBIAN_HAS = {
    "kernel/unprivileged_userns_clone": "1",
    "kernel/yama/ptrace_scope": "0",
    "kernel/sysrq": "438",
    "kernel/kexec_load_disabled": "0",
    "kernel/modules_disabled": "0",
    "kernel/perf_event_paranoid": "3",
    "kernel/unprivileged_bpf_disabled": "2",
    "dev/tty/ldisc_autoload": "1",
}
_LIVE = ("kernel/hostname", "kernel/domainname", "kernel/random/uuid")


def make_private(root: Path) -> None:
    """Cover `root`/proc/sys/* but net by copies in `root`/run, which is a fresh tmpfs."""
    real, copy = root / "proc/sys", root / "run/.kernel-settings"
    copy.mkdir(mode=0o755)
    for top in sorted(real.iterdir()):
        if top.name != "net":
            _copy_tree(top, copy / top.name)
    for key, value in _DEBIAN_HAS.items():
        if not (copy / key).exists():
            (copy / key).parent.mkdir(parents=True, exist_ok=True)
            (copy / key).write_text(value + "\n")
    (copy / "kernel/random/boot_id").write_text(f"{uuid.uuid4()}\n")
    for key in _LIVE:
        bind(real / key, copy / key)
    for top in sorted(copy.iterdir()):
        if (real / top.name).is_dir():
            bind(top, real / top.name, recursive=True)


def _copy_tree(source: Path, target: Path) -> None:
    for folder, subfolders, files in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(exist_ok=True)
        if "binfmt_misc" in subfolders:  # an automount point of the machine's
            subfolders.remove("binfmt_misc")
            (here / "binfmt_misc").mkdir()
        for name in files:
            entry = Path(folder, name)
            try:
                content = entry.read_bytes()
            except OSError:  # write-only, or not for this kernel
                content = b""
            (here / name).write_bytes(content)
            (here / name).chmod(entry.stat().st_mode & 0o777 or 0o600)
