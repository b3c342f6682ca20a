"""A legacy PostgreSQL database, read in one read-only snapshot, a few thousand rows at a time.

The address may hold a password.  No message shows any part of it but the host and the database, and
those only where the address can be read in one way; libpq's own messages are never passed on,
because it quotes what it misunderstood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from mana_migration.domain.legacy import Typing
from mana_migration.engine import driver
from mana_migration.engine.driver import errors, sql
from mana_migration.engine.sources.base import LegacySource, SourceOptions, SourceRow, as_text, positions
from mana_migration.engine.sources.databases import CHUNK, table_name
from mana_migration.errors import SourceError

_CONNECT_SECONDS: Final = 10

#: Words of libpq's messages, and what to report.
_CAUSES: Final = (
    ("could not translate host name", "its host's name is not known"),
    ("refused", "nothing listens there"),
    ("No such file", "nothing listens there"),
    ("timeout", "it does not answer"),
    ("timed out", "it does not answer"),
    ("No route", "that host cannot be reached"),
    ("unreachable", "that host cannot be reached"),
    ("password", "it refuses the user or the password"),
    ("pg_hba", "it refuses this user from this machine"),
    ("authentication", "it refuses the user or the password"),
    ("role", "it does not know the user"),
    ("database", "no such database, or this user may not open it"),
    ("SSL", "no encrypted connection could be made"),
    ("too many", "it has no connection left"),
    ("starting up", "it is still starting"),
)


class PostgresqlSource(LegacySource):
    """A table or view of a PostgreSQL database."""

    kind = "postgresql"
    typing = Typing.FLOATS

    def __init__(self, address: str, options: SourceOptions, connection: Any = None) -> None:
        super().__init__()
        self._address, self._owner = address, connection is None
        self._table = table_name(options)
        self._label = _label(address)
        seconds = int(driver.address_parts(address).get("connect_timeout", _CONNECT_SECONDS))
        try:
            # one snapshot for all rows, and the server itself refuses any write
            self._connection = connection or driver.connect_read_only(address, seconds=seconds)
        except (driver.Error, UnicodeError, ValueError) as error:
            raise SourceError(f"{self._label} cannot be opened: {_cause(str(error))}") from None
        try:
            self._open(options)
        except BaseException:
            self.close()
            raise

    def _open(self, options: SourceOptions) -> None:
        relation = sql.Identifier(*self._table)
        where = f"{self._label}, table {'.'.join(self._table)}"
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', '0', true)")
                cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(relation))
                found = [column.name for column in cursor.description or ()]
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            raise SourceError(f"{where}: no such table; name it with --table") from None
        except errors.InsufficientPrivilege:
            raise SourceError(f"{where}: this user may not read it; grant SELECT to the user") from None
        except driver.Error as error:
            raise SourceError(f"{where} cannot be read: {_sentence(error)}") from None
        columns = options.columns
        positions(found, columns, where=where)
        self._header = list(columns.values())
        self._query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(sql.Identifier(columns[name]) for name in columns),
            relation,
            sql.Identifier(next(iter(columns.values()))),
        )

    def rows(self) -> Iterator[SourceRow]:
        """Yield (None, values) in the order of the ids."""
        count = 0
        try:
            # A cursor on the server lives in this one transaction, which PgBouncer keeps on one server connection.
            with self._connection.cursor("import_balances") as cursor:
                cursor.itersize = CHUNK
                cursor.execute(self._query)
                while chunk := cursor.fetchmany(CHUNK):
                    for values in chunk:
                        self._latest = values
                        yield None, values
                    count += len(chunk)
        except UnicodeDecodeError:
            raise SourceError(f"{self._label}: text that is not UTF-8 after row {count:,}; correct it") from None
        except driver.Error as error:
            raise SourceError(f"{self._label}: lost after row {count:,} ({_sentence(error)}); try again") from None

    @property
    def header(self) -> Sequence[str]:
        """Return the names of the columns that are read."""
        return self._header

    def original(self) -> list[list[str]]:
        """Return the latest row."""
        return [[as_text(value) for value in self._latest]]

    def beside(self, options: SourceOptions) -> PostgresqlSource:
        """Open another table of the same database, in the same snapshot."""
        return PostgresqlSource(self._address, options, self._connection)

    def close(self) -> None:
        """Close the connection, if it is this source's own; the read-only transaction ends with it."""
        if self._owner:
            self._connection.close()


def _label(address: str) -> str:
    """Name a database by its host and name, after making sure that the address has one meaning.

    Raises:
        SourceError: it is not an address, or a special character of the password is not encoded.
    """
    authority = address.partition("://")[2].partition("/")[0].partition("?")[0]
    if address.count("@") != authority.count("@") or authority.count("@") > 1:
        raise SourceError(
            "the address of the legacy database can be read in two ways; "
            "write special characters of the password as %40 for @, %2F for / and so on"
        )
    try:
        parts = driver.address_parts(address)
        _ = [
            int(number) for name in ("port", "connect_timeout") for number in parts.get(name, "0").split(",") if number
        ]
    except (driver.Error, ValueError, UnicodeError):
        raise SourceError(
            "the address of the legacy database cannot be read; give postgres://USER:PASSWORD@HOST:PORT/NAME "
            "with special characters percent-encoded (it is not shown here)"
        ) from None
    name = parts.get("dbname") or parts.get("user")
    return (f"legacy database {name!r}" if name else "the legacy database without a name") + (
        f" on {parts['host']}" if parts.get("host") else ""
    )


def _cause(message: str) -> str:
    return next((cause for word, cause in _CAUSES if word in message), "the connection failed")


def _sentence(error: BaseException) -> str:
    """Return the server's own first sentence; it is about the query, which holds no value."""
    return driver.message_of(error) or "the connection broke"
