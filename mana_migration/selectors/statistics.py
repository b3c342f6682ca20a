"""Figures of the whole site, read from the wallets and the records: their cost grows with the number of users."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

from django.db import connections, transaction

from mana_migration.domain.statistics import LatestConversion, Statistics, UserCounts
from mana_migration.engine import dialect
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.states import RunKind, UserStatus
from wishes.rates import COLOURS

#: Conversions listed as the latest.
LATEST: Final = 10

_AMOUNTS: Final = (*COLOURS, "mana")

#: Users who are not migrated and whose latest record, of a migration or an import, is a failure or a skip.  Those are
#: few and have an index of their own; LIMIT keeps PostgreSQL from joining all records for the few that are later.
_PENDING: Final = """
WITH ours AS (
    SELECT o.id FROM mana_migration_migrationrun o WHERE o.kind <> 'rollback'
),
problem AS (
    SELECT r.user_id, MAX(r.id) AS id
    FROM mana_migration_usermigration r
    WHERE r.status IN ('failed', 'skipped') AND r.run_id IN (SELECT id FROM ours)
    GROUP BY r.user_id
)
SELECT r.status, COUNT(*)
FROM problem p
JOIN mana_migration_usermigration r ON r.id = p.id
JOIN wishes_wallet w ON w.user_id = p.user_id AND w.migrated_at IS NULL
WHERE (
    SELECT l.id
    FROM mana_migration_usermigration l
    WHERE l.user_id = p.user_id AND l.id > p.id AND l.run_id IN (SELECT id FROM ours)
    LIMIT 1
) IS NULL
GROUP BY r.status
"""

#: The users who are not migrated and have a record: a step into an index for each, however long their histories are.
_HANDLED: Final = """
SELECT COUNT(*)
FROM wishes_wallet w
WHERE w.migrated_at IS NULL
  AND EXISTS (SELECT 1 FROM mana_migration_usermigration r WHERE r.user_id = w.user_id)
"""

#: What PostgreSQL may not do instead of those steps: read the records of all history.
_STEPS: Final = ("enable_hashjoin", "enable_mergejoin", "jit")


def user_counts(using: str = "default") -> UserCounts:
    """Count all users with a wallet by where they are; what that costs grows with the users, not with their history.

    The latest record of a migration or an import says who failed or was skipped.  Of the other users who are not
    migrated, those who have a record were rolled back.
    """
    connection, handled = connections[using], 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), COUNT(migrated_at) FROM wishes_wallet")
        total, migrated = cursor.fetchone()
        cursor.execute(_PENDING)
        found = dict(cursor.fetchall())
        if MigrationRun.objects.using(using).filter(kind=RunKind.ROLLBACK).exists():
            in_transaction = transaction.atomic(using=using) if connection.vendor == "postgresql" else nullcontext()
            with in_transaction, dialect.joined(connection, _STEPS):
                cursor.execute(_HANDLED)
                (handled,) = cursor.fetchone()
    return UserCounts(
        total=total,
        migrated=migrated,
        failed=found.get(UserStatus.FAILED, 0),
        skipped=found.get(UserStatus.SKIPPED, 0),
        rolled_back=max(0, handled - sum(found.values())),
    )


def statistics(using: str = "default") -> Statistics:
    """Return the figures of the whole site; call it inside a snapshot for figures of one moment."""
    vendor = connections[using].vendor
    sums = ", ".join(dialect.exact_sum(vendor, column) for column in _AMOUNTS)
    of_migrated = dialect.exact_sum(vendor, "CASE WHEN migrated_at IS NULL THEN 0 ELSE mana END")
    negative = " OR ".join(f"{column} < 0" for column in _AMOUNTS)
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT {sums}, {of_migrated}, MAX(mana) FILTER (WHERE migrated_at IS NOT NULL), "
            f"MIN(mana) FILTER (WHERE migrated_at IS NOT NULL), COUNT(*) FILTER (WHERE {negative}) FROM wishes_wallet"
        )
        *parts, largest, smallest, negatives = cursor.fetchone()
    pairs = zip(parts[::2], parts[1::2], strict=True)
    green, blue, red, mana, held = (dialect.combine(vendor, *pair) for pair in pairs)
    users = user_counts(using)
    return Statistics(
        users=users,
        green=green,
        blue=blue,
        red=red,
        mana=mana,
        average_mana=held / users.migrated if users.migrated else 0.0,
        largest_mana=largest or 0,
        smallest_mana=smallest or 0,
        negative_balances=negatives,
        latest=_latest(using),
    )


def _latest(using: str) -> list[LatestConversion]:
    live = UserMigration.objects.using(using).filter(status=UserStatus.MIGRATED).order_by("-id")
    rows = live.values_list("pk", "run_id", "created_at", "mana_credited")[:LATEST]
    return [LatestConversion(*row) for row in rows]
