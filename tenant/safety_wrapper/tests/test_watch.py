"""Who is heard while a new gateway is being measured."""

import asyncio
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safety_wrapper import watch as watching
from safety_wrapper.config import Config, parse_config
from safety_wrapper.guard import Guard
from safety_wrapper.measurement import UnitFacts
from safety_wrapper.peer import Peer
from safety_wrapper.watch import Watch

FACTS = UnitFacts(exec_start="podman run image", invocation_id="1", control_group="/g")


@dataclass
class SlowUnit:
    """Answers at once, until it is told to take its time."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> UnitFacts:
        self.asked.set()
        await self.answers.wait()
        return FACTS


def this_process(_connection: socket.socket, *, uid: int, control_group: str) -> tuple[Peer, int]:
    """Stand in for the kernel's word: a container of one's own needs root (see test_daemon)."""
    assert control_group == FACTS.control_group
    return Peer(pid=os.getpid(), uid=uid), os.pidfd_open(os.getpid())


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    limits = {"tool_calls_per_minute": 1, "llm_calls_per_minute": 1, "llm_calls_per_run": 1}
    policy = {"version": 1, "revision": 1, "default": "deny", "tools": {}, "rules": [], "ask_timeout_s": 1}
    (tmp_path / "policy.json").write_text(json.dumps({**policy, "limits": limits}))
    (tmp_path / "tenant.json").write_text('{"autonomy": "standard"}')
    return Guard(config_in(tmp_path))


def config_in(folder: Path) -> Config:
    paths = {name: str(folder / f"{name}.json") for name in ("policy", "tenant")}
    return parse_config({"version": 1, "plugin_sha256": "0" * 64, **paths})


def test_no_connection_of_a_new_gateway_is_heard_before_its_measurement_ends(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "gateway_peer", this_process)

    async def connect_twice() -> tuple[bool, str | None]:
        unit = SlowUnit()
        watch = Watch(config=config_in(tmp_path), guard=guard, unit=unit)
        unit.answers.set()
        await watch.measure()
        guard.vouch()  # for the predecessor; the new gateway has another plugin
        unit.answers.clear()
        unit.asked.clear()
        with socket.socket(socket.AF_UNIX) as connection:
            first = asyncio.create_task(watch.admit_peer(connection))
            await unit.asked.wait()
            second = asyncio.create_task(watch.admit_peer(connection))
            done, _ = await asyncio.wait({second}, timeout=0.2)
            unit.answers.set()
            await second
            verdict = guard.closed
            await first
        watch.release()
        return bool(done), verdict

    heard_early, closed = asyncio.run(asyncio.wait_for(connect_twice(), 20))
    assert not heard_early
    assert closed is not None, "the second connection must find what the measurement says"
