"""A view of one moment in which the database itself refuses every write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections, transaction


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
