"""The temporary table that a legacy export is read into before anything is decided.

All rows go there, the bad ones with their reasons: duplicates are found, existing users are looked
up and sums are made by the database, so that this process holds a few thousand rows at most.

On PostgreSQL every function must be called inside one transaction that its caller owns, and the
table ends with it; on SQLite the table belongs to the connection and is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.legacy import COLUMNS, BadRow, GoodRow, RowParser, UnpaidFlag
from mana_migration.engine import driver
from mana_migration.engine.new_users import UserTemplate
from mana_migration.engine.sources import LegacySource

TABLE: Final = "mana_import_staging"
#: Payments of the old ledger, one row an entry.
LEDGER: Final = "mana_import_ledger"

#: Rows handed to the database at a time.
CHUNK: Final = 2_000

#: Rows of the staging table ``s`` that may be imported.
GOOD: Final = "s.problem = '' AND s.first_row IS NULL"
BAD: Final = "s.problem <> '' OR s.first_row IS NOT NULL"

Parsed: TypeAlias = tuple[int, int | None, GoodRow | BadRow, str | None]
"""Number, line, the row as it was parsed, and as it was written (JSON) where that is kept."""

_READ: Final = (
    "row_no", "line", "problem", "shown", "username", "green", "blue", "red", "mana", "migrated", "nulls", "flagged",
)  # fmt: skip


def create(connection: BaseDatabaseWrapper, template: UserTemplate) -> None:
    """Create the empty staging table, with a column for each value that every new user has of their own."""
    on_postgresql = connection.vendor == "postgresql"
    columns = [
        f"row_no {'bigint' if on_postgresql else 'integer'} PRIMARY KEY",  # bad rows are paged by it
        "line bigint",
        "problem text NOT NULL",
        "shown text",
        f"username {template.name_type}",
        *(f"{name} bigint NOT NULL" for name in ("green", "blue", "red", "mana")),
        *(f"{name} smallint NOT NULL" for name in ("migrated", "nulls", "flagged")),
        "original text",
        "first_row bigint",
        *(f"{name} bigint NOT NULL DEFAULT 0" for name in ("payments", "paid")),
        "outcome text NOT NULL DEFAULT 'created'",
        *(f"{name} {field.db_type(connection)}" for name, field in template.generated.items()),
    ]
    drop(connection)
    ledger = ("username text", "payments bigint", "mana bigint")
    with connection.cursor() as cursor:
        for name, parts in ((TABLE, columns), (LEDGER, ledger)):
            end = " ON COMMIT DROP" if on_postgresql else ""
            cursor.execute(f"CREATE TEMPORARY TABLE {name} ({', '.join(parts)}){end}")


def drop(connection: BaseDatabaseWrapper) -> None:
    """Drop the staging tables if they are there."""
    schema = "pg_temp" if connection.vendor == "postgresql" else "temp"
    with connection.cursor() as cursor:
        for name in (TABLE, LEDGER):
            cursor.execute(f"DROP TABLE IF EXISTS {schema}.{name}")


def load(
    connection: BaseDatabaseWrapper,
    source: LegacySource,
    parser: RowParser,
    template: UserTemplate,
    *,
    keep: bool,
    on_rows: Callable[[int], None],
) -> int:
    """Read the whole source into the staging table and return the number of its rows.

    ``keep``: whether rows are also kept as they were written; ``on_rows`` takes the number of rows read so far, every
    ``CHUNK`` rows.

    Raises:
        SourceError: the source breaks off.
    """
    rows = _parsed(source, parser, keep=keep)
    copy = _copy if connection.vendor == "postgresql" else _insert
    count = copy(connection, rows, template, on_rows)
    with connection.cursor() as cursor:
        # the planner knows nothing of a new temporary table
        cursor.execute(f"ANALYZE {TABLE}" if connection.vendor == "postgresql" else f"ANALYZE temp.{TABLE}")
    return count


def _parsed(source: LegacySource, parser: RowParser, *, keep: bool) -> Iterator[Parsed]:
    parse = parser.parse
    for number, (line, values) in enumerate(source.rows(), 1):
        yield number, line, parse(values), json.dumps(source.original()) if keep else None


def _columns(template: UserTemplate) -> str:
    return ", ".join((*_READ, "original", *template.generated))


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _insert(
    connection: BaseDatabaseWrapper,
    rows: Iterable[Parsed],
    template: UserTemplate,
    on_rows: Callable[[int], None],
) -> int:
    marks = ", ".join(["%s"] * (len(_READ) + 1 + len(template.generated)))
    insert = f"INSERT INTO {TABLE} ({_columns(template)}) VALUES ({marks})"
    fresh = template.fresh_values(connection)
    count = 0
    with connection.cursor() as cursor:
        for chunk in _chunks(rows):
            cursor.executemany(insert, [_values(*parsed) + fresh() for parsed in chunk])
            count = chunk[-1][0]
            on_rows(count)
    return count


def _values(number: int, line: int | None, row: GoodRow | BadRow, original: str | None) -> tuple[Any, ...]:
    if isinstance(row, GoodRow):
        return (number, line, "", None, *row, original)
    return (number, line, row.problem, row.shown, row.id, 0, 0, 0, 0, 0, 0, 0, original)


def _chunks(rows: Iterable[Parsed]) -> Iterator[list[Parsed]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _copy(
    connection: BaseDatabaseWrapper,
    rows: Iterable[Parsed],
    template: UserTemplate,
    on_rows: Callable[[int], None],
) -> int:
    stream = _CopyStream(_chunks(rows), template, connection, on_rows)
    with connection.cursor() as cursor:
        driver.copy_from(cursor, f"COPY {TABLE} ({_columns(template)}) FROM STDIN", stream)
    if stream.error is not None:
        raise stream.error
    return stream.count


class _CopyStream:
    """Give COPY its next lines each time it reads.

    An error while reading is kept and ends the stream: the driver would send its text to the server.
    """

    def __init__(
        self,
        chunks: Iterator[list[Parsed]],
        template: UserTemplate,
        connection: BaseDatabaseWrapper,
        on_rows: Callable[[int], None],
    ) -> None:
        self._chunks, self._on_rows = chunks, on_rows
        self._fresh = template.fresh_values(connection) if template.generated else None
        self.count = 0
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the lines of the next chunk, nothing at the end."""
        try:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            lines = [_line(*parsed) for parsed in chunk]
            if self._fresh is not None:
                lines = [f"{line}\t{_fields(self._fresh())}" for line in lines]
            self.count = chunk[-1][0]
            self._on_rows(self.count)
            return ("\n".join(lines) + "\n").encode()
        except BaseException as error:  # kept: raised by the caller after the end of the COPY
            self.error = error
            return b""


def _line(number: int, line: int | None, row: GoodRow | BadRow, original: str | None) -> str:
    kept = "\\N" if original is None else _escaped(original)
    place = "\\N" if line is None else line
    if isinstance(row, GoodRow):
        key, green, blue, red, mana, migrated, nulls, flagged = row
        if "\\" in key:
            key = key.replace("\\", "\\\\")
        return (
            f"{number}\t{place}\t\t\\N\t{key}\t{green}\t{blue}\t{red}\t{mana}\t{migrated}\t{nulls}\t{flagged}\t{kept}"
        )
    return f"{number}\t{place}\t{_fields((row.problem, row.shown, row.id))}\t0\t0\t0\t0\t0\t0\t0\t{kept}"


def _fields(values: Sequence[Any]) -> str:
    return "\t".join("\\N" if value is None else _escaped(str(value)) for value in values)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


# --- What the rows are worth ------------------------------------------------------------------------------------------


def mark_duplicates(connection: BaseDatabaseWrapper, template: UserTemplate) -> None:
    """Mark each row whose id an earlier row has, good or bad, with that row's number.

    Ids are alike where the site's database calls them so as usernames.
    """
    name = template.folded.format(f"{TABLE}.username")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {TABLE} SET first_row = d.first_row FROM (SELECT {name} AS name, MIN(row_no) AS first_row "
            f"FROM {TABLE} WHERE username IS NOT NULL GROUP BY {name} HAVING COUNT(*) > 1) d "
            f"WHERE {name} = d.name AND {TABLE}.row_no > d.first_row"
        )


def bad_rows_by_reason(connection: BaseDatabaseWrapper) -> list[tuple[str, bool, int]]:
    """Return (problem, whether it is also a duplicate, rows) of the bad rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT s.problem, s.first_row IS NOT NULL, COUNT(*) FROM {TABLE} s WHERE {BAD} "
            "GROUP BY s.problem, s.first_row IS NOT NULL"
        )
        return [(problem, bool(duplicate), count) for problem, duplicate, count in cursor.fetchall()]


def bad_rows(
    connection: BaseDatabaseWrapper, *, limit: int | None = None
) -> Iterator[tuple[int, int | None, str, str, int | None, str | None]]:
    """Yield (row, line, id as shown, problem, first row with the id, original) of the bad rows, in order."""
    after, size = 0, CHUNK if limit is None else limit
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT s.row_no, s.line, COALESCE(s.username, s.shown, ''), s.problem, s.first_row, s.original "
                f"FROM {TABLE} s WHERE ({BAD}) AND s.row_no > %s ORDER BY s.row_no LIMIT %s",
                [after, size],
            )
            rows = cursor.fetchall()
        yield from rows
        if limit is not None or len(rows) < size:
            return
        after = rows[-1][0]


# --- Which of the site's users are meant ------------------------------------------------------------------------------


def fitting_users(connection: BaseDatabaseWrapper, template: UserTemplate) -> dict[str, int]:
    """Count the good rows whose id is a user's primary key, and those whose id is a username."""
    found = {}
    for match in ("pk", "username"):
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT COUNT(*) FROM {TABLE} s JOIN {template.table} u "
                f"ON {template.matching(match, connection).condition} WHERE {GOOD}"
            )
            found[match] = int(cursor.fetchone()[0])
    return found


def mark_unknown_users(connection: BaseDatabaseWrapper, template: UserTemplate) -> None:
    """Make each good row bad whose user is not there, for an import that creates none."""
    # each database has one form of the anti-join that it does not work out row by row
    unknown = (
        f"NOT EXISTS (SELECT 1 FROM {template.table} u WHERE {template.condition})"
        if connection.vendor == "postgresql"
        else f"{template.row_side} NOT IN (SELECT {template.user_side} FROM {template.table} u)"
    )
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} AS s SET problem = 'no_such_user:id' WHERE {GOOD} AND {unknown}")


# --- The old ledger ---------------------------------------------------------------------------------------------------


def load_ledger(connection: BaseDatabaseWrapper, entries: Iterable[tuple[str, int, int]]) -> int:
    """Add up the old ledger's payments into the staging table and return the number of entries.

    ``entries``: user, 1 for a payment or -1 for one that was rolled back, mana with the same sign.
    """
    on_postgresql = connection.vendor == "postgresql"
    # the old system's own ids, which may differ by case alone
    own = f'{TABLE}.username::text COLLATE "C"' if on_postgresql else f"{TABLE}.username COLLATE BINARY"
    count = 0
    with connection.cursor() as cursor:
        iterator = iter(entries)
        while chunk := list(islice(iterator, CHUNK)):
            count += len(chunk)
            if on_postgresql:
                columns = [list(column) for column in zip(*chunk, strict=True)]
                cursor.execute(
                    f"INSERT INTO {LEDGER} SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])", columns
                )
            else:
                cursor.executemany(f"INSERT INTO {LEDGER} VALUES (%s, %s, %s)", chunk)
        cursor.execute(
            f"UPDATE {TABLE} SET payments = l.payments, paid = l.paid FROM (SELECT username, "
            f"SUM(payments) AS payments, SUM(mana) AS paid FROM {LEDGER} GROUP BY username) l "
            f"WHERE {own} = l.username"
        )
    return count


@dataclass(frozen=True, slots=True)
class LedgerFindings:
    """What the old ledger says of the good rows, in users."""

    paid_and_spent: int
    never_paid: int
    paid_twice: int
    paid_unflagged: int


def apply_ledger(connection: BaseDatabaseWrapper, *, rates: Mapping[str, int], unpaid: UnpaidFlag) -> LedgerFindings:
    """Let the old ledger decide which flagged users were paid, and return what it says."""
    factor = "::numeric" if connection.vendor == "postgresql" else ""
    worth = " + ".join(f"{rate} * s.{colour}{factor}" for colour, rate in rates.items())
    conditions = {
        "paid_and_spent": "s.flagged = 2 AND s.paid > 0",
        "never_paid": f"s.flagged > 0 AND s.paid <= 0 AND {worth} > 0",
        "paid_twice": "s.payments > 1",
        "paid_unflagged": "s.flagged = 0 AND s.paid > 0",
    }
    counts = ", ".join(f"COUNT(*) FILTER (WHERE {condition})" for condition in conditions.values())
    never = {
        UnpaidFlag.REJECT: f"problem = 'never_paid:{COLUMNS['migrated']}'",
        UnpaidFlag.MIGRATED: "flagged = 2",
        UnpaidFlag.PENDING: "flagged = 2, migrated = 0",
    }[unpaid]
    changes = {
        "paid_and_spent": "flagged = 1, migrated = 1",
        "never_paid": never,
        "paid_unflagged": f"problem = 'paid_unflagged:{COLUMNS['migrated']}'",
    }
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {counts} FROM {TABLE} s WHERE {GOOD}")
        found = LedgerFindings(*map(int, cursor.fetchone()))
        for name, change in changes.items():
            cursor.execute(f"UPDATE {TABLE} AS s SET {change} WHERE {GOOD} AND {conditions[name]}")
    return found
