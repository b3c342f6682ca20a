"""Observe writes of wallets that bypass the wallet service, so that a site finds its forgotten code in a rehearsal.

# Note [What a direct write is]
The wallet service, conversions, reversals, fixes and imports leave a ledger entry or a record of the same user in the
transaction that changes a wallet.  When the transaction commits, a deferred trigger searches for an entry of that
user that is as young as the transaction; an update without one is a direct write.  Conversions and reversals change
the flag and are left out before they are queued.  PostgreSQL only: SQLite has neither deferred triggers nor names of
sessions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connections, transaction
from django.db.models import Count, Max, Min

from mana_migration.engine import foreign
from mana_migration.errors import PreflightError
from mana_migration.models import DirectWrite

#: The trigger and its function; preflight knows the trigger as this tool's own.
TRIGGER: Final = foreign.OBSERVER

_FUNCTION: Final = f"""
    CREATE OR REPLACE FUNCTION {TRIGGER}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
    BEGIN
        IF NOT EXISTS (SELECT 1 FROM wishes_manaentry e
                        WHERE e.user_id = NEW.user_id AND e.created_at >= transaction_timestamp())
           AND NOT EXISTS (SELECT 1 FROM wishes_wishentry e
                            WHERE e.user_id = NEW.user_id AND e.created_at >= transaction_timestamp())
           AND NOT EXISTS (SELECT 1 FROM mana_migration_integrityfix f
                            WHERE f.user_id = NEW.user_id AND f.created_at >= transaction_timestamp())
        THEN
            INSERT INTO mana_migration_directwrite (application_name, columns)
            VALUES (left(current_setting('application_name'), 64),
                    concat_ws(', ',
                        CASE WHEN NEW.green <> OLD.green THEN 'green' END,
                        CASE WHEN NEW.blue <> OLD.blue THEN 'blue' END,
                        CASE WHEN NEW.red <> OLD.red THEN 'red' END,
                        CASE WHEN NEW.mana <> OLD.mana THEN 'mana' END));
        END IF;
        RETURN NULL;
    END $$
"""

_CREATE: Final = f"""
    CREATE CONSTRAINT TRIGGER {TRIGGER} AFTER UPDATE ON wishes_wallet
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.migrated_at IS NOT DISTINCT FROM OLD.migrated_at)
    EXECUTE FUNCTION {TRIGGER}()
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Direct writes of one application to the same columns: how often, first and last."""

    application_name: str
    columns: str
    writes: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed; ``active`` while the trigger is there."""

    active: bool
    seen: tuple[Seen, ...]

    @property
    def writes(self) -> int:
        """Return how many direct writes were seen."""
        return sum(each.writes for each in self.seen)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"active": self.active, "writes": self.writes, "seen": [asdict(each) for each in self.seen]}


def start(using: str) -> None:
    """Begin to observe; nothing happens where that has begun already.

    Raises:
        PreflightError: the database is not PostgreSQL.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        raise PreflightError(
            f"database {using!r} is {connection.display_name}: direct writes are observed on PostgreSQL"
        )
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.execute(_FUNCTION)
        if not _is_active(using):
            cursor.execute(_CREATE)


def stop(using: str) -> None:
    """End observing and forget what was seen."""
    with transaction.atomic(using=using):
        if connections[using].vendor == "postgresql":
            with connections[using].cursor() as cursor:
                cursor.execute(f"DROP TRIGGER IF EXISTS {TRIGGER} ON wishes_wallet")
                cursor.execute(f"DROP FUNCTION IF EXISTS {TRIGGER}()")
        DirectWrite.objects.using(using).all().delete()


def summary(using: str) -> Observation:
    """Return what was observed, the most frequent first."""
    grouped = DirectWrite.objects.using(using).order_by().values("application_name", "columns")
    rows = grouped.annotate(writes=Count("id"), first=Min("created_at"), last=Max("created_at"))
    return Observation(
        _is_active(using), tuple(Seen(**row) for row in rows.order_by("-writes", "application_name", "columns"))
    )


def _is_active(using: str) -> bool:
    connection = connections[using]
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_trigger WHERE tgname = %s AND tgrelid = to_regclass('wishes_wallet')", [TRIGGER]
        )
        return cursor.fetchone() is not None
