"""Start PostgreSQL on the stack's volume: initialised once, its password set anew at each start."""

import os
import pathlib
import subprocess

BIN = pathlib.Path("/usr/lib/postgresql/17/bin")
DATA = pathlib.Path("/data/17")
SECRET = pathlib.Path("/run/secrets/db_password")
SOCKETS = "/run/postgresql"


def initialise() -> None:
    """Make the cluster; initdb itself removes what it could not finish."""
    if (DATA / "PG_VERSION").exists():
        return
    subprocess.run(
        [BIN / "initdb", f"--pgdata={DATA}", "--username=notes", "--encoding=UTF8", "--locale=C.UTF-8",
         "--auth=scram-sha-256", f"--pwfile={SECRET}"],
        check=True,
    )  # fmt: skip
    (DATA / "pg_hba.conf").write_text("host all notes 10.210.1.0/24 scram-sha-256\n")


def set_password() -> None:
    """Over standard input in single-user mode: the value is in no argument list and in no log."""
    password = SECRET.read_text().replace("'", "''")
    subprocess.run(
        [BIN / "postgres", "--single", "-D", DATA, "-c", "log_statement=none",
         "-c", "log_min_error_statement=panic", "postgres"],
        input=f"ALTER ROLE notes PASSWORD E'{password.replace(chr(92), chr(92) * 2)}'\n".encode(),
        stdout=subprocess.DEVNULL,
        check=True,
    )  # fmt: skip


def main() -> None:
    initialise()
    set_password()
    settings = {
        "listen_addresses": "*",
        "unix_socket_directories": SOCKETS,
        "log_min_error_statement": "panic",  # no statement in the log, whatever it holds
    }
    words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    program = str(BIN / "postgres")
    os.execv(program, [program, "-D", str(DATA), *words])  # noqa: S606 - it becomes the container's service


if __name__ == "__main__":
    main()
