"""Commands as processes that run beside the test: start, watch, signal, kill.

They are forks of the test's own process, which costs milliseconds where a new interpreter costs seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.db import connections

import manage as program
from tests.support.commands import Result

#: Seconds after which something that should happen is given up on.
PATIENCE = 120.0


def free_port() -> int:
    """Return a port of the loopback that no program listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


FORK = multiprocessing.get_context("fork")

NOBODY = 65534


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Be somebody for whom permissions count: root is nobody meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class Running:
    """A manage.py process under way; ``prepare`` is called in it before the command."""

    def __init__(self, argv: tuple[object, ...], prepare: Callable[[], None]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="process-")
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        connections.close_all()  # nothing open may be inherited
        self.process = FORK.Process(target=self._live, args=([*map(str, argv)], prepare))
        self.process.start()

    def _live(self, argv: list[str], prepare: Callable[[], None]) -> None:
        _leave_connections_alone()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        for descriptor, path in ((1, self._out), (2, self._err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), write_through=True) for n in (1, 2))  # type: ignore[type-var]
        prepare()
        program.main(["manage.py", *argv])

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds while the process runs, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it never happened: {self._text()}"
            self.process.join(0.02)  # asking the database all the time would slow down who is waited for
            if self.process.exitcode is not None:
                found = condition()
                assert found, f"the process ended first: {self._text()}"
                break
        return found

    @property
    def runs(self) -> bool:
        """Say whether it has not ended yet."""
        return self.process.is_alive()

    def said(self) -> str:
        """Return what it has written up to now."""
        return "".join(path.read_text() for path in (self._out, self._err) if path.exists())

    def send(self, *numbers: int) -> None:
        """Send signals, all at once."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        for number in numbers:
            os.kill(self.process.pid, number)
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it where it stands."""
        self.process.kill()
        self.process.join(PATIENCE)

    def end(self) -> Result:
        """Wait for its end and return what it left behind."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"it does not end: {self._text()}"
        return Result(*self._text(), self.process.exitcode)

    def told(self, code: int = 0) -> dict[str, Any]:
        """Wait for its end, which must have this exit code, and return its JSON."""
        result = self.end()
        assert result.code == code, result
        found: dict[str, Any] = json.loads(result.out)
        return found

    def close(self) -> None:
        """Leave nothing behind."""
        if self.runs:
            self.kill()
        self._folder.cleanup()

    def _text(self) -> tuple[str, str]:
        return self._out.read_text(), self._err.read_text()


#: Connections of the test's process, kept so that nothing closes them in a fork.
_INHERITED: list[Any] = []


def _leave_connections_alone() -> None:
    """Forget, without closing them, connections that the fork may have inherited all the same.

    Under a running event loop (Playwright's) Django keeps connections of its own beside those of the thread.
    """
    for alias in connections:
        _INHERITED.append(connections[alias])
        del connections[alias]


def _nothing() -> None:
    """Prepare nothing."""


@contextlib.contextmanager
def manage(*argv: object, prepare: Callable[[], None] = _nothing) -> Iterator[Running]:
    """Start "manage.py ARGV" beside the test."""
    running = Running(argv, prepare)
    try:
        yield running
    finally:
        running.close()


def run(*argv: object) -> Result:
    """Run "manage.py ARGV" as a process of its own and return its outcome."""
    with manage(*argv) as running:
        return running.end()


def doomed(point: str, nth: int, *argv: object) -> contextlib.AbstractContextManager[Running]:
    """Start "manage.py ARGV", which kills itself with SIGKILL instead of calling a function for the nth time.

    ``point`` is ``module:function`` or ``module:Class.method``. What the call's transaction did before is lost.
    """

    def prepare() -> None:
        module, _, path = point.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original, calls = getattr(owner, name), itertools.count(1)

        def deadly(*args: Any, **options: Any) -> Any:
            if next(calls) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(owner, name, deadly)

    return manage(*argv, prepare=prepare)
