"""The process: loads, listens on loopback, tests itself, reloads on SIGHUP, stops on SIGTERM."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from egress_proxy import selftest
from egress_proxy.admission import DaemonAdmission
from egress_proxy.config import Config, ConfigError, load_config
from egress_proxy.gate import Gate
from egress_proxy.metrics import Metrics
from egress_proxy.refusal import NotReadyError, Reason, RefusalError
from egress_proxy.sink import Sink
from egress_proxy.state import State, load_state
from egress_proxy.upstream import Upstream

log = logging.getLogger("egress_proxy")
SELFTEST_INTERVAL_S = 60.0
SHUTDOWN_S = 10.0
BAD_CONFIGURATION = 78  # sysexits.h EX_CONFIG: trying again would change nothing

type Load = Callable[[], State]


class Service:
    """Holds what is in force. Without a state whose last self-test was green, every call gets 503."""

    def __init__(self, load: Load, *, selftest_interval_s: float = SELFTEST_INTERVAL_S) -> None:
        self._load = load
        self._interval_s = selftest_interval_s
        self._state: State | None = None
        self._why = "starting"
        self._turn = asyncio.Lock()
        self.metrics = Metrics()

    def current(self) -> State:
        """Return the state in force.

        Raises:
            RefusalError: there is none to vouch for.
        """
        if self._state is None or not self.metrics.selftest_ok:
            raise RefusalError(Reason.NOT_READY, f"the proxy is not ready: {self._why}")
        return self._state

    async def reload(self) -> None:
        """Load and test anew; what cannot be loaded closes the proxy until it can."""
        async with self._turn:
            try:
                state = self._load()
            except (ConfigError, NotReadyError, OSError) as error:
                self._state = None
                self._close(str(error))
                return
            await self._test(state)
            self._state = state
            self.metrics.registry_entries = len(state.credentials.registry)

    async def test(self) -> None:
        async with self._turn:
            if self._state is not None:
                await self._test(self._state)

    async def keep_testing(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.test()

    async def _test(self, state: State) -> None:
        try:
            failed = await selftest.failures(state)
        except Exception as error:  # noqa: BLE001 -- a self-test that breaks is red
            failed = [type(error).__name__]
        if failed:
            self._close(f"self-test red: {', '.join(failed)}")
        else:
            self.metrics.selftest_ok = True

    def _close(self, why: str) -> None:
        self.metrics.selftest_ok = False
        self._why = why
        log.error("closed: %s", why)

    async def answer(self, request: web.BaseRequest, gate: Gate) -> web.StreamResponse:
        """Answer the two local questions; leave anything else to the gate."""
        match request.method, request.raw_path:
            case "GET", "/readyz":
                return self._readyz()
            case "GET", "/metrics":
                return web.Response(text=self.metrics.render())
        return await gate.handle(request)

    def _readyz(self) -> web.Response:
        try:
            self.current()
        except RefusalError as refusal:
            return web.json_response({"ready": False, "reason": refusal.message}, status=503)
        return web.json_response({"ready": True, "registry_entries": self.metrics.registry_entries})


class FixedAtStart:
    """Loads for a running process: what was taken at its start may not differ later."""

    def __init__(self, config_path: Path, credentials: Path) -> None:
        self._config_path = config_path
        self._credentials = credentials
        self.first = load_config(config_path)

    def __call__(self) -> State:
        state = load_state(self._config_path, self._credentials)
        if _fixed(state.config) != _fixed(self.first):
            raise ConfigError("listen, admission_socket and upstream_timeout_s need a restart to change")
        return state


def _fixed(config: Config) -> tuple[object, ...]:
    return config.host, config.port, config.admission_socket, config.limits.upstream_timeout_s


@asynccontextmanager
async def listening(config: Config, service: Service) -> AsyncIterator[int]:
    """Load, test and serve until the block ends; yield the port in use."""
    await service.reload()
    admission = DaemonAdmission(config.admission_socket)
    upstream = Upstream(lambda: service.current().credentials, silence_s=config.limits.upstream_timeout_s)
    gate = Gate(
        state=service.current, admission=admission, upstream=upstream, sink=Sink(), metrics=service.metrics
    )
    server = web.Server(
        lambda request: service.answer(request, gate),
        auto_decompress=False,
        handler_cancellation=True,
        access_log=None,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    testing = asyncio.create_task(service.keep_testing())
    try:
        await web.TCPSite(runner, config.host, config.port).start()
        yield runner.addresses[0][1]
    finally:
        testing.cancel()
        await runner.cleanup()
        await admission.close()
        await upstream.close()


async def _serve(load: FixedAtStart) -> None:
    service = Service(load)
    async with listening(load.first, service) as port:
        state = "ready" if service.metrics.selftest_ok else "closed"
        log.info("listening on port %d, %s, %d registered", port, state, service.metrics.registry_entries)
        await _until_stopped(service)


async def _until_stopped(service: Service) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(service.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.set_exception_handler(_log_type_only)
    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def _log_type_only(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("event loop: %s", type(context.get("exception")).__name__)


def main() -> None:
    """Run the proxy; exit status 78 means that the configuration file is refused."""
    parser = argparse.ArgumentParser(prog="egress_proxy")
    parser.add_argument("--config", required=True, type=Path)
    config_path = parser.parse_args().config
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # aiohttp quotes requests in its own messages; the gate logs what there is to know.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL + 1)
    try:
        load = FixedAtStart(config_path, Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")))
    except ConfigError as error:
        sys.stderr.write(f"egress_proxy: {error}\n")
        sys.exit(BAD_CONFIGURATION)
    asyncio.run(_serve(load))
