"""systemd's word about the gateway's unit."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from safety_wrapper.measurement import UnitFacts, UnmeasuredError

PROPERTIES = ("ExecStart", "InvocationID", "ControlGroup")
ANSWER_S = 10.0


class UnitReader(Protocol):
    """Tells the public properties of one unit."""

    async def read(self) -> UnitFacts:
        """Return the unit's properties.

        Raises:
            UnmeasuredError: systemd does not answer as expected.
        """


@dataclass(frozen=True)
class SystemdUnit:
    """Asks ``systemctl show``, which any user may."""

    name: str
    command: str = "/usr/bin/systemctl"

    async def read(self) -> UnitFacts:
        argv = (self.command, "show", f"--property={','.join(PROPERTIES)}", "--", self.name)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            raise UnmeasuredError(f"{self.command}: {error.strerror}") from error
        try:
            async with asyncio.timeout(ANSWER_S):
                output, _ = await process.communicate()
        except TimeoutError as error:
            process.kill()
            raise UnmeasuredError(f"systemd said nothing about {self.name} in {ANSWER_S} s") from error
        if process.returncode != 0:
            raise UnmeasuredError(f"systemctl show {self.name} ended with {process.returncode}")
        return parse_properties(output.decode("utf-8", "surrogateescape"))


def parse_properties(output: str) -> UnitFacts:
    """Read ``KEY=VALUE`` lines. ``ExecStart`` may come several times: all of them count.

    Raises:
        UnmeasuredError: a property is missing.
    """
    values: dict[str, str] = {}
    for line in output.splitlines():
        key, _, value = line.partition("=")
        value = _command(value) if key == "ExecStart" else value
        values[key] = f"{values[key]}\n{value}" if key in values else value
    if missing := [key for key in PROPERTIES if key not in values]:
        raise UnmeasuredError(f"systemd did not tell {', '.join(missing)}")
    return UnitFacts(
        exec_start=values["ExecStart"],
        invocation_id=values["InvocationID"],
        control_group=values["ControlGroup"],
    )


def _command(value: str) -> str:
    """Keep what is to be run; how the last run went is in the same value, and a daemon-reload forgets it."""
    return value.partition(" ; start_time=")[0]
