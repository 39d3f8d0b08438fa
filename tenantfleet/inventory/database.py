"""The ledger: which machine belongs to whom, and which order is at work. SQLite, one file an environment.

A change is one IMMEDIATE transaction; what must not happen twice is a constraint of the schema.
No secret is stored: an order's sealed payload is ciphertext, and erased when the order is done.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS machine (
    machine_id  TEXT PRIMARY KEY,
    region      TEXT NOT NULL,
    dirty       INTEGER NOT NULL DEFAULT 0 CHECK (dirty IN (0, 1)),
    enrolled_at TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS claim (
    machine_id TEXT PRIMARY KEY REFERENCES machine (machine_id),
    tenant_id  TEXT NOT NULL UNIQUE,
    order_id   TEXT NOT NULL,
    claimed_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS tenant_order (
    order_id     TEXT PRIMARY KEY,
    digest       TEXT NOT NULL,
    tenant_id    TEXT NOT NULL,
    kind         TEXT NOT NULL,
    body         TEXT NOT NULL,
    sealed       TEXT,
    state        TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    attempt      INTEGER NOT NULL DEFAULT 1,
    plan         TEXT,
    plan_sha256  TEXT,
    result       TEXT,
    submitted_at TEXT NOT NULL,
    finished_at  TEXT
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_running_order_a_tenant
    ON tenant_order (tenant_id) WHERE state = 'running';
CREATE TABLE IF NOT EXISTS step (
    order_id    TEXT NOT NULL REFERENCES tenant_order (order_id),
    attempt     INTEGER NOT NULL,
    name        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    started_at  TEXT NOT NULL,
    duration_s  REAL,
    summary     TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (order_id, attempt, name)
) STRICT;
CREATE TABLE IF NOT EXISTS run_number (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    purpose  TEXT NOT NULL,
    taken_at TEXT NOT NULL
) STRICT;
"""


class LedgerDatabase:
    """The file, its schema and its transactions. A connection is for one transaction only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch(mode=0o600)
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One IMMEDIATE transaction: all of it or, on any exception, nothing."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        return connection
