"""Cutting the users of a run into batches: by number of users, never by width of ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    parameters: Mapping[str, object],
    after: str,
    size: int,
    limit: int,
) -> list[Slice]:
    """Cut the next ``limit`` users into slices of ``size``, in key order, after the key ``after``.

    Args:
        relation: the table with its alias ``w``, which has a column ``user_id``.
        condition: SQL over ``w`` that selects the users.
        parameters: what the condition's placeholders ``%(name)s`` stand for.
        after: the last user already planned, as text; empty: from the start.
        size: users per slice, from 1.
        limit: users looked at, at most.
    """
    values: dict[str, Any] = {**parameters, "size": size, "limit": limit}
    start = ""
    if after:
        start, values["after"] = "w.user_id > %(after)s AND ", users.to_sql(connection, after)
    # one row per slice comes back, not one per user
    sql = (
        "WITH numbered AS (SELECT c.user_id, ROW_NUMBER() OVER (ORDER BY c.user_id) - 1 AS n FROM "
        f"(SELECT w.user_id FROM {relation} WHERE {start}{condition} ORDER BY w.user_id LIMIT %(limit)s) c), "
        "edges AS (SELECT user_id, n, COUNT(*) OVER () AS total FROM numbered) "
        "SELECT user_id, n, total FROM edges "
        "WHERE n %% %(size)s = 0 OR n %% %(size)s = %(size)s - 1 OR n = total - 1 ORDER BY n"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows = cursor.fetchall()
    found: list[Slice] = []
    first, begin = "", 0
    for key, number, total in rows:
        text = users.to_text(users.from_sql(connection, key))
        if number % size == 0:
            first, begin = text, number
        if number % size == size - 1 or number == total - 1:
            found.append(Slice(first, text, number - begin + 1))
    return found


def plan_migration(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, *, after: str, size: int, limit: int
) -> list[Slice]:
    """Cut the next users that the migration still has to handle."""
    return slices(
        connection,
        relation="wishes_wallet w",
        condition=selection_sql(terms),
        parameters={},
        after=after,
        size=size,
        limit=limit,
    )


def keys_between(
    connection: BaseDatabaseWrapper,
    *,
    relation: str,
    condition: str,
    parameters: Mapping[str, object],
    first: str,
    last: str,
) -> list[str]:
    """Return the keys of the selected users from ``first`` to ``last``, both included, in order, as text."""
    values = {**parameters, "first": users.to_sql(connection, first), "last": users.to_sql(connection, last)}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT w.user_id FROM {relation} WHERE w.user_id BETWEEN %(first)s AND %(last)s AND {condition} "
            "ORDER BY w.user_id",
            values,
        )
        return [users.to_text(users.from_sql(connection, row[0])) for row in cursor.fetchall()]


def migration_keys(connection: BaseDatabaseWrapper, terms: ConversionTerms, *, first: str, last: str) -> list[str]:
    """Return the keys of a range that the migration still has to handle."""
    return keys_between(
        connection,
        relation="wishes_wallet w",
        condition=selection_sql(terms),
        parameters={},
        first=first,
        last=last,
    )
