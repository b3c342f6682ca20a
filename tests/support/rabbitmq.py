"""A throw-away RabbitMQ on loopback for tests; skipped with a reason where it is not installed."""

from __future__ import annotations

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

from tests.support.processes import free_port

#: Seconds that it may take to start: Erlang is slow on a busy machine.
PATIENCE = 90.0


def _program() -> Path:
    """Return the server's own script; that of the PATH would become another user and use the machine's folders."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found or shutil.which("epmd") is None:
        pytest.skip("no RabbitMQ (Debian's package is called rabbitmq-server)")
    return found[-1]


class RabbitMQ:
    """One broker with a folder, a port mapper and ports of its own, which all disappear with it."""

    def __init__(self) -> None:
        self._program = _program()
        self.folder = Path(tempfile.mkdtemp(prefix="rabbit-", dir="/tmp"))
        self.port = free_port()
        self._environment: dict[str, str] = {}
        self._mapper: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the broker's address."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        """Start it."""
        mapper = free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),  # the nodes' cookie
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
        }
        command = ["epmd", "-address", "127.0.0.1", "-port", str(mapper)]
        self._mapper = subprocess.Popen(command, start_new_session=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it and remove its folder."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it takes clients."""
        with (self.folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._program],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._takes_clients():
            assert self._server.poll() is None and time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a machine that is switched off."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def empty(self) -> None:
        """Lose everything that it held."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self.start()

    def _takes_clients(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                client.sendall(b"AMQP\x00\x00\x09\x01")
                return client.recv(1) != b""
        except OSError:
            return False
