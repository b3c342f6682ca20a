"""What became of a run's users: those who failed, by error, and those who were rolled back since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Count, Max, Min, Sum

from mana_migration.engine import users
from mana_migration.models import UserMigration
from mana_migration.states import UserStatus
from wishes.models import Wallet

#: Records looked at, the latest; of more the dates and the sample are those of the latest.
RECORDS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One class of errors of a run: its users, a sample message, and when its first and last user failed."""

    error_class: str
    users: int
    message: str
    first: datetime | None
    last: datetime | None


def failed_by_class(run_id: int, errors: dict[str, int], *, using: str) -> list[Problem]:
    """Return the classes of errors of a run, the largest first; ``errors``: its users by class."""
    if not errors:
        return []
    records = UserMigration.objects.using(using)
    latest = records.filter(run=run_id, status=UserStatus.FAILED).order_by("-id")[:RECORDS]
    found = records.filter(pk__in=latest.values("pk")).values("error_class")
    seen = {
        row["error_class"]: row
        for row in found.annotate(
            users=Count("pk"), first=Min("created_at"), last=Max("created_at"), message=Max("error_message")
        )
    }
    return [
        Problem(
            name,
            users,
            seen[name]["message"] if name in seen else "",
            seen[name]["first"] if name in seen else None,
            seen[name]["last"] if name in seen else None,
        )
        for name, users in sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    ]


@dataclass(frozen=True, slots=True)
class Reversed:
    """What one rollback did to the users of a run."""

    run: int
    users: int
    written_off: int


def reversals_of(run_id: int, *, using: str) -> list[Reversed]:
    """Return what each rollback has rolled back of a run's users, the first rollback first."""
    records = UserMigration.objects.using(using).filter(run=run_id, status=UserStatus.ROLLED_BACK)
    sums = records.values("reversal_run").annotate(users=Count("pk"), written_off=Sum("shortfall"))
    return [
        Reversed(row["reversal_run"], row["users"], row["written_off"] or 0) for row in sums.order_by("reversal_run")
    ]


def failed_users(run_id: int, error_class: str, *, most: int, using: str) -> tuple[str, ...]:
    """Return the primary keys, as text, of the first users of a run who failed with this error and are not migrated."""
    records = UserMigration.objects.using(using).filter(run=run_id, status=UserStatus.FAILED, error_class=error_class)
    left = records.filter(user__in=Wallet.objects.using(using).filter(migrated_at__isnull=True).values("user"))
    return tuple(users.to_text(key) for key in left.order_by("id").values_list("user", flat=True)[:most])
