"""Notes over HTTP: GET /notes lists them, POST /notes adds a text, GET /healthz asks the database."""

import contextlib
import http.server
import json
import os
import pathlib
import time

import psycopg2  # type: ignore[import-untyped]

EDITION = os.environ["NOTES_EDITION"]
DEADLINE_S = 60
LONGEST = 65_536  # bytes of a note


def connect() -> "psycopg2.extensions.connection":
    password = pathlib.Path("/run/secrets/db_password").read_text()
    return psycopg2.connect(host="db", user="notes", dbname="postgres", password=password, connect_timeout=5)


def prepare() -> None:
    """Wait for the database and make the table."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            ask("CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL)")
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def ask(statement: str, *values: str) -> list[tuple[object, ...]]:
    with contextlib.closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


class Notes(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path not in {"/notes", "/healthz"}:
            self.answer(404, {"error": "no such path"})
        elif self.path == "/healthz":
            ask("SELECT 1")
            self.answer(200, {"edition": EDITION})
        else:
            self.answer(200, {"notes": [text for (text,) in ask("SELECT text FROM notes ORDER BY id")]})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if self.path != "/notes" or not 0 < length <= LONGEST:
            self.answer(400, {"error": "POST a text to /notes"})
            return
        ask("INSERT INTO notes (text) VALUES (%s)", self.rfile.read(length).decode())
        self.answer(201, {"kept": True})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a path or a note may be the tenant's own."""


if __name__ == "__main__":
    prepare()
    http.server.ThreadingHTTPServer(("", 8080), Notes).serve_forever()
