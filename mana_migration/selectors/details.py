"""Every user of a run, streamed: one page of the index on (user, run) at a time, never more in memory.

A page begins after the last key of the page before, so that no cursor has to stay open on the server
(which a connection pooler in transaction mode would not allow).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections

from mana_migration.domain.report import UserDetail
from mana_migration.engine import users
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.states import RunKind

#: Users read at a time.
PAGE: Final = 5_000

TABLE: Final = "mana_migration_usermigration"
COLUMNS: Final = (
    "id, run_id, status, green, blue, red, mana_before, mana_credited, error_class, "
    "reversal_run_id, mana_debited, shortfall"
)

#: Text is short and ours, but a class of errors could be named by a site's own code: no cell starts a formula.
#: Nearly everybody has none, and looking for a formula in nothing costs half as much as writing the whole line.
_COPY_COLUMNS: Final = COLUMNS.replace(
    "error_class",
    "CASE error_class WHEN '' THEN '' ELSE "
    "CASE WHEN error_class ~ E'^[-=+@|%%\\t\\r\\n\\\\uFF0B\\\\uFF0D\\\\uFF1D\\\\uFF20]' THEN '''' ELSE '' END "
    "|| translate(error_class, E'\\t\\r\\n', '   ') END",
)


@dataclass(frozen=True, slots=True)
class RunDetails:
    """The users of one run; see ``domain.report.UserDetails``.

    ``condition`` selects its records and is true of at most one record a user; ``bounds`` are the
    least and the greatest user key that its batches name, None where that is not known.
    """

    run: int
    using: str
    condition: str
    parameters: tuple[int, ...]
    bounds: tuple[Any, Any] | None

    @classmethod
    def of(cls, run: MigrationRun, using: str) -> RunDetails:
        """Return the users of a run: its records, and for a rollback also those that it took back."""
        condition, parameters = records_of(run)
        return cls(run.pk, using, condition, parameters, _bounds(run, using))

    def __iter__(self) -> Iterator[UserDetail]:
        """Yield every user's line in the order of the users' keys."""
        where, values = self._where()
        key: Any = None
        record = 0
        while True:
            after = "" if key is None else " AND (user_id, id) > (%s, %s)"
            with connections[self.using].cursor() as cursor:
                cursor.execute(
                    f"SELECT user_id, {COLUMNS} FROM {TABLE} WHERE {where}{after} ORDER BY user_id, id LIMIT %s",
                    [*values, *([] if key is None else [key, record]), PAGE],
                )
                rows = cursor.fetchall()
            for row in rows:
                yield UserDetail._make(row[1:])
            if len(rows) < PAGE:
                return
            key, record = rows[-1][:2]

    def problems(self, limit: int) -> list[UserDetail]:
        """Return the first ``limit`` users who failed or were skipped."""
        with connections[self.using].cursor() as cursor:
            cursor.execute(
                f"SELECT {COLUMNS} FROM {TABLE} WHERE run_id = %s AND status IN ('failed', 'skipped') "
                "ORDER BY id LIMIT %s",
                [self.run, limit],
            )
            return [UserDetail._make(row) for row in cursor.fetchall()]

    def copy_csv(self, stream: BinaryIO) -> bool:
        """Let PostgreSQL write all lines as CSV, in no particular order; return False on another database."""
        connection = connections[self.using]
        if connection.vendor != "postgresql":
            return False
        where, values = self._where()
        with connection.cursor() as cursor:
            # COPY takes no parameters: the driver writes them into the text
            query = cursor.mogrify(f"SELECT {_COPY_COLUMNS} FROM {TABLE} WHERE {where}", values).decode()
            cursor.copy_expert(f"COPY ({query}) TO STDOUT WITH (FORMAT csv)", stream)
        return True

    def _where(self) -> tuple[str, list[Any]]:
        if self.bounds is None:
            return self.condition, [*self.parameters]
        return f"{self.condition} AND user_id BETWEEN %s AND %s", [*self.parameters, *self.bounds]


def records_of(run: MigrationRun) -> tuple[str, tuple[int, ...]]:
    """Return the condition, and its parameters, of the records that a run is about."""
    if run.kind == RunKind.ROLLBACK:
        return "(run_id = %s OR reversal_run_id = %s)", (run.pk, run.pk)
    return "run_id = %s", (run.pk,)


def _bounds(run: MigrationRun, using: str) -> tuple[Any, Any] | None:
    """Return the least and the greatest user key of a run's batches, as SQL parameters.

    Batches keep keys as text, whose order is not that of the keys.  None for keys that are text
    themselves: how the database orders those is its own affair.
    """
    field: Any = get_user_model()._meta.pk
    least: Any = None
    greatest: Any = None
    last = 0
    while True:
        batches = MigrationBatch.objects.using(using).filter(run_id=run.pk, pk__gt=last).order_by("pk")
        rows = list(batches.values_list("pk", "first_user", "last_user")[:PAGE])
        for _, first_text, last_text in rows:
            try:
                first, end = field.to_python(first_text), field.to_python(last_text)
            except ValidationError:
                return None
            if isinstance(first, str):
                return None
            least = first if least is None or first < least else least
            greatest = end if greatest is None or end > greatest else greatest
        if len(rows) < PAGE:
            break
        last = rows[-1][0]
    if least is None:
        return None
    connection = connections[using]
    return users.to_sql(connection, str(least)), users.to_sql(connection, str(greatest))
