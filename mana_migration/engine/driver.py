"""The PostgreSQL driver: the only module that knows psycopg 2 from psycopg 3.

Django uses psycopg 3 wherever it can be imported, and psycopg 2 otherwise; so does this module.  On a
site that has neither, which can only use SQLite, it can still be imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

driver: Any = None
VERSION = 0
if TYPE_CHECKING:  # what is used of these is the same in both
    from psycopg2 import errors, sql
else:
    errors = sql = None
    try:
        import psycopg as driver
        from psycopg import errors, sql

        VERSION = 3
    except ImportError:
        with suppress(ImportError):
            import psycopg2 as driver
            from psycopg2 import errors, sql

            VERSION = 2

__all__ = [
    "VERSION", "Error", "aborted", "address_parts", "connect_read_only", "copy_from", "copy_to", "errors",
    "execute_message", "is_of_client", "message_of", "sends_messages", "sql", "sqlstate",
]  # fmt: skip

#: Base class of the driver's errors; without a driver, a class that is never raised.
Error: type[Exception] = driver.Error if VERSION else type("Error", (Exception,), {})

#: libpq's PQTRANS_INERROR, which both drivers report.
_IN_ERROR: Final = 3

#: Bytes read from a stream and sent to COPY at a time.
_CHUNK: Final = 1 << 16


# --- Errors -----------------------------------------------------------------------------------------------------------


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a PostgreSQL error, empty where there is none."""
    for one in (error.__cause__, error):
        state = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        if state:
            return str(state)
    return ""


def message_of(error: BaseException) -> str:
    """Return the server's message without DETAIL, which may quote a row; empty where there is none."""
    return getattr(getattr(error.__cause__ or error, "diag", None), "message_primary", None) or ""


def table_of_taken_key(error: BaseException) -> str:
    """Return the table whose primary key refused a row that has the key of another one; empty for other errors."""
    diag = getattr(error.__cause__ or error, "diag", None)
    constraint = getattr(diag, "constraint_name", None) or ""
    return str(diag.table_name) if sqlstate(error) == "23505" and "_pkey" in constraint and diag is not None else ""


def is_of_client(error: BaseException) -> bool:
    """Return whether Django's error wraps one of the driver's."""
    return bool(VERSION) and isinstance(error.__cause__, Error)


# --- Statements -------------------------------------------------------------------------------------------------------


def sends_messages(connection: BaseDatabaseWrapper) -> bool:
    """Return whether several statements with parameters can be sent in one message.

    Not with psycopg 3 where the site lets the server bind parameters (``server_side_binding``).
    """
    return connection.vendor == "postgresql" and not connection.settings_dict["OPTIONS"].get("server_side_binding")


def execute_message(
    cursor: CursorWrapper, statements: Sequence[str], parameters: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """Execute several statements, sent as one message where that is possible, and return the rows of the last.

    Raises:
        django.db.Error: one of them failed.
    """
    if sends_messages(cursor.db):
        cursor.execute("; ".join(statements), parameters)
        while VERSION == 3 and cursor.nextset():  # psycopg 2 keeps the result of the last statement only
            pass
    else:
        for statement in statements:
            cursor.execute(statement, parameters)
    return list(cursor.fetchall())


def aborted(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the session is in a transaction that an error has aborted."""
    raw = connection.connection
    return raw is not None and int(raw.info.transaction_status) == _IN_ERROR


# --- COPY -------------------------------------------------------------------------------------------------------------


class Readable(Protocol):
    """What COPY reads from."""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, none at the end."""


def copy_from(cursor: CursorWrapper, statement: str, stream: Readable) -> None:
    """Execute ``COPY ... FROM STDIN`` with what the stream returns, until it returns nothing.

    Raises:
        django.db.Error: the server refused a line.
    """
    if VERSION == 3:
        with cursor.db.wrap_database_errors, cursor.copy(statement) as copy:
            while data := stream.read(_CHUNK):
                copy.write(data)
        return
    with cursor.db.wrap_database_errors:
        cursor.copy_expert(statement, stream)


def copy_to(cursor: CursorWrapper, query: str, parameters: Sequence[Any], stream: BinaryIO, options: str) -> None:
    """Write the rows of a query to a stream with ``COPY (query) TO STDOUT WITH (options)``.

    COPY takes no parameters, so the driver writes them into the query's text.

    Raises:
        django.db.Error: the query failed.
    """
    if VERSION == 3:
        text = driver.ClientCursor(cursor.connection).mogrify(query, parameters)
        with cursor.db.wrap_database_errors, cursor.copy(f"COPY ({text}) TO STDOUT WITH ({options})") as copy:
            for data in copy:
                stream.write(data)
        return
    text = cursor.mogrify(query, parameters).decode()
    with cursor.db.wrap_database_errors:
        cursor.copy_expert(f"COPY ({text}) TO STDOUT WITH ({options})", stream)


# --- Connections outside Django ---------------------------------------------------------------------------------------


def connect_read_only(address: str, *, seconds: int) -> Any:
    """Open a connection whose transaction sees one moment and in which the server refuses every write.

    Args:
        address: a ``postgres://`` address.
        seconds: how long to wait for the server.

    Raises:
        Error, UnicodeError, ValueError: it cannot be opened.
    """
    connection: Any = driver.connect(address, connect_timeout=seconds, client_encoding="UTF8")
    if VERSION == 3:
        connection.isolation_level = driver.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
    else:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    return connection


def address_parts(address: str) -> dict[str, str]:
    """Return the parts of a database's address by libpq's names.

    Raises:
        Error: it is not an address.
    """
    parse = driver.conninfo.conninfo_to_dict if VERSION == 3 else driver.extensions.parse_dsn
    return {name: str(value) for name, value in parse(address).items()}
