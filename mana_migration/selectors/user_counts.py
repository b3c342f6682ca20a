"""How far all users are: one query whose cost does not grow with the number of users or records.

What runs converted and rolled back is summed up from their figures.  Users who failed, were skipped or were rolled
back are counted among the latest ``RECORDS`` records of their kind, wallets up to ``WALLETS``; beyond these bounds a
number is an estimate, or the least that it can be, and says so.  The latest record is that of the latest run, which an
index says without reading the records of all history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.db import connections

from mana_migration.states import OPEN_STATUSES

#: Wallets counted one by one; beyond, the database's own estimate is good enough.
WALLETS: Final = 20_000

#: Records of one kind looked at.
RECORDS: Final = 20_000

_STATUSES: Final = ("failed", "skipped", "rolled_back")

_LATEST: Final = """
latest_{status} AS (
    SELECT id, user_id, run_id
    FROM mana_migration_usermigration
    WHERE status = '{status}'
    ORDER BY run_id DESC
    LIMIT {records}
)"""

_DECIDED: Final = """
(
    SELECT COUNT(DISTINCT record.user_id)
    FROM latest_{status} AS record
    JOIN mana_migration_migrationrun AS run ON run.id = record.run_id AND run.kind <> 'rollback'
    JOIN wishes_wallet AS wallet ON wallet.user_id = record.user_id AND wallet.migrated_at IS NULL
    WHERE NOT EXISTS (
        SELECT 1
        FROM mana_migration_usermigration AS later
        JOIN mana_migration_migrationrun AS later_run ON later_run.id = later.run_id AND later_run.kind <> 'rollback'
        WHERE later.user_id = record.user_id AND later.run_id > record.run_id
    )
),
(SELECT COUNT(*) FROM latest_{status})"""


@dataclass(frozen=True, slots=True)
class Count:
    """A number of users; ``exact`` is False where it is an estimate or the least that it can be."""

    users: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class UserCounts:
    """All users with a wallet, by where they are in the migration."""

    total: Count
    migrated: Count
    pending: Count
    failed: Count
    skipped: Count
    rolled_back: Count
    run_is_open: bool = False

    @property
    def share(self) -> float | None:
        """Return the share of migrated users (0 to 1); None where no user has a wallet."""
        return min(1.0, self.migrated.users / self.total.users) if self.total.users else None


def user_counts(using: str) -> UserCounts:
    """Count all users by where they are in the migration."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(_sql(connection.vendor))
        wallets, estimate, open_runs, converted, reversed_, *rest = map(int, cursor.fetchone())
    decided = [Count(users, exact=seen < RECORDS) for users, seen in zip(rest[::2], rest[1::2], strict=True)]
    migrated = max(0, converted - reversed_)
    total = Count(wallets) if wallets <= WALLETS else Count(max(estimate, wallets, migrated), exact=False)
    # no user can have failed where all are migrated, however many records there are
    left = max(0, total.users - migrated)
    failed, skipped, rolled_back = (Count(min(count.users, left), count.exact or not left) for count in decided)
    exact = total.exact and all(count.exact for count in decided)
    others = sum(count.users for count in (failed, skipped, rolled_back))
    pending = Count(max(0, left - others), exact)
    return UserCounts(total, Count(migrated), pending, failed, skipped, rolled_back, bool(open_runs))


def _sql(vendor: str) -> str:
    def figure(name: str) -> str:
        if vendor == "postgresql":
            return f"CAST(folded -> 'totals' ->> '{name}' AS numeric)"
        return f"json_extract(folded, '$.totals.{name}')"

    estimate = (
        "SELECT GREATEST(reltuples, 0)::bigint FROM pg_class WHERE oid = 'wishes_wallet'::regclass"
        if vendor == "postgresql"
        else "SELECT COALESCE(MAX(rowid), 0) FROM wishes_wallet"
    )
    counted = f"(SELECT COUNT(*) FROM (SELECT 1 FROM wishes_wallet LIMIT {WALLETS + 1}) AS counted)"
    if vendor == "postgresql":  # where there are clearly more, none is counted
        counted = f"CASE WHEN ({estimate}) > {2 * WALLETS} THEN {WALLETS + 1} ELSE {counted} END"
    sums = ",".join(
        f"""
(SELECT COALESCE(SUM({figure(name)}), 0) FROM mana_migration_migrationrun)
+ (SELECT COALESCE(SUM({name}), 0) FROM mana_migration_migrationbatch WHERE NOT folded AND status = 'done')"""
        for name in ("migrated", "rolled_back")
    )
    values: dict[str, Any] = {"records": RECORDS}
    is_open = ", ".join(f"'{status}'" for status in OPEN_STATUSES)
    return (
        f"WITH {','.join(_LATEST.format(status=status, **values) for status in _STATUSES)}\n"
        f"SELECT {counted},\n({estimate}),\n"
        f"(SELECT COUNT(*) FROM mana_migration_migrationrun WHERE status IN ({is_open})),{sums},"
        f"{','.join(_DECIDED.format(status=status) for status in _STATUSES)}"
    )
