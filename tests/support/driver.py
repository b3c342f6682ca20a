"""The PostgreSQL driver that Django uses: psycopg 3 where it is installed, psycopg2 in the project's own place."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg2 as psycopg
    from psycopg2 import errors, sql
else:
    try:
        import psycopg
        from psycopg import errors, sql
    except ImportError:
        import psycopg2 as psycopg
        from psycopg2 import errors, sql

__all__ = ["errors", "psycopg", "sql"]
