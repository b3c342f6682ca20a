"""Which users a query of the checks reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import users

#: Wallets in one range of users; their findings are held in memory together.
RANGE = 20_000

#: Users of a run: those whom it handled, and those whose conversions it rolled back.
_OF_RUN: Final = (
    "(SELECT s.user_id FROM mana_migration_usermigration s WHERE (s.run_id = %(run)s OR s.reversal_run_id = %(run)s)"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Users by key (as text), of one run, and in one range of keys (``after`` excluded, ``until`` included).

    ``first`` and ``last``, both included, are the keys between which the users of the run are known to be.
    ``records_after`` and ``entries_after`` are ids below which neither the run's records nor their entries can be,
    ``since`` the largest id of an entry when the run began; see Note [Suspicion first] in ``integrity.quick``.
    """

    users: tuple[str, ...] = ()
    run: int | None = None
    first: str | None = None
    last: str | None = None
    after: str | None = None
    until: str | None = None
    records_after: int | None = None
    entries_after: int | None = None
    since: int | None = None

    @property
    def all_users(self) -> bool:
        """Say whether no user is left out."""
        return not self.users and self.run is None and self.after is None and self.until is None

    @property
    def is_range(self) -> bool:
        """Say whether these are all users in a range of keys."""
        return not self.users and self.run is None and not self.all_users

    def sql(self, column: str) -> str:
        """Return a condition on the column with a user's key; it takes the parameters of ``parameters``."""
        conditions = []
        if self.users:
            names = ", ".join(f"%(user_{place})s" for place in range(len(self.users)))
            conditions.append(f"{column} IN ({names})")
        if self.run is not None:
            within = " AND s.user_id BETWEEN %(first)s AND %(last)s" if self.first is not None else ""
            if self.records_after is not None:
                within += " AND s.id > %(records_after)s"
            conditions.append(f"{column} IN {_OF_RUN}{within})")
        if self.first is not None and self.last is not None:
            conditions.append(f"{column} BETWEEN %(first)s AND %(last)s")
        if self.after is not None:
            conditions.append(f"{column} > %(after)s")
        if self.until is not None:
            conditions.append(f"{column} <= %(until)s")
        return f"({' AND '.join(conditions)})" if conditions else "1 = 1"

    def parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Return what the placeholders of the condition stand for."""
        values: dict[str, Any] = {
            f"user_{place}": users.to_sql(connection, user) for place, user in enumerate(self.users)
        }
        values |= {name: getattr(self, name) for name in ("run", "records_after", "entries_after", "since")}
        for name in ("first", "last", "after", "until"):
            key = getattr(self, name)
            values[name] = None if key is None else users.to_sql(connection, key)
        return values

    def people(self) -> Scope:
        """Return this scope without its run."""
        return replace(self, run=None, records_after=None)

    def recent(self, entry: str) -> str:
        """Return the condition, as ``AND ...``, that an entry can be one of the run's records'; empty where unknown."""
        return "" if self.entries_after is None else f" AND {entry}.id > %(entries_after)s"

    def between(self, after: str | None, until: str | None) -> Scope:
        """Return the part of this scope in a range of keys."""
        return replace(self, after=after, until=until)


def ranges(connection: BaseDatabaseWrapper, scope: Scope) -> Iterator[Scope]:
    """Cut a scope into ranges of at most ``RANGE`` wallets, in key order; together they hold every key that it has."""
    if scope.users:
        yield scope
        return
    after = scope.after
    while True:
        until = _key_at(connection, scope.people().between(after, None), RANGE)
        yield scope.between(after, until)
        if until is None:
            return
        after = until


def _key_at(connection: BaseDatabaseWrapper, scope: Scope, size: int) -> str | None:
    """Return the key of the ``size``-th wallet of a scope, None where there are fewer."""
    found = rows(
        connection,
        f"SELECT w.user_id FROM wishes_wallet w WHERE {scope.sql('w.user_id')} "
        "ORDER BY w.user_id LIMIT 1 OFFSET %(offset)s",
        scope,
        offset=size - 1,
    )
    return users.to_text(users.from_sql(connection, found[0][0])) if found else None


def rows(connection: BaseDatabaseWrapper, sql: str, scope: Scope, **parameters: Any) -> list[tuple[Any, ...]]:
    """Run one query of the checks and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, scope.parameters(connection) | parameters)
        return list(cursor.fetchall())
