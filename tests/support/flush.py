"""Let Django empty the tables after a transactional test, although the ledger's guards forbid just that, and quickly.

Only the statements of the flush are let through: the guards are back before anything else runs.

Emptying every table and then writing permissions and content types anew is most of the work of a short test.  So
tables that hold nothing are left alone, and those two, which no test changes, keep what ``migrate`` wrote.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.commands import flush
from django.db.backends.postgresql.base import DatabaseOperations as PostgresOperations
from django.db.backends.sqlite3.base import DatabaseOperations as SQLiteOperations

#: What ``migrate`` writes by itself, and would write again after each flush.
WRITTEN_BY_MIGRATE = frozenset({"auth_permission", "django_content_type"})
#: Bytes up to which rows are deleted; beyond, the tables are truncated, which always takes a tenth of a second.
SMALL = 1_000_000


#: Django's own, for the tests of the command that sites have.
ORIGINALS = (PostgresOperations.sql_flush, SQLiteOperations.sql_flush, flush.emit_post_migrate_signal)


def allow_flush() -> None:
    """Replace the flush of both backends; call it once."""
    PostgresOperations.sql_flush = _on_postgres  # type: ignore[method-assign]
    SQLiteOperations.sql_flush = _on_sqlite  # type: ignore[method-assign]
    flush.emit_post_migrate_signal = _nothing


@contextmanager
def as_in_a_site() -> Iterator[None]:
    """Flush within the block as a site without this module does."""
    PostgresOperations.sql_flush, SQLiteOperations.sql_flush, flush.emit_post_migrate_signal = ORIGINALS  # type: ignore[method-assign]
    try:
        yield
    finally:
        allow_flush()


def _nothing(*args: Any, **options: Any) -> None:
    """Write no permissions: they are still there."""


def _on_postgres(self: Any, style: Any, tables: Iterable[str], **options: Any) -> list[str]:
    ours = sorted(set(tables) - WRITTEN_BY_MIGRATE)
    with self.connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, pg_relation_size(quote_ident(name)::regclass) FROM unnest(%s::text[]) AS name", [ours]
        )
        sizes = {name: size for name, size in cursor.fetchall() if size}
    if sum(sizes.values()) > SMALL:
        # all at once, because they refer to one another
        statements = [f"TRUNCATE {', '.join(map(self.quote_name, ours))}"]
    else:
        statements = [f"DELETE FROM {self.quote_name(name)}" for name in sizes]
    if not statements:
        return []
    # Needs a superuser. In this role no ordinary trigger fires, and no foreign key is looked after.
    return ["SET LOCAL session_replication_role = replica", *statements, "SET LOCAL session_replication_role = origin"]


def _on_sqlite(self: Any, style: Any, tables: Iterable[str], **options: Any) -> list[str]:
    ours = sorted(set(tables) - WRITTEN_BY_MIGRATE)
    look = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {self.quote_name(name)})" for name in ours)
    with self.connection.cursor() as cursor:
        cursor.execute(look)
        filled = {name for (name,) in cursor.fetchall()}
        cursor.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [(name, sql) for name, table, sql in cursor.fetchall() if table in filled]
    dropped = [f"DROP TRIGGER {self.quote_name(name)}" for name, _ in triggers]
    statements = [f"DELETE FROM {self.quote_name(name)}" for name in sorted(filled)]
    return [*dropped, *statements, *(sql for _, sql in triggers)]
