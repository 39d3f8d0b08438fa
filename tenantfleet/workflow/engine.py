"""The only importer of dbos: each order is one durable workflow of named steps.

A step that returned is never run again; a step that was cut off is run again from its start, so each is
safe to repeat. The engine stores order ids and plain JSON results, nothing else.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from tenantfleet.model.errors import OF_EXIT_CODE, ConflictError, ExitCode, RunFailedError, TenantfleetError
from tenantfleet.workflow.sqlite import prepare_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dbos import WorkflowHandle

logger = logging.getLogger(__name__)

# Fixed: the default hashes the source, and an edit would strand every order that is under way.
_APPLICATION_VERSION = "1"
_EXECUTOR = "driver"
_LOOK_AGAIN_S = 0.1  # its own second would be a tenth of a run without changes

Data = dict[str, Any]


class OrderSteps(Protocol):
    """The effects of an order, one method a step; each is safe to repeat and returns plain JSON data."""

    def step_names(self, order_id: str) -> list[str]: ...

    def run_step(self, order_id: str, attempt: int, name: str) -> Data:
        """Do one step; a `TenantfleetError` ends the order."""
        ...

    def close(self, order_id: str, attempt: int, values: Data, failure: Data | None) -> Data:
        """Write the order's end down and return its result; `values`: what each step returned, by name."""
        ...


class Engine:
    """The running engine of one state directory. Made by `open_engine` only."""

    def __init__(self, start: Callable[[str, int], WorkflowHandle[Data]]) -> None:
        self._start = start

    def submit(self, order_id: str, attempt: int) -> str:
        """Start an attempt of an order, or find it again; returns the id of its workflow."""
        return self._start(order_id, attempt).get_workflow_id()

    def result(self, workflow_id: str) -> Data:
        """Wait for the end of a workflow: its result, as `OrderSteps.close` returned it."""
        handle: WorkflowHandle[Data] = DBOS.retrieve_workflow(workflow_id)
        return handle.get_result(polling_interval_sec=_LOOK_AGAIN_S)


@contextmanager
def open_engine(state: Path, steps: OrderSteps) -> Iterator[Engine]:
    """Open the engine of a state directory; what a dead driver left unfinished goes on at once.

    Raises:
        ConflictError: `driver.busy`, another driver works here.
        EnvironmentMissingError: `sqlite.too_old`.
    """
    prepare_sqlite()
    with _only_driver(state):
        database = state / "engine.sqlite"
        database.touch(mode=0o600)
        DBOS(config=_config(database))
        start = _register(steps)
        DBOS.launch()
        try:
            yield Engine(start)
        finally:
            DBOS.destroy(destroy_registry=True)
            # its handler keeps the stderr of now, which the next engine of this process could find closed
            logging.getLogger("dbos").handlers.clear()


def _config(database: Path) -> DBOSConfig:
    return {
        "name": "tenantfleet",
        "system_database_url": f"sqlite:///{database}",
        "application_version": _APPLICATION_VERSION,
        "executor_id": _EXECUTOR,
        "log_level": "ERROR",
        "serializer": DBOSPortableJSONSerializer(),
        "enable_otlp": False,
        "notification_listener_polling_interval_sec": 0.5,
    }


def _register(steps: OrderSteps) -> Callable[[str, int], WorkflowHandle[Data]]:
    @DBOS.step(name="tenantfleet.step_names")
    def step_names(order_id: str) -> list[str]:
        return steps.step_names(order_id)

    @DBOS.step(name="tenantfleet.run_step")
    def run_step(order_id: str, attempt: int, name: str) -> Data:
        try:
            return {"value": steps.run_step(order_id, attempt, name)}
        except TenantfleetError as error:
            return {"failure": failure_data(error)}
        except Exception as error:  # an order must end in a state that a person can act on
            logger.exception("step broke: order=%s step=%s", order_id, name)
            return {"failure": failure_data(_internal(error))}

    @DBOS.step(name="tenantfleet.close")
    def close(order_id: str, attempt: int, values: Data, failure: Data | None) -> Data:
        return steps.close(order_id, attempt, values, failure)

    # None: an order whose driver was restarted often is not given up for that
    @DBOS.workflow(name="tenantfleet.order", max_recovery_attempts=None)
    def order_workflow(order_id: str, attempt: int) -> Data:
        values: Data = {}
        for name in step_names(order_id):
            done = run_step(order_id, attempt, name)
            if "failure" in done:
                return close(order_id, attempt, values, done["failure"])
            values[name] = done["value"]
        return close(order_id, attempt, values, None)

    def start(order_id: str, attempt: int) -> WorkflowHandle[Data]:
        with SetWorkflowID(f"order/{order_id}/{attempt}"):
            return DBOS.start_workflow(order_workflow, order_id, attempt)

    return start


def _internal(error: Exception) -> TenantfleetError:
    return RunFailedError(
        f"the driver itself broke: {type(error).__name__}",
        code="driver.broke",
        hint="Run it again; if it breaks again, report what the log says.",
    )


@contextmanager
def _only_driver(state: Path) -> Iterator[None]:
    """Hold the state directory: SQLite takes one driver at a time, and so does its executor id."""
    lock = os.open(state / "driver.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConflictError(
            "another tenantfleet is at work in this environment",
            code="driver.busy",
            hint="Wait for it to end; `tenantfleet status` shows what it does.",
        ) from None
    try:
        yield
    finally:
        os.close(lock)


def failure_data(error: TenantfleetError) -> Data:
    """An error as plain data, to be stored."""
    return {"exit_code": int(error.exit_code), "code": error.code, "cause": error.cause, "hint": error.hint}


def failure_error(data: Data) -> TenantfleetError:
    """The error that was stored."""
    kind = OF_EXIT_CODE[ExitCode(data["exit_code"])]
    return kind(data["cause"], code=data["code"], hint=data["hint"])
