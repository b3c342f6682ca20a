"""Every user of a run, streamed in the order of the records' ids: one page at a time, never more in memory.

A page begins after the last id of the page before, so that no cursor has to stay open on the server
(which a connection pooler in transaction mode would not allow).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final

from django.db import connections

from mana_migration.domain.report import UserDetail
from mana_migration.engine import driver, users
from mana_migration.engine.integrity import quick
from mana_migration.models import MigrationRun
from mana_migration.states import RunKind
from wishes.moments import MomentField

#: Users read at a time.
PAGE: Final = 5_000

TABLE: Final = "mana_migration_usermigration"

#: A moment to the second in UTC, as text; the same on both databases, and made by them, a million times.
_MOMENT: Final = {
    "postgresql": """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')""",
    "sqlite": "strftime('%%Y-%%m-%%dT%%H:%%M:%%S+00:00', {})",
}

#: Text of errors can be a site's own: no cell starts a formula, and each is one line.
_GUARDED: Final = (
    r"CASE WHEN {0} ~ E'^[-=+@|%%\t\r\n\\uFF0B\\uFF0D\\uFF1D\\uFF20]' THEN '''' ELSE '' END "
    r"|| regexp_replace({0}, E'[\\x01-\\x1f]', ' ', 'g')"
)


def columns(vendor: str, *, guarded: bool = False) -> str:
    """Return the columns of ``UserDetail`` as SQL, for a statement with parameters.

    ``guarded``: text as ``reports.cells.safe_text`` returns it, which PostgreSQL alone can write.
    """
    moment = _MOMENT[vendor].format
    texts = {name: f"NULLIF({name}, '')" for name in ("error_class", "error_message")}
    if guarded:  # nearly every user has none, and looking for a formula in nothing costs half as much as the whole line
        texts = {name: f"CASE {name} WHEN '' THEN NULL ELSE {_GUARDED.format(name)} END" for name in texts}
    return (
        f"id, run_id, status, {moment('created_at')}, green, blue, red, mana_before, mana_credited, "
        f"{texts['error_class']}, {texts['error_message']}, "
        f"reversal_run_id, {moment('reversed_at')}, mana_debited, shortfall"
    )


@dataclass(frozen=True, slots=True)
class RunDetails:
    """The users of one run; see ``domain.report.UserDetails``.

    ``condition`` selects its records and is true of at most one record a user.
    """

    using: str
    condition: str
    parameters: tuple[Any, ...]

    @classmethod
    def of(cls, run: MigrationRun, using: str, since: datetime | None = None) -> RunDetails:
        """Return the users of a run: its records, and for a rollback also those that it reversed.

        ``since`` keeps those who were handled, or whose conversion was reversed, at that moment or later.
        """
        return cls(using, *records_of(run, using, since))

    @classmethod
    def of_all(cls, using: str, since: datetime | None = None) -> RunDetails:
        """Return all users whom any run has handled, each by the record that decides where the user is now."""
        return cls(using, *final_records(using, since))

    def __iter__(self) -> Iterator[UserDetail]:
        """Yield every user's line in the order of the records' ids."""
        wanted = columns(connections[self.using].vendor)
        record = 0
        while True:
            with connections[self.using].cursor() as cursor:
                cursor.execute(
                    f"SELECT {wanted} FROM {TABLE} WHERE {self.condition} AND id > %s ORDER BY id LIMIT %s",
                    [*self.parameters, record, PAGE],
                )
                rows = cursor.fetchall()
            yield from map(UserDetail._make, rows)
            if len(rows) < PAGE:
                return
            record = rows[-1][0]

    def problems(self, limit: int) -> list[UserDetail]:
        """Return the first ``limit`` users who failed or were skipped."""
        with connections[self.using].cursor() as cursor:
            cursor.execute(
                f"SELECT {columns(connections[self.using].vendor)} FROM {TABLE} "
                f"WHERE {self.condition} AND status IN ('failed', 'skipped') ORDER BY id LIMIT %s",
                [*self.parameters, limit],
            )
            return [UserDetail._make(row) for row in cursor.fetchall()]

    def copy_csv(self, stream: BinaryIO) -> bool:
        """Let PostgreSQL write all lines as CSV; return False on another database."""
        connection = connections[self.using]
        if connection.vendor != "postgresql":
            return False
        with connection.cursor() as cursor:
            query = f"SELECT {columns('postgresql', guarded=True)} FROM {TABLE} WHERE {self.condition} ORDER BY id"
            driver.copy_to(cursor, query, self.parameters, stream, "FORMAT csv")
        return True


def records_of(run: MigrationRun, using: str, since: datetime | None = None) -> tuple[str, tuple[Any, ...]]:
    """Return the condition, and its parameters, of the records that a run is about.

    It also names what is known of where they are, its selected users or the ids between which they lie, so that what
    came before the run and after it is not read.  ``since`` keeps those that were written, or reversed, at that moment
    or later.
    """
    condition, parameters = "run_id = %s", [run.pk]
    if run.kind == RunKind.ROLLBACK:
        condition, parameters = "(run_id = %s OR reversal_run_id = %s)", [run.pk, run.pk]
    if selected := run.options.get("users"):
        condition += f" AND user_id IN ({', '.join(['%s'] * len(selected))})"
        parameters += [users.to_sql(connections[using], str(key)) for key in selected]
    first, last = quick.records_between(run)
    if first is not None:
        condition, parameters = f"{condition} AND id > %s", [*parameters, first]
    if last is not None:
        condition, parameters = f"{condition} AND id <= %s", [*parameters, last]
    return _since(condition, tuple(parameters), using, since)


def final_records(using: str, since: datetime | None = None) -> tuple[str, tuple[Any, ...]]:
    """Return the condition, and its parameters, of the records that decide where users are now, one of each.

    That is the live record of a migrated user, else the latest of a migration or an import.
    """
    runs = "SELECT o.id FROM mana_migration_migrationrun o WHERE o.kind <> 'rollback'"
    better = (
        f"SELECT 1 FROM {TABLE} b WHERE b.user_id = {TABLE}.user_id AND b.run_id IN ({runs}) "
        f"AND (b.status = 'migrated' OR b.id > {TABLE}.id)"
    )
    condition = f"run_id IN ({runs}) AND (status = 'migrated' OR NOT EXISTS ({better}))"
    return _since(condition, (), using, since)


def _since(
    condition: str, parameters: tuple[Any, ...], using: str, since: datetime | None
) -> tuple[str, tuple[Any, ...]]:
    if since is None:
        return condition, parameters
    moment = MomentField().get_db_prep_value(since, connections[using])
    return f"{condition} AND (created_at >= %s OR reversed_at >= %s)", (*parameters, moment, moment)
