"""Every moment at which something can go wrong: a statement, the end of a transaction, a step of writing a file.

``watch`` wraps Django's cursors and commits and the few functions of ``os`` that files are written with, in this
process alone; the product knows nothing of it. A moment is named after the function of the product that it happens in,
and its number within one call of it, so that the names do not depend on the texts of the statements:
``engine.conversion.convert 3``, ``services.worker._step commit``.
"""

import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from tests.support.driver import psycopg

PROJECT: Final = str(Path(__file__).resolve().parent.parent.parent)
PRODUCT: Final = (f"{PROJECT}/mana_migration/", f"{PROJECT}/wishes/")
#: Code that only passes statements on: the name is its caller's.
NAMELESS: Final = (
    "mana_migration/engine/dialect.py",
    "mana_migration/engine/batches.py",
    "mana_migration/engine/prepared.py",
    "mana_migration/engine/driver.py",
)
FILE_STEPS: Final = ("open", "fsync", "link", "replace", "unlink")

BEFORE, AFTER = "before", "after"

LOST, AFTERWARDS = "lost", "afterwards"
#: What PostgreSQL can answer to any statement.
POSTGRES_CODES: Final = {
    "40001": (psycopg.errors.SerializationFailure, "could not serialize access due to concurrent update"),
    "40P01": (psycopg.errors.DeadlockDetected, "deadlock detected"),
    "55P03": (psycopg.errors.LockNotAvailable, "canceling statement due to lock timeout"),
    "57014": (psycopg.errors.QueryCanceled, "canceling statement due to statement timeout"),
    "53100": (psycopg.errors.DiskFull, "could not extend file: No space left on device"),
}
SQLITE_TEXTS: Final = {
    "locked": "database is locked",
    "full": "database or disk is full",
    "io": "disk I/O error",
    "interrupted": "interrupted",
    "unopenable": "unable to open database file",
    AFTERWARDS: "disk I/O error",
}
ERRORS: Final = {
    "postgresql": (LOST, *POSTGRES_CODES, AFTERWARDS),
    "sqlite": tuple(SQLITE_TEXTS),
}
"""Names of the errors, by the database that they are errors of: seven of PostgreSQL's, six of SQLite's."""


class Watcher:
    """Number and name every moment, and let ``act`` do something at it."""

    def __init__(self, act: Callable[["Moment", str], None]) -> None:
        self._act = act
        self.names: list[str] = []
        self._begun: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._frame: FrameType | None = None
        self._in_frame = 0

    @property
    def done(self) -> list[str]:
        """Return the names of the moments that went well at least once, in order."""
        return list(self._done)

    def moment(self, kind: str) -> "Moment":
        """Return the moment that is now."""
        frame = _product_frame()
        place = "outside" if frame is None else _place(frame)
        if kind == "statement" and frame is not None:
            self._in_frame = self._in_frame + 1 if frame is self._frame else 1
            self._frame = frame
            kind = str(self._in_frame)
        name = f"{place} {kind}"
        self.names.append(name)
        self._begun[name] += 1
        return Moment(len(self.names), name, self._begun[name])

    def around(self, kind: str, do: Callable[[], Any], fail: Callable[["Moment", str], None] | None = None) -> Any:
        """Do something, and act before and after."""
        now = self.moment(kind)
        self._act(now, BEFORE)
        if fail is not None:
            fail(now, BEFORE)
        result = do()
        self._done[now.name] += 1
        done = Moment(now.position, now.name, self._done[now.name])
        self._act(done, AFTER)
        if fail is not None:
            fail(done, AFTER)
        return result


class Moment:
    """One moment: its number from 1, its name, and which of that name it is; afterwards, of those that went well."""

    def __init__(self, position: int, name: str, occurrence: int) -> None:
        self.position, self.name, self.occurrence = position, name, occurrence


def _product_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PRODUCT) and not path.endswith(NAMELESS):
            return frame
        frame = frame.f_back
    return None


def _place(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename).relative_to(PROJECT).with_suffix("")
    module = ".".join(part for part in path.parts if part not in ("mana_migration", "management"))
    return f"{module}.{frame.f_code.co_qualname}"


def nothing(moment: Moment, when: str) -> None:
    """Let it pass."""


def killer(*, when: str, name: str = "", occurrence: int = 1, position: int = 0) -> Callable[[Moment, str], None]:
    """Return an act that ends this process by SIGKILL at one moment, given by its name or its number."""

    def act(moment: Moment, now: str) -> None:
        here = moment.position == position if position else (moment.name, moment.occurrence) == (name, occurrence)
        if here and now == when:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


class Saboteur:
    """Let one statement or commit, given by its number, end with an error; those that follow are let through."""

    def __init__(self, position: int, error: str) -> None:
        self.position, self.error = position, error
        self.done = False

    def fail(self, connection: BaseDatabaseWrapper, moment: Moment, when: str) -> None:
        """Raise the error if it is time for it."""
        if moment.position != self.position or when != (AFTER if self.error == AFTERWARDS else BEFORE):
            return
        self.done = True
        if connection.vendor == "sqlite":
            raise sqlite3.OperationalError(SQLITE_TEXTS[self.error])
        if self.error in (LOST, AFTERWARDS):
            connection.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        base, text = POSTGRES_CODES[self.error]
        raise type(base.__name__, (base,), {"pgcode": self.error, "sqlstate": self.error})(
            text
        )  # read-only on the drivers' own


@contextmanager
def watch(act: Callable[[Moment, str], None] = nothing, saboteur: Saboteur | None = None) -> Iterator[Watcher]:
    """Watch this process; ``act`` is told of every moment, before and after."""
    watcher = Watcher(act)
    originals = (CursorWrapper._execute, CursorWrapper._executemany, BaseDatabaseWrapper._commit)
    execute, executemany, commit = originals

    def around(kind: str, connection: BaseDatabaseWrapper, do: Callable[[], Any]) -> Any:
        if saboteur is None:
            return watcher.around(kind, do)

        def fail(moment: Moment, when: str) -> None:
            with connection.wrap_database_errors:
                saboteur.fail(connection, moment, when)

        return watcher.around(kind, do, fail)

    def on_execute(self: Any, sql: Any, params: Any, *rest: Any) -> Any:
        return around("statement", self.db, lambda: execute(self, sql, params, *rest))

    def on_executemany(self: Any, sql: Any, params: Any, *rest: Any) -> Any:
        return around("statement", self.db, lambda: executemany(self, sql, params, *rest))

    def on_commit(self: Any) -> Any:
        if self.connection is None:
            return commit(self)
        return around("commit", self, lambda: commit(self))

    def on_file(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            frame = _product_frame()
            if frame is None or (name == "open" and not arguments[1] & os.O_CREAT):
                return original(*arguments, **options)
            return watcher.around(name, lambda: original(*arguments, **options))

        return step

    files = {name: getattr(os, name) for name in FILE_STEPS}
    CursorWrapper._execute, CursorWrapper._executemany, BaseDatabaseWrapper._commit = (  # type: ignore[method-assign]
        on_execute,
        on_executemany,
        on_commit,
    )
    for name, original in files.items():
        setattr(os, name, on_file(name, original))
    try:
        yield watcher
    finally:
        CursorWrapper._execute, CursorWrapper._executemany, BaseDatabaseWrapper._commit = originals  # type: ignore[method-assign]
        for name, original in files.items():
            setattr(os, name, original)
