"""Run the real daemon as its own user, with the unit's properties read from a file instead of from systemd.

Run: ``daemon_entry.py CONFIG PROPERTIES UID GID EXTRA_GID…``
"""

import asyncio
import concurrent.futures.thread  # noqa: F401 -- loaded while a Python below /root is still readable
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safety_wrapper.config import load_config
from safety_wrapper.daemon import serve
from safety_wrapper.measurement import UnitFacts
from safety_wrapper.unit import parse_properties


@dataclass(frozen=True)
class RecordedUnit:
    """The properties as ``systemctl show`` prints them."""

    path: Path

    async def read(self) -> UnitFacts:
        return parse_properties(await asyncio.to_thread(self.path.read_text))


def main() -> None:
    config, properties, uid, gid, *extra = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    os.setgroups([int(number) for number in extra])
    os.setgid(int(gid))
    os.setuid(int(uid))
    asyncio.run(serve(load_config(Path(config)), unit=RecordedUnit(Path(properties))))


if __name__ == "__main__":
    main()
