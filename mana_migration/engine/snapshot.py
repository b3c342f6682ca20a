"""A view of one moment in which the database itself refuses every write, by one session or by two at once.

# Note [Beside]
A report's checks and sums keep one of the server's processors busy for as long as its lines keep
another.  PostgreSQL lets a second session see the moment that the first one sees, for as long as that
one's transaction lasts; so the two are done side by side, on one moment, where a second session can be
had.  Everywhere else they follow one another.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from django.db import OperationalError, connections, transaction

_Found = TypeVar("_Found")

#: Seconds between two attempts to cancel the second session: it may have been between two statements.
CANCEL_AGAIN: Final = 0.1


@contextmanager
def read_only_snapshot(using: str) -> Iterator[None]:
    """Open a read-only transaction that sees one moment: REPEATABLE READ on PostgreSQL, a deferred read on SQLite.

    Inside another transaction it can only see what that one sees; it is read-only all the same.

    Raises:
        django.db.Error: something inside tried to write.
    """
    connection = connections[using]
    nested = connection.in_atomic_block
    if connection.vendor == "postgresql":
        with transaction.atomic(using=using):
            with connection.cursor() as cursor:
                if nested:
                    cursor.execute("SELECT set_config('transaction_read_only', 'on', true)")
                else:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
            if nested:
                transaction.set_rollback(True, using=using)  # gives the outer transaction its writes back
        return
    connection.ensure_connection()
    mode = connection.transaction_mode  # type: ignore[attr-defined]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA query_only = ON")
    # an IMMEDIATE transaction would keep every writer out
    connection.transaction_mode = "DEFERRED"  # type: ignore[attr-defined]
    try:
        with transaction.atomic(using=using):
            yield
    finally:
        connection.transaction_mode = mode  # type: ignore[attr-defined]
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = OFF")


@contextmanager
def beside(using: str, work: Callable[[], _Found]) -> Iterator[Callable[[], _Found]]:
    """Have work that only reads done by a second session meanwhile, on the moment of the caller's snapshot.

    Yields what waits for its result, or raises its error; where no second session can be had it does
    the work itself, see Note [Beside].  At the end of the block the second session is gone, whatever
    it was doing.
    """
    moment = _exported(using)
    if moment is None:
        yield work
        return
    found: Future[Callable[[], _Found]] = Future()
    sessions: list[Any] = []  # the second one, once it is there

    def second() -> None:
        connection = connections[using]  # a thread has connections of its own
        try:
            connection.ensure_connection()
            sessions.append(connection.connection)
            with transaction.atomic(using=using):
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    cursor.execute("SET TRANSACTION SNAPSHOT %s", [moment])
                result = work()
            found.set_result(lambda: result)
        except OperationalError as error:
            if sessions:
                found.set_exception(error)
            else:  # the server has no session left
                found.set_result(work)
        except BaseException as error:  # raised where the result is asked for
            found.set_exception(error)
        finally:
            connection.close()

    def wait() -> _Found:
        return found.result()()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(second,), name="beside")
    thread.start()
    try:
        yield wait
    finally:
        while thread.is_alive():
            if not found.done():
                for session in sessions:
                    with suppress(session.Error):  # it has just ended
                        session.cancel()
            thread.join(CANCEL_AGAIN)


def _exported(using: str) -> str | None:
    """Return the name under which another session can see this transaction's moment; None where it cannot."""
    connection = connections[using]
    if connection.vendor != "postgresql" or len(connection.savepoint_ids) or not connection.in_atomic_block:
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_export_snapshot()")
        return str(cursor.fetchone()[0])
