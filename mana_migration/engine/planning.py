"""Cutting the users of a run into batches: by number of users, never by width of ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import FIGURES
from mana_migration.engine import users
from mana_migration.engine.conversion import ConversionTerms, failed_before_sql, selection_sql
from mana_migration.engine.failures import NothingKeptError, keeping_rows
from mana_migration.models import MigrationBatch
from wishes.sql import all_of, block

#: What a new batch holds besides its run, its keys and its users, as SQL.
NEW_BATCH: Final = {
    "status": "'planned'",
    "folded": "false",
    "worker": "''",
    "errors": "'{}'",
    "skips": "'{}'",
    "attempts": "0",
    **dict.fromkeys(FIGURES, "0"),
}

#: What a migration is planned over.
WALLETS: Final = "wishes_wallet w"


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
    condition: Callable[[str], str],
    parameters: Mapping[str, Any],
    after: str,
    size: int,
    limit: int,
) -> list[Slice]:
    """Cut the next ``limit`` users into slices of ``size``, in key order, after the key ``after``.

    Args:
        connection: the database.
        relation: the table with its alias ``w``, which has a column ``user_id``.
        condition: returns the SQL over ``w`` that selects the users.  It is given a condition on
            records ``r`` of the same users, as ``AND ...``: without it those of all users already
            done would be read again and again.
        parameters: what the condition's placeholders ``%(name)s`` stand for.
        after: the last user already planned, as text; empty: from the start.
        size: users per slice, from 1.
        limit: users read, at most.
    """
    values: dict[str, Any] = {**parameters, "size": size, "limit": limit}
    if after:
        values["after"] = users.to_sql(connection, after)
    query = slices_sql(connection.vendor, relation=relation, condition=condition, from_start=not after)
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return [
            Slice(
                users.to_text(users.from_sql(connection, first)), users.to_text(users.from_sql(connection, last)), count
            )
            for first, last, count in cursor.fetchall()
        ]


def slices_sql(vendor: str, *, relation: str, condition: Callable[[str], str], from_start: bool) -> str:
    """Return the SELECT that cuts users into slices; see ``slices``.

    One row comes back for each slice, not one for each user.
    """
    chosen = block(
        """
        SELECT w.user_id
        FROM {relation}
        WHERE {condition}
        ORDER BY w.user_id
        LIMIT %(limit)s
        """,
        relation=relation,
        condition=all_of(
            "" if from_start else "w.user_id > %(after)s", condition("" if from_start else " AND r.user_id > %(after)s")
        ),
    )
    if vendor == "postgresql":
        return block(
            """
            SELECT CAST(a[part * %(size)s + 1] AS text) AS first_user,
                   CAST(a[LEAST((part + 1) * %(size)s, n)] AS text) AS last_user,
                   LEAST(%(size)s, n - part * %(size)s) AS planned
            FROM (
                SELECT array_agg(c.user_id ORDER BY c.user_id) AS a, CAST(COUNT(*) AS integer) AS n
                FROM (
                    {chosen}
                ) c
            ) p, generate_series(0, (n - 1) / %(size)s) AS part
            WHERE n > 0
            ORDER BY part
            """,
            chosen=chosen,
        )
    return block(
        """
        SELECT MIN(CASE WHEN n %% %(size)s = 0 THEN user_id END) AS first_user,
               MAX(CASE WHEN last THEN user_id END) AS last_user,
               COUNT(*) AS planned
        FROM (
            SELECT c.user_id, ROW_NUMBER() OVER w - 1 AS n,
                   ROW_NUMBER() OVER w %% %(size)s = 0 OR LEAD(c.user_id) OVER w IS NULL AS last
            FROM (
                {chosen}
            ) c
            WINDOW w AS (ORDER BY c.user_id)
        )
        GROUP BY n / %(size)s
        ORDER BY n / %(size)s
        """,
        chosen=chosen,
    )


def write_batches(connection: BaseDatabaseWrapper, run: int, found: Sequence[Slice]) -> None:
    """Write the batches of a run's next slices, in their order.

    Raises:
        NothingKeptError: the database dropped some of them.
    """
    if not found:
        return
    on_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        if on_postgresql:
            columns = ([one.first for one in found], [one.last for one in found], [one.users for one in found])
            cursor.execute(insert_batches_sql("postgresql"), [run, *columns])
        else:
            rows = [(run, one.first, one.last, one.users) for one in found]
            cursor.executemany(insert_batches_sql("sqlite"), rows)
        if cursor.rowcount != len(found):
            raise NothingKeptError(
                "the database did not keep the batches of the run: a trigger or a rule of the site's own on "
                "mana_migration_migrationbatch drops them"
            )


def write_batch(connection: BaseDatabaseWrapper, run: int, one: Slice) -> int:
    """Write one batch of a run and return its id.

    Raises:
        NothingKeptError: the database dropped it.
    """
    batch = MigrationBatch(run_id=run, first_user=one.first, last_user=one.last, planned=one.users)
    with keeping_rows("mana_migration_migrationbatch"):
        batch.save(using=connection.alias, force_insert=True)
    return int(batch.pk)


def insert_batches_sql(vendor: str) -> str:
    """Return the INSERT of planned batches: parameters are the run, their first and last keys and their users."""
    return block(
        """
        INSERT INTO mana_migration_migrationbatch (
            first_user, last_user, planned, run_id, {names}
        )
        SELECT s.first_user, s.last_user, s.planned, %s, {values}
        FROM {planned}
        """,
        names=", ".join(NEW_BATCH),
        values=", ".join(NEW_BATCH.values()),
        planned="unnest(%s::text[], %s::text[], %s::integer[]) AS s(first_user, last_user, planned)"
        if vendor == "postgresql"
        else "(SELECT %s AS first_user, %s AS last_user, %s AS planned) s",
    )


def plan_migration(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    after: str,
    size: int,
    limit: int,
    never_failed: bool = False,
) -> list[Slice]:
    """Cut the next users that the migration still has to handle.

    ``never_failed`` leaves out those who failed in an earlier run: no slice has one of them between its ends.
    """
    fresh = f"NOT {failed_before_sql(terms)}" if never_failed else ""
    found = slices(
        connection,
        relation=WALLETS,
        condition=lambda within: all_of(selection_sql(terms, within=within), fresh),
        parameters={},
        after=after,
        size=size,
        limit=limit,
    )
    if not (never_failed and found and _failed_keys(connection, terms, found[0].first, found[-1].last)):
        return found
    return [piece for part in found for piece in _around_failed(connection, terms, part)]


def _failed_keys(connection: BaseDatabaseWrapper, terms: ConversionTerms, first: str, last: str) -> list[str]:
    """Return the keys of a range that the migration still has to handle and who failed in an earlier run."""
    return keys_between(
        connection,
        relation=WALLETS,
        condition=all_of(selection_sql(terms, within=RECORDS_BETWEEN), failed_before_sql(terms)),
        parameters={},
        first=first,
        last=last,
    )


def _around_failed(connection: BaseDatabaseWrapper, terms: ConversionTerms, part: Slice) -> list[Slice]:
    """Cut a slice into those before, between and after the users who failed in an earlier run."""
    failed = set(_failed_keys(connection, terms, part.first, part.last))
    if not failed:
        return [part]
    keys = migration_keys(connection, terms, first=part.first, last=part.last)
    pieces = [list(group) for out, group in groupby(keys, key=failed.__contains__) if not out]
    return [Slice(piece[0], piece[-1], len(piece)) for piece in pieces]


def selected_among(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, keys: Sequence[str], *, limit: int | None = None
) -> set[str]:
    """Return those of these users whom a migration on these terms, of so many users at most, would handle now."""
    if not keys:
        return set()
    parameters: dict[str, Any] = {f"user_{place}": users.to_sql(connection, key) for place, key in enumerate(keys)}
    chosen = f"w.user_id IN ({', '.join(f'%({name})s' for name in parameters)})"
    selection = selection_sql(terms)
    source = f"SELECT w.user_id FROM wishes_wallet w WHERE {selection} AND {chosen}"
    if limit is not None:
        # in the order in which they are planned: those who failed earlier last
        parameters["most"] = limit
        source = (
            "SELECT w.user_id FROM wishes_wallet w JOIN (SELECT w.user_id FROM wishes_wallet w "
            f"WHERE {selection} ORDER BY CASE WHEN {failed_before_sql(terms)} THEN 1 ELSE 0 END, w.user_id "
            f"LIMIT %(most)s) s ON s.user_id = w.user_id WHERE {chosen}"
        )
    with connection.cursor() as cursor:
        cursor.execute(source, parameters)
        return {users.to_text(users.from_sql(connection, key)) for (key,) in cursor.fetchall()}


def spread_keys(connection: BaseDatabaseWrapper, terms: ConversionTerms, *, parts: int, count: int) -> list[str]:
    """Return so many keys (text) spread evenly over the users that the migration has to handle, the first empty.

    Args:
        connection: the database.
        terms: which users those are.
        parts: keys to return, from 1.
        count: how many users there are.
    """
    numbered = block(
        """
        SELECT w.user_id, ROW_NUMBER() OVER (ORDER BY w.user_id) AS position
        FROM wishes_wallet w
        WHERE {selection}
        """,
        selection=selection_sql(terms),
    )
    positions = sorted({count * part // parts for part in range(1, parts)} - {0})
    if not positions:
        return [""]
    with connection.cursor() as cursor:
        marks = ", ".join(str(position) for position in positions)
        cursor.execute(f"SELECT user_id FROM ({numbered}) n WHERE position IN ({marks}) ORDER BY position", {})
        return ["", *(users.to_text(users.from_sql(connection, row[0])) for row in cursor.fetchall())]


#: Limits the records ``r`` that are read to those of the users of ``keys_between``.
RECORDS_BETWEEN: Final = " AND r.user_id BETWEEN %(first)s AND %(last)s"


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
        condition=selection_sql(terms, within=RECORDS_BETWEEN),
        parameters={},
        first=first,
        last=last,
    )
