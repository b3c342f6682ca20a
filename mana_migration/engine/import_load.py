"""From the staging table to users, wallets, opening entries and records.

Every function must be called inside the transaction that made the staging table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from mana_migration.domain.chain import OUTCOMES
from mana_migration.domain.import_results import CONVERTED, CREATED, DIFFERS, GIVEN, IN_USE, UNCHANGED, UPDATED
from mana_migration.domain.legacy import BALANCES, NULLABLE
from mana_migration.domain.words import counted
from mana_migration.engine import chain, dialect, users
from mana_migration.engine.new_users import UserTemplate
from mana_migration.engine.planning import Slice, slices
from mana_migration.engine.staging import GOOD, TABLE
from mana_migration.errors import ImportConflictError
from wishes import posting
from wishes.sql import block

COLOURS: Final = ("green", "blue", "red")

#: Slices cut in one go: the database holds the keys of all their users for it.
SLICES_AT_ONCE: Final = 200

#: A wallet that is in use: what the old system says of it is out of date.
_USED: Final = " OR ".join(
    f"EXISTS (SELECT 1 FROM {table} e WHERE e.user_id = w.user_id)"
    for table in (
        "wishes_manaentry",
        "wishes_wishentry",
        "mana_migration_usermigration",
        "mana_migration_integrityfix",
    )
)

#: What a wallet holds when its row has arrived.
_ARRIVING: Final = {
    **{colour: f"CASE WHEN s.migrated = 1 THEN 0 ELSE s.{colour} END" for colour in COLOURS},
    "mana": "s.mana",
}

#: The mana that the old system paid, where its ledger says so; what was earned or spent since is an entry of its own.
_OPENING: Final = "CASE WHEN s.paid > 0 THEN s.paid ELSE s.mana END"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The good rows with one outcome: users, flags, NULLs by column and sums by balance.

    ``since``: mana that users earned (or, negative, spent) after the old system had paid them, by its ledger.
    """

    outcome: str
    users: int
    flagged: int
    migrated: int
    unpaid: int
    nulls: dict[str, int]
    balances: dict[str, int]
    left_behind: dict[str, int]
    since: int


def classify(connection: BaseDatabaseWrapper, template: UserTemplate, *, update_existing: bool) -> None:
    """Write into each good row what becomes of its user's wallet.

    With ``update_existing`` the wallets that will be overwritten are locked and classified again, so
    that what the site does meanwhile is seen.
    """
    _classify(connection, template, "1 = 1", update_existing=update_existing)
    if not update_existing or connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT COUNT(*) FROM (SELECT 1 {_joined(template)} JOIN wishes_wallet w ON w.user_id = u.{template.key} "
            f"WHERE s.outcome = '{UPDATED}' ORDER BY w.user_id {dialect.lock('postgresql', 'w')}) locked"
        )
        if cursor.fetchone()[0] == 0:
            return
    _classify(connection, template, f"s.outcome = '{UPDATED}'", update_existing=update_existing)


def _classify(
    connection: BaseDatabaseWrapper, template: UserTemplate, condition: str, *, update_existing: bool
) -> None:
    same = " AND ".join(f"w.{name} = s.{name}" for name in BALANCES)
    outcome = (
        f"CASE WHEN w.user_id IS NULL THEN '{GIVEN}' "
        f"WHEN w.migrated_at IS NOT NULL AND s.migrated = 1 AND w.mana = s.mana THEN '{UNCHANGED}' "
        f"WHEN w.migrated_at IS NOT NULL THEN '{CONVERTED}' "
        f"WHEN s.migrated = 0 AND {same} THEN '{UNCHANGED}' "
        f"WHEN {_USED} THEN '{IN_USE}' "
        f"ELSE '{UPDATED if update_existing else DIFFERS}' END"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {TABLE} SET outcome = found.outcome FROM (SELECT s.row_no, {outcome} AS outcome "
            f"{_joined(template)} LEFT JOIN wishes_wallet w ON w.user_id = u.{template.key} "
            f"WHERE {GOOD} AND {condition}) found WHERE {TABLE}.row_no = found.row_no"
        )


def _joined(template: UserTemplate) -> str:
    return f"FROM {TABLE} s JOIN {template.table} u ON {template.condition}"


def outcomes(connection: BaseDatabaseWrapper) -> list[Outcome]:
    """Return the good rows' figures by outcome."""
    vendor = connection.vendor
    nulls = ", ".join(f"SUM((s.nulls >> {bit}) & 1)" for bit in range(len(NULLABLE)))
    sums = ", ".join(
        dialect.exact_sum(vendor, expression)
        for expression in (
            *_ARRIVING.values(),
            *(f"CASE WHEN s.migrated = 1 THEN s.{colour} ELSE 0 END" for colour in COLOURS),
            f"CASE WHEN s.migrated = 1 THEN s.mana - {_OPENING} ELSE 0 END",
        )
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.outcome, COUNT(*), SUM(CASE WHEN s.flagged > 0 THEN 1 ELSE 0 END), SUM(s.migrated), "
            f"SUM(CASE WHEN s.flagged = 2 THEN 1 ELSE 0 END), {nulls}, {sums} FROM {TABLE} s WHERE {GOOD} "
            "GROUP BY s.outcome"
        )
        rows = cursor.fetchall()
    found = []
    for outcome, count, flagged, migrated, unpaid, *rest in rows:
        columns = rest[: len(NULLABLE)]
        pairs = rest[len(NULLABLE) :]
        exact = [dialect.combine(vendor, *pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
        found.append(
            Outcome(
                outcome=outcome,
                users=count,
                flagged=int(flagged),
                migrated=int(migrated),
                unpaid=int(unpaid),
                nulls={name: int(value) for name, value in zip(NULLABLE, columns, strict=True)},
                balances=dict(zip(BALANCES, exact[:4], strict=True)),
                left_behind=dict(zip(COLOURS, exact[4:7], strict=True)),
                since=exact[7],
            )
        )
    return found


def replaced_balances(connection: BaseDatabaseWrapper, template: UserTemplate) -> dict[str, int]:
    """Return the sums of the wallets that are about to be overwritten, by balance."""
    vendor = connection.vendor
    sums = ", ".join(dialect.exact_sum(vendor, f"w.{name}") for name in BALANCES)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {sums} {_joined(template)} JOIN wishes_wallet w ON w.user_id = u.{template.key} "
            f"WHERE {GOOD} AND s.outcome = '{UPDATED}'"
        )
        row = cursor.fetchone()
    pairs = zip(row[::2], row[1::2], strict=True)
    return dict(zip(BALANCES, (dialect.combine(vendor, *pair) for pair in pairs), strict=True))


def create_users(connection: BaseDatabaseWrapper, template: UserTemplate) -> None:
    """Create the users who are not there yet."""
    sql, parameters = template.insert(
        connection.vendor, f"FROM {TABLE} s WHERE {GOOD} AND s.outcome = '{CREATED}' ORDER BY s.username"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def write_wallets(connection: BaseDatabaseWrapper, template: UserTemplate, *, opened: int, overwritten: int) -> None:
    """Open and overwrite so many wallets.

    Raises:
        ImportConflictError: a wallet was changed or opened by others meanwhile.
    """
    vendor = connection.vendor
    now = dialect.now(vendor)
    written = 0
    with connection.cursor() as cursor:
        if opened:
            cursor.execute(f"{_picked(template, CREATED, GIVEN)} {posting.insert_opening_wallets(now)}", [])
            written += _changed(cursor, vendor)
        if overwritten:
            cursor.execute(f"{_picked(template, UPDATED)} {posting.update_opening_wallets(now)}", [])
            written += _changed(cursor, vendor)
    if written != opened + overwritten:
        raise ImportConflictError(
            f"{opened + overwritten:,} wallets were to be written and {written:,} were: others changed them "
            "meanwhile; nothing was imported, give the command again"
        )


def write_opening_entries(connection: BaseDatabaseWrapper, template: UserTemplate) -> None:
    """Book the mana of those who arrive migrated: what they were paid, then what they earned or spent since."""
    vendor = connection.vendor
    reference, now = f"'opening:' || {users.key_sql(vendor, 'user_id')}", dialect.now(vendor)
    picked = _picked(template, CREATED, GIVEN, UPDATED)
    with connection.cursor() as cursor:
        cursor.execute(f"{picked} {posting.insert_opening_entries(reference, now)}", [])
        since = posting.insert_entries_since_opening(f"{reference} || ':since'", now)
        cursor.execute(f"{picked} {since}", [])


def _changed(cursor: CursorWrapper, vendor: str) -> int:
    """Return how many rows the last statement wrote; Python's sqlite3 does not count behind a WITH."""
    if vendor == "sqlite":
        cursor.execute("SELECT changes()")
        return int(cursor.fetchone()[0])
    return int(cursor.rowcount)


def _picked(template: UserTemplate, *outcomes: str) -> str:
    """Return the CTE ``picked`` of the arriving wallets with these outcomes."""
    names = ", ".join(f"'{outcome}'" for outcome in outcomes)
    balances = ", ".join(f"{expression} AS {name}" for name, expression in _ARRIVING.items())
    left = ", ".join(f"s.{colour} AS left_{colour}" for colour in COLOURS)
    return (
        f"WITH picked AS (SELECT u.{template.key} AS user_id, {balances}, s.migrated, {_OPENING} AS opening, "
        f"{left} {_joined(template)} "
        f"WHERE {GOOD} AND s.outcome IN ({names}))"
    )


def migrated_slices(connection: BaseDatabaseWrapper, template: UserTemplate, *, size: int) -> list[Slice]:
    """Cut the users who arrive migrated into slices of ``size``."""
    arriving = f"({_picked(template, CREATED, GIVEN, UPDATED)} SELECT user_id FROM picked WHERE migrated = 1) w"
    found: list[Slice] = []
    most = SLICES_AT_ONCE * size
    while True:
        after = found[-1].last if found else ""
        more = slices(
            connection,
            relation=arriving,
            condition=lambda _: "1 = 1",
            parameters={},
            after=after,
            size=size,
            limit=most,
        )
        found += more
        if len(more) < SLICES_AT_ONCE:
            return found


def write_records(
    connection: BaseDatabaseWrapper, template: UserTemplate, *, run: int, batches: Sequence[int], size: int
) -> None:
    """Record those who arrive migrated, converted elsewhere, for nothing by us: ``size`` of them in each batch."""
    vendor = connection.vendor
    left = " OR ".join(f"left_{colour} <> 0" for colour in COLOURS)
    sentence = "'legacy wishes left in place: ' || " + " || ', ' || ".join(
        f"left_{colour} || ' {colour}'" for colour in COLOURS
    )
    line = chain.record_line_sql(
        vendor,
        run=str(int(run)),
        outcome=f"'{OUTCOMES['migrated']}'",
        wishes=("0", "0", "0"),
        before="0",
        credited="0",
        error="''",
        user=users.key_sql(vendor, "user_id"),
    )
    place = f"(ROW_NUMBER() OVER (ORDER BY user_id) - 1) / {int(size)}"
    batch = (
        f"(%s::bigint[])[1 + {place}]"
        if vendor == "postgresql"
        else f"json_extract(%s, '$[' || CAST({place} AS text) || ']')"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_picked(template, CREATED, GIVEN, UPDATED)} INSERT INTO mana_migration_usermigration (user_id, run_id, "
            "batch_id, status, green, blue, red, mana_before, mana_credited, error_class, error_message, mark, "
            f"created_at) SELECT user_id, %s, {batch}, 'migrated', 0, 0, 0, 0, 0, '', "
            f"CASE WHEN {left} THEN {sentence} ELSE '' END, {chain.mark_sql(vendor, line)}, {dialect.now(vendor)} "
            "FROM picked WHERE migrated = 1 ORDER BY user_id",
            [run, list(batches) if vendor == "postgresql" else json.dumps(list(batches))],
        )


def not_kept(connection: BaseDatabaseWrapper, template: UserTemplate, *, run: int) -> list[str]:
    """Compare the tables with what an import has written; return what differs, in words.

    A trigger or a rule of the site's own may have dropped, changed or doubled it.
    """
    vendor = connection.vendor
    reference = f"'opening:' || {users.key_sql(vendor, 'p.user_id')}"
    opening = _entry_exists(reference, "= 'opening'", amount="p.opening", balance="p.opening")
    since = _entry_exists(
        f"{reference} || ':since'", "IN ('earn', 'spend')", amount="p.mana - p.opening", balance="p.mana"
    )
    query = block(
        """
        {picked}
        SELECT
            COUNT(*) FILTER (WHERE NOT wallet_kept),
            COUNT(*) FILTER (WHERE NOT entries_kept),
            COUNT(*) FILTER (WHERE NOT record_kept)
        FROM (
            SELECT
                EXISTS (
                    SELECT 1 FROM wishes_wallet w
                    WHERE w.user_id = p.user_id AND w.green = p.green AND w.blue = p.blue AND w.red = p.red
                      AND w.mana = p.mana AND (w.migrated_at IS NOT NULL) = (p.migrated = 1)
                ) AS wallet_kept,
                (SELECT COUNT(*) FROM wishes_manaentry e WHERE e.user_id = p.user_id)
                    = CASE WHEN p.migrated = 1 AND p.opening <> 0 THEN 1 ELSE 0 END
                    + CASE WHEN p.migrated = 1 AND p.mana <> p.opening THEN 1 ELSE 0 END
                AND (p.migrated <> 1 OR p.opening = 0 OR {opening})
                AND (p.migrated <> 1 OR p.mana = p.opening OR {since})
                AND NOT EXISTS (SELECT 1 FROM wishes_wishentry e WHERE e.user_id = p.user_id) AS entries_kept,
                (SELECT COUNT(*) FROM mana_migration_usermigration r WHERE r.user_id = p.user_id) = p.migrated
                AND (p.migrated <> 1 OR EXISTS (
                    SELECT 1 FROM mana_migration_usermigration r
                    WHERE r.user_id = p.user_id AND r.run_id = %s AND r.status = 'migrated' AND r.green = 0
                      AND r.blue = 0 AND r.red = 0 AND r.mana_before = 0 AND r.mana_credited = 0
                )) AS record_kept
            FROM picked p
        ) compared
        """,
        picked=_picked(template, CREATED, GIVEN, UPDATED),
        opening=opening,
        since=since,
    )
    with connection.cursor() as cursor:
        cursor.execute(query, [run])
        differ = cursor.fetchone()
    return [counted(count, *names) for count, names in zip(differ, _KEPT_NAMES, strict=True) if count]


def _entry_exists(reference: str, kind: str, *, amount: str, balance: str) -> str:
    return block(
        """
        EXISTS (
            SELECT 1 FROM wishes_manaentry e
            WHERE e.user_id = p.user_id AND e.reference = {reference} AND e.kind {kind}
              AND e.amount = {amount} AND e.balance_after = {balance}
        )
        """,
        reference=reference,
        kind=kind,
        amount=amount,
        balance=balance,
    )


_KEPT_NAMES: Final = (("wallet", "wallets"), ("user's entries", "users' entries"), ("record", "records"))


def check_references(connection: BaseDatabaseWrapper) -> None:
    """Let the database check now that each wallet has its user, instead of at the commit."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
