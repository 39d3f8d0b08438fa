"""Files that are either old or new, never half: the sequence, the heartbeat and the public key."""

import os
from pathlib import Path

READABLE_BY_GROUP = 0o640


def write_whole(path: Path, content: bytes, *, mode: int = READABLE_BY_GROUP) -> None:
    """Replace a file in one step, on disk before it is visible. Raises OSError."""
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    draft.replace(path)


class Sequence:
    """Numbers that never come twice: each is on disk before it is given out."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def next(self) -> int:
        """Raises ValueError for a damaged file: guessing could repeat a number."""
        number = self._last() + 1
        write_whole(self._path, f"{number}\n".encode(), mode=0o600)
        return number

    def _last(self) -> int:
        try:
            text = self._path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return 0
        if not text.isdigit():
            raise ValueError(f"{self._path}: not a number")
        return int(text)
