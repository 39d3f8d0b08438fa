"""Results of slow steps, kept by the digest of what they were made from."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """A directory of finished results; an interrupted step leaves none."""

    directory: Path

    def get(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The result of `build` for this key, from the cache or built now.

        Args:
            kind: what it is, part of the name.
            key: hexadecimal digest of everything that the result depends on.
            build: makes a file or directory at the path that it gets.
        """
        result = self.directory / f"{kind}-{key[:24]}"
        if result.exists():
            return result
        with self._locked(kind):
            if not result.exists():
                partial = self.directory / f"{kind}.partial"
                _remove(partial)
                build(partial)
                partial.rename(result)
        return result

    @contextlib.contextmanager
    def _locked(self, kind: str) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{kind}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
