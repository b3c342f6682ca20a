"""Cutting the users of a run into batches: by number of users, never by width of ids."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import users
from mana_migration.engine.conversion import ConversionTerms, selection_sql


@dataclass(frozen=True, slots=True)
class Slice:
    """A range of users, keys as text, both ends included, and how many users it held when planned."""

    first: str
    last: str
    users: int


def slices(
    connection: BaseDatabaseWrapper,
    *,
    relation: str,
    condition: str,
    parameters: list[object],
    after: str,
    size: int,
    limit: int,
) -> list[Slice]:
    """Cut the next ``limit`` users into slices of ``size``, in key order, after the key ``after``.

    Args:
        relation: the table with its alias ``w``, which has a column ``user_id``.
        condition: SQL over ``w`` that selects the users.
        parameters: what the condition's placeholders stand for.
        after: the last user already planned, as text; empty: from the start.
        size: users per slice, from 1.
        limit: users looked at, at most.
    """
    start = "" if after == "" else "w.user_id > %s AND "
    begin: list[object] = [] if after == "" else [users.to_sql(connection, after)]
    # one row per slice comes back, not one per user
    sql = (
        "WITH numbered AS (SELECT c.user_id, ROW_NUMBER() OVER (ORDER BY c.user_id) - 1 AS n FROM "
        f"(SELECT w.user_id FROM {relation} WHERE {start}{condition} ORDER BY w.user_id LIMIT %s) c), "
        "edges AS (SELECT user_id, n, COUNT(*) OVER () AS total FROM numbered) "
        "SELECT user_id, n, total FROM edges WHERE n %% %s = 0 OR n %% %s = %s OR n = total - 1 ORDER BY n"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [*begin, *parameters, limit, size, size, size - 1])
        rows = cursor.fetchall()
    found: list[Slice] = []
    first: tuple[str, int] | None = None
    for key, number, total in rows:
        text = users.to_text(users.from_sql(connection, key))
        if number % size == 0:
            first = (text, number)
        if number % size == size - 1 or number == total - 1:
            assert first is not None
            found.append(Slice(first[0], text, number - first[1] + 1))
    return found


def plan_migration(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, *, after: str, size: int, limit: int
) -> list[Slice]:
    """Cut the next users that the migration still has to handle."""
    return slices(
        connection,
        relation="wishes_wallet w",
        condition=selection_sql(terms),
        parameters=[terms.run],
        after=after,
        size=size,
        limit=limit,
    )


def keys_between(
    connection: BaseDatabaseWrapper,
    *,
    relation: str,
    condition: str,
    parameters: list[object],
    first: str,
    last: str,
) -> list[str]:
    """Return the keys of the selected users from ``first`` to ``last``, both included, in order, as text."""
    sql = f"SELECT w.user_id FROM {relation} WHERE w.user_id BETWEEN %s AND %s AND {condition} ORDER BY w.user_id"
    with connection.cursor() as cursor:
        cursor.execute(sql, [users.to_sql(connection, first), users.to_sql(connection, last), *parameters])
        return [users.to_text(users.from_sql(connection, row[0])) for row in cursor.fetchall()]


def migration_keys(connection: BaseDatabaseWrapper, terms: ConversionTerms, *, first: str, last: str) -> list[str]:
    """Return the keys of a range that the migration still has to handle."""
    return keys_between(
        connection,
        relation="wishes_wallet w",
        condition=selection_sql(terms),
        parameters=[terms.run],
        first=first,
        last=last,
    )
