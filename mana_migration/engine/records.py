"""Records of users who were left as they are."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.chain import OUTCOMES
from mana_migration.engine import chain, dialect, users
from mana_migration.engine.failures import NothingKeptError
from wishes.sql import block


def failed_again(connection: BaseDatabaseWrapper, run: int) -> int:
    """Return how many users failed in a run who had failed for the same class in an earlier one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM mana_migration_usermigration r "
            "WHERE r.run_id = %s AND r.status = 'failed' AND EXISTS (SELECT 1 "
            "FROM mana_migration_usermigration e WHERE e.user_id = r.user_id AND e.run_id < r.run_id "
            "AND e.status = 'failed' AND e.error_class = r.error_class)",
            [run],
        )
        return int(cursor.fetchone()[0])


def record_problem(
    connection: BaseDatabaseWrapper,
    *,
    run: int,
    batch: int,
    user: str,
    status: str,
    error_class: str,
    error_message: str,
) -> bool:
    """Record that one user was left as they are; return whether a wallet that is still to do was there.

    Raises:
        NothingKeptError: the database dropped or changed the record.
    """
    vendor = connection.vendor
    line = chain.record_line_sql(
        vendor,
        run="%(run_text)s",
        outcome="%(outcome)s",
        wishes=("w.green", "w.blue", "w.red"),
        before="w.mana",
        credited="0",
        error="%(error_class)s",
        user=users.key_sql(vendor, "w.user_id"),
    )
    still_to_do = block(
        """
        FROM wishes_wallet w
        WHERE w.user_id = %(user)s
          AND NOT EXISTS (
              SELECT 1 FROM mana_migration_usermigration r WHERE r.user_id = w.user_id AND r.run_id = %(run)s
          )
        """
    )
    insert = block(
        """
        INSERT INTO mana_migration_usermigration (
            user_id, run_id, batch_id, status, green, blue, red, mana_before, mana_credited,
            error_class, error_message, mark, created_at
        )
        SELECT w.user_id, %(run)s, %(batch)s, %(status)s, w.green, w.blue, w.red, w.mana, 0,
               %(error_class)s, %(error_message)s, {mark}, {now}
        {still_to_do}
        """,
        mark=chain.mark_sql(vendor, line),
        now=dialect.now(vendor),
        still_to_do=still_to_do,
    )
    values = {
        "user": users.to_sql(connection, user),
        "run": run,
        "run_text": str(run),
        "batch": batch,
        "status": str(status),
        "outcome": OUTCOMES[status],
        "error_class": error_class,
        "error_message": error_message,
    }
    kept = block(
        """
        SELECT 1
        FROM mana_migration_usermigration r
        JOIN wishes_wallet w ON w.user_id = r.user_id
        WHERE r.user_id = %(user)s AND r.run_id = %(run)s AND r.batch_id = %(batch)s AND r.status = %(status)s
          AND r.green = w.green AND r.blue = w.blue AND r.red = w.red AND r.mana_before = w.mana
          AND r.mana_credited = 0 AND r.error_class = %(error_class)s
        """
    )
    with connection.cursor() as cursor:
        cursor.execute(insert, values)
        inserted = bool(cursor.rowcount)
        cursor.execute(kept if inserted else f"SELECT 1\n{still_to_do}", values)
        if inserted is (cursor.fetchone() is None):
            raise NothingKeptError(
                "the database did not keep the record of a user: a trigger or a rule of the site's own on "
                "mana_migration_usermigration drops or changes it"
            )
        return inserted
