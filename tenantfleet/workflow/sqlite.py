"""What the durable engine needs of SQLite: version 3.42, or the one function of it that it uses."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tenantfleet.model.errors import EnvironmentMissingError

_OLDEST = (3, 35, 0)  # RETURNING, which the ledger and the engine use


def _unixepoch(*arguments: object) -> float | int | None:
    """`unixepoch()` of SQLite 3.42 in the forms that mean "now"; anything else is NULL, as before."""
    match arguments:
        case ("subsec",) | ("subsecond",) | ("now", "subsec") | ("now", "subsecond"):
            return time.time()
        case () | ("now",):
            return int(time.time())
    return None


def knows_subseconds() -> bool:
    """Whether `unixepoch('subsec')` works: not before 3.42, so not on Debian 12."""
    with closing(sqlite3.connect(":memory:")) as connection:
        return connection.execute("SELECT unixepoch('subsec')").fetchone()[0] is not None


def prepare_sqlite() -> None:
    """Make the engine's SQL work on this machine's SQLite.

    Raises:
        EnvironmentMissingError: `sqlite.too_old`.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise EnvironmentMissingError(
            f"SQLite {sqlite3.sqlite_version} is too old, 3.35 is the least",
            code="sqlite.too_old",
            hint="Use Python 3.12 or 3.13 of Debian 12 or newer.",
        )
    if not knows_subseconds() and not event.contains(Engine, "connect", _add_function):
        event.listen(Engine, "connect", _add_function)


def _add_function(connection: object, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.create_function("unixepoch", -1, _unixepoch)
