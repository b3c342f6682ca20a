"""What differs between the two databases, in one place.

# Note [One statement, two databases]
Writes over the same rows are written once, as statements that read a relation called ``picked``.  On
PostgreSQL they become one statement, ``WITH picked AS (...), write_1 AS (INSERT ...), write_2 AS
(UPDATE ...) SELECT ... FROM picked``: one round trip, one snapshot, rows locked in key order as they
are picked.  SQLite has no data-modifying ``WITH``; there ``picked`` is a temporary table and the same
statements follow one another in the same IMMEDIATE transaction, which has no second writer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from wishes.rates import BIGINT_MAX
from wishes.sql import block

NOW: Final = {
    "postgresql": "statement_timestamp()",
    # six digits, as Django writes them: SQLite compares date-times as text
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f000', 'now')",
}
"""The database's own clock, so that machines need not agree on the time."""


def now(vendor: str) -> str:
    """Return the SQL of the database's clock."""
    return NOW[vendor]


def lock(vendor: str, alias: str, *, skip_locked: bool = False) -> str:
    """Return the clause that locks the rows of ``alias``; SQLite locks the whole database instead."""
    if vendor != "postgresql":
        return ""
    return f"FOR NO KEY UPDATE OF {alias}" + (" SKIP LOCKED" if skip_locked else "")


def ordered_lock(vendor: str, key: str, alias: str) -> str:
    """Return the end of a subselect that locks the rows of ``alias`` in the order of a key.

    OFFSET 0 keeps PostgreSQL from evaluating the columns once more wherever they are read.
    """
    order = f"ORDER BY {key}"
    return f"{order}\n{lock(vendor, alias)} OFFSET 0" if vendor == "postgresql" else order


def lock_wallets(vendor: str, condition: str) -> str:
    """Return the statement that locks the wallets ``w`` of a condition in the order of their keys; empty on SQLite."""
    if vendor != "postgresql":
        return ""
    return block(
        """
        SELECT 1
        FROM wishes_wallet w
        WHERE {condition}
        ORDER BY w.user_id
        {lock}
        """,
        condition=condition,
        lock=lock(vendor, "w"),
    )


def exceeds_bigint(vendor: str, exact: str, approximate: str) -> str:
    """Return a condition that holds where a sum of non-negative terms passes BIGINT.

    ``exact`` is the sum written so that PostgreSQL computes it in NUMERIC; SQLite turns an integer
    overflow into a float, which ``approximate`` betrays by its type.
    """
    if vendor == "postgresql":
        return f"({exact}) > {BIGINT_MAX}"
    return f"typeof({approximate}) <> 'integer'"


def exact_sum(vendor: str, expression: str) -> str:
    """Return two columns whose combination by ``combine`` is the exact sum of a BIGINT expression.

    PostgreSQL sums BIGINT as NUMERIC; SQLite raises "integer overflow", so it sums the upper and
    the lower 32 bits separately.
    """
    if vendor == "postgresql":
        return f"COALESCE(SUM({expression}), 0), 0"
    return f"COALESCE(SUM(({expression}) >> 32), 0), COALESCE(SUM(({expression}) & 4294967295), 0)"


def combine(vendor: str, first: Any, second: Any) -> int:
    """Return the exact integer that the two columns of ``exact_sum`` make."""
    return int(first) if vendor == "postgresql" else (int(first) << 32) + int(second)


class SetStatement:
    """Pick rows once and run several writes on them; see Note [One statement, two databases].

    Args:
        columns: the names of the columns of ``picked``, in the order of ``source``.
        source: the SELECT that picks (and locks) the rows; placeholders are ``%s``.
        writes: INSERT, UPDATE or DELETE statements that read ``picked``.
        result: the SELECT over ``picked`` whose rows ``run`` returns.
    """

    def __init__(self, *, vendor: str, columns: Sequence[str], source: str, writes: Sequence[str], result: str) -> None:
        self._vendor = vendor
        self._columns = columns
        self._source, self._writes, self._result = source, list(writes), result
        parts = [f"picked AS MATERIALIZED ({source})"]
        parts += [f"write_{number} AS ({write})" for number, write in enumerate(writes, 1)]
        self._sql = f"WITH {', '.join(parts)} {result}"
        name = f"picked_{zlib.crc32(','.join(columns).encode()):08x}"  # one table for each set of columns
        self._create = f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({', '.join(columns)})"
        self._table = f"temp.{name}"

    def run(
        self,
        cursor: CursorWrapper,
        *,
        source: Sequence[Any] | Mapping[str, Any],
        writes: Sequence[Sequence[Any] | Mapping[str, Any]],
    ) -> list[tuple[Any, ...]]:
        """Execute everything and return the rows of the result; must be called inside a transaction.

        Args:
            cursor: a cursor of the transaction's connection.
            source: parameters of the source.
            writes: parameters of each write.
        """
        if self._vendor == "postgresql":
            cursor.execute(self._sql, [*source, *(value for values in writes for value in values)])
            return list(cursor.fetchall())
        cursor.execute(self._create)
        cursor.execute(f"DELETE FROM {self._table}")
        cursor.execute(f"INSERT INTO {self._table} {self._source}", source)
        table = self._table
        for write, values in zip(self._writes, writes, strict=True):
            cursor.execute(f"WITH picked AS (SELECT * FROM {table}) {write}", values)
        cursor.execute(f"WITH picked AS (SELECT * FROM {table}) {self._result}")
        return list(cursor.fetchall())


def settings_sql(settings: Mapping[str, object]) -> str:
    """Return PostgreSQL's statement that changes settings for the rest of this transaction.

    Behind PgBouncer in transaction mode a session's setting would leak to others.
    """
    changes = [f"set_config('{name}', '{value}', true)" for name, value in settings.items()]
    return "SELECT " + ",\n       ".join(changes)


#: Settings for statements that read every table by a range of its keys, however few rows it had when
#: it was last counted: the tables of a migration grow faster than that.
KEYED_PLANS: Final = dict.fromkeys(("jit", "enable_seqscan", "enable_hashjoin"), "off")


def read_by_key(connection: BaseDatabaseWrapper) -> None:
    """Let the rest of this transaction read its tables by their keys; nothing to do on SQLite."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(settings_sql(KEYED_PLANS))


#: Settings for a few statements that each read whole tables.  Compiling their many expressions costs more than it
#: saves, and 4 MB, the usual work_mem, is soon spilled to files.
WIDE_PLANS: Final = (
    "SELECT set_config('jit', 'off', true), "
    "set_config('work_mem', GREATEST(pg_size_bytes(current_setting('work_mem')) / 1024, 65536) || 'kB', true)"
)


def read_whole_tables(connection: BaseDatabaseWrapper) -> None:
    """Prepare the rest of this transaction for reading whole tables; nothing to do on SQLite."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(WIDE_PLANS)


#: Settings for a block of statements that join whole tables, and for one that reads the records, the entries and the
#: wallets of some users.  Where a table grew since PostgreSQL last analyzed it, as those of a first run did when it is
#: checked a second after its end, it believes that a range of keys holds a handful of rows, and reads another whole
#: table once for each of them.
JOINED_WHOLE: Final = ("enable_nestloop",)
JOINED_BY_KEY: Final = ("jit", "enable_seqscan", "enable_hashjoin", "enable_material")


@contextmanager
def joined(connection: BaseDatabaseWrapper, without: Sequence[str]) -> Iterator[None]:
    """Let the statements of a block, within a transaction, do without these kinds of plans; nothing to do on SQLite."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute(settings_sql(dict.fromkeys(without, "off")))
    yield  # an error ends the transaction, and the settings with it
    with connection.cursor() as cursor:
        cursor.execute("; ".join(f"SET LOCAL {name} TO DEFAULT" for name in without))


def set_timeouts(connection: BaseDatabaseWrapper, *, lock_ms: int, statement_ms: int) -> None:
    """Bound this transaction's waits, so that the tool and not the site is the victim.

    On SQLite the connection's own timeout applies.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(settings_sql({"lock_timeout": lock_ms, "statement_timeout": statement_ms}))
