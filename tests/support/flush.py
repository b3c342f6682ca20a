"""Let Django empty the tables after a transactional test, although the ledger's guards forbid just that.

Only the statements of the flush are let through: the guards are back before anything else runs.
"""

from typing import Any

from django.db.backends.postgresql.base import DatabaseOperations as PostgresOperations
from django.db.backends.sqlite3.base import DatabaseOperations as SQLiteOperations


def allow_flush() -> None:
    """Wrap the flush of both backends; call it once."""
    postgres_flush = PostgresOperations.sql_flush
    sqlite_flush = SQLiteOperations.sql_flush

    def on_postgres(self: PostgresOperations, *args: Any, **options: Any) -> list[str]:
        statements = postgres_flush(self, *args, **options)
        if not statements:
            return []
        # Needs a superuser. In this role no ordinary trigger fires.
        return [
            "SET LOCAL session_replication_role = replica",
            *statements,
            "SET LOCAL session_replication_role = origin",
        ]

    def on_sqlite(self: SQLiteOperations, *args: Any, **options: Any) -> list[str]:
        statements = sqlite_flush(self, *args, **options)
        with self.connection.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            triggers = cursor.fetchall()
        dropped = [f"DROP TRIGGER {self.quote_name(name)}" for name, _ in triggers]
        return [*dropped, *statements, *(sql for _, sql in triggers)]

    PostgresOperations.sql_flush = on_postgres  # type: ignore[method-assign]
    SQLiteOperations.sql_flush = on_sqlite  # type: ignore[method-assign]
