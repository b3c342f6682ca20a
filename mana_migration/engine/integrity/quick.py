"""The checks of a run's start and end: they read what came since the run began, not all history.

# Note [Suspicion first]
A year of history makes the ledger a hundred times as long as one run.  The checks before and after a run therefore
first ask a quick question, which reads the wallets and the rows with an id beyond those that were there when the run
began (its marks).  Only where that finds something is the exact question asked, the one that ``validate_migration``
always asks and that reads everything; what it finds is reported.  So a quick question that suspects too much costs
time, never a finding that is not there.

- After a run: the entries of its users since its marks continue from one another and from the newest before them, and
  the last of them is the wallet's mana.  Where the run handled a fair share of all users, what a record says that the
  wallet held before is taken instead of the newest entry, and the mana of all wallets must have changed by as much as
  the ledger did since the run began.
- Before a run: the mana of all wallets changed by as much as the ledger did since the latest pre-check that found both
  to agree, and each unmigrated wallet that holds mana holds the balance of its newest entry.

Faults inside history that is older than that are found by ``validate_migration``.

An id is taken when a row is written, and the row is seen when its transaction commits.  The rows of a run always lie
beyond its marks; entries of the site may lie below and be seen later.  Sums therefore start ``MARGIN`` entries earlier,
and what was seen of those at the beginning is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine.integrity.scope import Scope, rows
from mana_migration.models import MigrationRun

#: Entries that the site may write while one of its transactions is open.
MARGIN: Final = 200_000

#: In a rollback's baseline: its shortfalls are booked in the ledger, as those of earlier versions are not.
SHORTFALLS_BOOKED: Final = {"shortfalls": "booked"}

#: The marks in a run's baseline: of the records and of the entries that its check joins, and of its start.
RECORDS, ENTRIES, SINCE = "records_after", "entries_after", "since"

#: What is kept with the figures of a run at its end: the largest id that one of its records can have.
RECORDS_UNTIL: Final = "records_until"


def marks(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Return the marks of a run that begins now: the largest ids of records and entries, as text of integers."""
    ((records, entries),) = rows(
        connection,
        "SELECT (SELECT COALESCE(MAX(id), 0) FROM mana_migration_usermigration), "
        "(SELECT COALESCE(MAX(id), 0) FROM wishes_manaentry)",
        Scope(),
    )
    return {RECORDS: str(records), ENTRIES: str(entries), SINCE: str(entries)}


def marks_of_selected(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Return the marks of a migration of selected users, which a later rollback of them starts from."""
    return {name: value for name, value in marks(connection).items() if name != SINCE}


def newest_record(connection: BaseDatabaseWrapper) -> int:
    """Return the largest id of a record: as of the end of a run, that of all its records or larger."""
    ((found,),) = rows(connection, "SELECT COALESCE(MAX(id), 0) FROM mana_migration_usermigration", Scope())
    return int(found)


def records_between(run: MigrationRun) -> tuple[int | None, int | None]:
    """Return the ids between which the records of a run lie, the first excluded; None for one that is not known."""
    first, last = run.baseline.get(RECORDS), run.folded.get(RECORDS_UNTIL)
    return None if first is None else int(first), None if last is None else int(last)


def first_live_run(connection: BaseDatabaseWrapper) -> int | None:
    """Return the earliest run that has a live record: what a rollback may reverse was written since it began."""
    ((run,),) = rows(
        connection,
        # + 0: by the index of live records, not by walking through all records in the order of another
        "SELECT MIN(r.run_id + 0) FROM mana_migration_usermigration r WHERE r.status = 'migrated'",
        Scope(),
    )
    return None if run is None else int(run)


def narrowed(scope: Scope, baseline: Mapping[str, Any]) -> Scope | None:
    """Return a run's scope, narrowed to the rows since its marks; None where it has none."""
    if SINCE not in baseline:
        return None
    return replace(
        scope,
        records_after=int(baseline[RECORDS]),
        entries_after=int(baseline[ENTRIES]),
        since=int(baseline[SINCE]),
    )


def count_suspects(connection: BaseDatabaseWrapper, scope: Scope, *, trust_records: bool) -> int:
    """Count the users of a narrowed run whose wallet and entries since its start do not continue from one another.

    ``trust_records``: what a record says that the wallet held before is not looked up in the ledger.
    """
    exact = "::numeric" if connection.vendor == "postgresql" else ""
    trusted = "s.run_id = %(run)s" if trust_records else "1 = 0"
    ((found,),) = rows(
        connection,
        f"""
        WITH recent AS (
            SELECT e.user_id, e.id, e.amount, e.balance_after,
                   LAG(e.balance_after) OVER by_user AS balance_before,
                   LEAD(e.id) OVER by_user AS next_id
            FROM wishes_manaentry e
            WHERE e.id > %(since)s
            WINDOW by_user AS (PARTITION BY e.user_id ORDER BY e.id)
        ),
        change AS (
            SELECT user_id,
                   MAX(CASE WHEN balance_after - amount{exact} <> balance_before THEN 1 ELSE 0 END) AS broken,
                   MAX(CASE WHEN balance_before IS NULL THEN balance_after - amount{exact} END) AS opening,
                   MAX(CASE WHEN next_id IS NULL THEN balance_after END) AS closing
            FROM recent
            GROUP BY user_id
        ),
        person AS (
            SELECT s.user_id, MAX(CASE WHEN {trusted} THEN s.mana_before END) AS mana_before
            FROM mana_migration_usermigration s
            WHERE (s.run_id = %(run)s OR s.reversal_run_id = %(run)s) AND s.id > %(records_after)s
            GROUP BY s.user_id
        ),
        state AS (
            SELECT w.mana, c.broken, c.opening, c.closing,
                   CASE WHEN COALESCE(c.opening, w.mana) = p.mana_before THEN p.mana_before
                        ELSE COALESCE((
                            SELECT b.balance_after FROM wishes_manaentry b
                            WHERE b.user_id = w.user_id AND b.id <= %(since)s
                            ORDER BY b.id DESC LIMIT 1
                        ), 0) END AS earlier
            FROM person p
            JOIN wishes_wallet w ON w.user_id = p.user_id
            LEFT JOIN change c ON c.user_id = p.user_id
        )
        SELECT COUNT(*)
        FROM state
        WHERE broken = 1
           OR COALESCE(opening, earlier) <> earlier
           OR COALESCE(closing, earlier) <> mana
        """,
        scope,
    )
    return int(found)


def count_unbacked(connection: BaseDatabaseWrapper) -> int:
    """Count the unmigrated wallets that hold mana other than the balance of their newest entry."""
    ((found,),) = rows(
        connection,
        """
        SELECT COUNT(*)
        FROM wishes_wallet w
        WHERE w.migrated_at IS NULL AND w.mana <> 0 AND w.mana <> COALESCE((
            SELECT b.balance_after FROM wishes_manaentry b
            WHERE b.user_id = w.user_id
            ORDER BY b.id DESC LIMIT 1
        ), 0)
        """,
        Scope(),
    )
    return int(found)


def sums_from(connection: BaseDatabaseWrapper) -> tuple[int, int]:
    """Return the ids of entries of mana and of wishes after which the sums of a run that begins now start."""
    ((mana, wishes),) = rows(
        connection,
        "SELECT (SELECT COALESCE(MAX(id), 0) FROM wishes_manaentry), "
        "(SELECT COALESCE(MAX(id), 0) FROM wishes_wishentry)",
        Scope(),
    )
    return max(0, mana - MARGIN), max(0, wishes - MARGIN)
