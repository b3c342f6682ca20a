"""Figures of the whole site, read from the wallets and the records: their cost grows with the number of users."""

from __future__ import annotations

from typing import Final

from django.db import connections

from mana_migration.domain.statistics import LatestConversion, Statistics, UserCounts
from mana_migration.engine import dialect
from mana_migration.models import UserMigration
from mana_migration.states import UserStatus
from wishes.rates import COLOURS

#: Conversions listed as the latest.
LATEST: Final = 10

_AMOUNTS: Final = (*COLOURS, "mana")


def user_counts(using: str = "default") -> UserCounts:
    """Count all users with a wallet by where they are: one pass over the wallets, one over the records of those left.

    The latest record of a migration or an import decides what became of a user who is not migrated.
    """
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT COUNT(*), COUNT(migrated_at) FROM wishes_wallet")
        total, migrated = cursor.fetchone()
        cursor.execute(
            """
            SELECT status, COUNT(*)
            FROM (
                SELECT r.status, ROW_NUMBER() OVER (PARTITION BY r.user_id ORDER BY r.id DESC) AS place
                FROM mana_migration_usermigration r
                JOIN wishes_wallet w ON w.user_id = r.user_id AND w.migrated_at IS NULL
                JOIN mana_migration_migrationrun o ON o.id = r.run_id AND o.kind <> 'rollback'
            ) latest
            WHERE place = 1
            GROUP BY status
            """
        )
        found = dict(cursor.fetchall())
    return UserCounts(
        total=total,
        migrated=migrated,
        failed=found.get(UserStatus.FAILED, 0),
        skipped=found.get(UserStatus.SKIPPED, 0),
        rolled_back=found.get(UserStatus.ROLLED_BACK, 0),
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
