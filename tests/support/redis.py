"""A throw-away Redis server on a socket of its own, as Celery's broker."""

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
from typing import Self

import pytest

from tests.support.pgbouncer import UNTIL_ORPHANED

PATIENCE = 30.0


class Redis:
    """A Redis server that keeps nothing; it disappears with the test."""

    def __init__(self) -> None:
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("no Redis on the PATH (Debian's package is called redis-server)")
        self._program = found
        self.folder = Path(
            tempfile.mkdtemp(prefix="redis-", dir="/tmp")
        )  # short: a socket's path ends at 107 characters
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its address, as Celery wants it."""
        return f"redis+socket://{self.folder}/s"

    def __enter__(self) -> Self:
        """Start it and wait until it takes clients."""
        self._process = subprocess.Popen(
            [
                *("/bin/sh", "-c", UNTIL_ORPHANED, "sh", self._program, "--port", "0", "--unixsocket"),
                *(f"{self.folder}/s", "--save", "", "--appendonly", "no", "--dir", str(self.folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE
        while not self._takes_clients():
            assert self._process.poll() is None and time.monotonic() < deadline, "Redis does not start"
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it and remove its folder."""
        if self._process is not None and self._process.stdin is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.stdin.close()
            self._process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _takes_clients(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.folder}/s")
            return True
        return False
