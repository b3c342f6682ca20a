"""Records of users who were left as they are."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.chain import OUTCOMES
from mana_migration.engine import chain, dialect, users


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
    """Record that one user was left as they are; return whether a wallet that is still to do was there."""
    vendor = connection.vendor
    line = chain.record_line_sql(
        vendor,
        run="%s",
        outcome="%s",
        wishes=("w.green", "w.blue", "w.red"),
        before="w.mana",
        credited="0",
        error="%s",
        user=users.key_sql(vendor, "w.user_id"),
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mana_migration_usermigration (user_id, run_id, batch_id, status, green, blue, red, "
            "mana_before, mana_credited, error_class, error_message, mark, created_at) "
            f"SELECT w.user_id, %s, %s, %s, w.green, w.blue, w.red, w.mana, 0, %s, %s, {chain.mark_sql(vendor, line)}, "
            f"{dialect.now(vendor)} "
            "FROM wishes_wallet w WHERE w.user_id = %s AND NOT EXISTS (SELECT 1 FROM mana_migration_usermigration r "
            "WHERE r.user_id = w.user_id AND r.run_id = %s)",
            [
                *(run, batch, str(status), error_class, error_message),
                *(str(run), OUTCOMES[status], error_class),
                *(users.to_sql(connection, user), run),
            ],
        )
        return bool(cursor.rowcount)
