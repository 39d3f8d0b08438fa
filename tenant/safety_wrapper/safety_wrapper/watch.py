"""The gateway under watch: which process it is, and whether its plugin is the pinned one."""

import asyncio
import hmac
import logging
import os
import socket
from dataclasses import dataclass

from safety_wrapper.config import Config
from safety_wrapper.guard import Guard
from safety_wrapper.measurement import UnitFacts, UnmeasuredError, measure
from safety_wrapper.peer import UntrustedPeerError, gateway_peer
from safety_wrapper.unit import UnitReader

log = logging.getLogger(__name__)

MEASURE_EVERY_S = 10.0


@dataclass(frozen=True)
class Gateway:
    """The one process that may speak for agent runs, held by a pidfd while it lives."""

    pid: int
    pidfd: int


class Watch:
    """Measures the plugin, pins the gateway's process, and closes the guard when either fails."""

    def __init__(self, *, config: Config, guard: Guard, unit: UnitReader) -> None:
        self.gateway: Gateway | None = None
        self.measured_sha256: str | None = None
        self._config = config
        self._guard = guard
        self._unit = unit
        self._facts: UnitFacts | None = None
        self._measuring = asyncio.Lock()

    async def measure(self) -> None:
        """Measure now; admission is open afterwards only if everything fits."""
        async with self._measuring:
            try:
                facts = await self._unit.read()
                self._check_same_mount(facts)
                self._facts = facts
                self.measured_sha256 = await asyncio.to_thread(
                    measure, facts, mount=self._config.plugin_mount, store=self._config.plugin_store
                )
            except UnmeasuredError as error:
                self.measured_sha256 = None
                self._guard.close(str(error))
                return
        if hmac.compare_digest(self.measured_sha256, self._config.plugin_sha256):
            self._guard.vouch()
        else:
            self._guard.close(f"the mounted plugin is {self.measured_sha256}, not the pinned one")

    def _check_same_mount(self, facts: UnitFacts) -> None:
        """A unit whose command changed says nothing any more about the gateway that still runs."""
        known = self._facts
        if known is None or known.invocation_id != facts.invocation_id or not facts.invocation_id:
            return
        if known.exec_start != facts.exec_start:
            raise UnmeasuredError("the gateway's unit changed under the running gateway")

    async def measure_forever(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_EVERY_S)
            await self.measure()

    async def admit_peer(self, connection: socket.socket) -> None:
        """Let only the gateway's own process pass; a new one is measured before it is heard.

        Raises:
            UntrustedPeerError: the peer is not the first process of the gateway's container.
        """
        if self._facts is None or not self._facts.control_group:
            await self.measure()
        control_group = self._facts.control_group if self._facts else ""
        peer, pidfd = gateway_peer(connection, uid=self._config.gateway_uid, control_group=control_group)
        if self.gateway is not None and self.gateway.pid == peer.pid:
            # The pinned pidfd still pins this pid: it is the same process.
            os.close(pidfd)
            await self._await_measurement(self.gateway)
            return
        await self._pin(Gateway(pid=peer.pid, pidfd=pidfd))

    async def _pin(self, gateway: Gateway) -> None:
        self.release()
        self.gateway = gateway
        asyncio.get_running_loop().add_reader(gateway.pidfd, self._gone, gateway)
        log.info("gateway process: pid %d", gateway.pid)
        await self.measure()
        self._check_pinned(gateway)

    async def _await_measurement(self, gateway: Gateway) -> None:
        """A second connection of a new gateway comes while the first is still waiting to be measured."""
        async with self._measuring:
            self._check_pinned(gateway)

    def _check_pinned(self, gateway: Gateway) -> None:
        if self.gateway is not gateway:
            raise UntrustedPeerError("the peer is gone")

    def _gone(self, gateway: Gateway) -> None:
        if self.gateway is gateway:
            log.info("gateway process %d has ended", gateway.pid)
            self.release()

    def release(self) -> None:
        """Let go of the pinned process; its runs end with it."""
        if self.gateway is None:
            return
        asyncio.get_running_loop().remove_reader(self.gateway.pidfd)
        os.close(self.gateway.pidfd)
        self.gateway = None
        self._guard.end_all_runs()
