"""A real PgBouncer in transaction mode before a test's PostgreSQL, whoever runs it: root or an ordinary user.

with PgBouncer(settings, server_connections=2) as pooler:
    connect(host=pooler.folder, port=pooler.port)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.driver import psycopg
from tests.support.postgres import NOBODY

#: Names the socket; PgBouncer listens on no other address.
PORT = 6432
PATIENCE = 30.0

#: Runs a program until its own parent is gone, however it went.
UNTIL_ORPHANED = '"$@" & cat >/dev/null; kill -KILL $!'


def program() -> str:
    """Return the installed PgBouncer, or skip the test with the reason."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("no PgBouncer on the PATH (Debian's package is called pgbouncer)")
    return found


class PgBouncer:
    """A pooler in transaction mode before the server that Django's settings name, with few server connections."""

    def __init__(self, server: dict[str, Any], *, server_connections: int = 2) -> None:
        """Say which server, and how many of its connections all clients of one database share."""
        self._program = program()
        self._server = server
        self._connections = server_connections
        self.folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))  # short: a socket's path ends at 107 characters
        self.port = PORT
        self.log = self.folder / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it takes clients."""
        server = self._server
        password = f" password={server['PASSWORD']}" if server["PASSWORD"] else ""
        port = server["PORT"] or 5432
        (self.folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host={server['HOST']} port={port} user={server['USER']}{password}\n"
            "[pgbouncer]\n"
            f"listen_port = {self.port}\nunix_socket_dir = {self.folder}\n"
            "auth_type = any\npool_mode = transaction\n"
            f"default_pool_size = {self._connections}\nmax_client_conn = 200\n"
            "admin_users = postgres\nignore_startup_parameters = extra_float_digits\n"
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", UNTIL_ORPHANED, "sh", *self._as_ordinary_user(), self.folder / "pgbouncer.ini"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._takes_clients():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once: its clients lose their connections."""
        if self._process is None or self._process.stdin is None:
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process = None
        (self.folder / f".s.PGSQL.{self.port}").unlink(missing_ok=True)

    def ask(self, command: str) -> list[dict[str, Any]]:
        """Return the rows with which PgBouncer's own console answers a command; most have none."""
        console = psycopg.connect(host=str(self.folder), port=self.port, user="postgres", dbname="pgbouncer")
        try:
            console.autocommit = True  # it knows no transactions
            with console.cursor() as cursor:
                cursor.execute(command)
                names = [column.name for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []
        finally:
            console.close()

    def _takes_clients(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / f".s.PGSQL.{self.port}"))
            return True
        return False

    def _as_ordinary_user(self) -> list[str]:
        """Return how to start the program, which refuses to be root: in a user namespace, or as nobody."""
        if os.getuid() != 0:
            return [self._program, "--quiet"]
        namespace = ["unshare", "--user", "--map-user=1000"]
        if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode == 0:
            return [*namespace, self._program, "--quiet"]
        os.chown(self.folder, NOBODY, NOBODY)
        return [self._program, "--quiet", "--user", "nobody"]
