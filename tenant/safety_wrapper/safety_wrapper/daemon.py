"""The daemon: three sockets, one guard, systemd told when it is ready."""

import asyncio
import logging
import shutil
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from safety_wrapper.admission_api import AdmissionApi
from safety_wrapper.config import Config
from safety_wrapper.guard import Guard
from safety_wrapper.notify import notify
from safety_wrapper.plugin_api import PluginApi
from safety_wrapper.status_api import StatusApi
from safety_wrapper.unit import SystemdUnit, UnitReader
from safety_wrapper.watch import Watch

SHUTDOWN_S = 2.0
PLUGIN_MODE = ADMISSION_MODE = 0o660
STATUS_MODE = 0o666


def run_daemon(config: Config) -> None:
    """Serve until SIGTERM.

    Raises:
        InvalidDocumentError: there is no valid policy to begin with.
        OSError: a socket cannot be made.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    asyncio.run(serve(config, unit=SystemdUnit(name=config.gateway_unit)))


async def serve(config: Config, *, unit: UnitReader) -> None:
    """Serve the three sockets until SIGTERM or SIGINT; SIGHUP reads the policy anew."""
    guard = Guard(config)
    watch = Watch(config=config, guard=guard, unit=unit)
    applications = (
        (PluginApi(guard=guard, watch=watch).application(), config.sockets.plugin, PLUGIN_MODE),
        (AdmissionApi(guard=guard, config=config).application(), config.sockets.admission, ADMISSION_MODE),
        (
            StatusApi(guard=guard, watch=watch, config=config).application(),
            config.sockets.status,
            STATUS_MODE,
        ),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, guard.reload_policy)
    async with AsyncExitStack() as stack:
        stack.callback(watch.release)
        await watch.measure()
        for app, path, mode in applications:
            await _listen(stack, app, path=path, mode=mode)
        measuring = asyncio.create_task(watch.measure_forever())
        stack.callback(measuring.cancel)
        notify("READY=1")
        await _until_stopped(stop, measuring)
        notify("STOPPING=1")


async def _until_stopped(stop: asyncio.Event, measuring: asyncio.Task[None]) -> None:
    """Wait for the end; a measurement that died must take the daemon along, which fails closed."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({stopping, measuring}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if measuring in done:
        measuring.result()


async def _listen(stack: AsyncExitStack, app: web.Application, *, path: Path, mode: int) -> None:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, _socket_at(path, mode)).start()


def _socket_at(path: Path, mode: int) -> socket.socket:
    """Bind a socket whose group is its directory's, so that the directory's maker says who may connect."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        shutil.chown(path, group=path.parent.stat().st_gid)
        path.chmod(mode)
    except BaseException:
        listener.close()
        raise
    return listener
