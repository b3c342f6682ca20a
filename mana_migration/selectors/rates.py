"""At which rates a user was converted."""

from __future__ import annotations

from typing import Any

from mana_migration.models import UserMigration
from mana_migration.states import UserStatus
from wishes.rates import Rates


def rates_of_migrated(user_key: Any, using: str) -> Rates | None:
    """Return the frozen rates of a migrated user's conversion, found by index; None where there are none."""
    record = UserMigration.objects.using(using).filter(user_id=user_key, status=UserStatus.MIGRATED)
    rates = record.values_list("run__rates", flat=True).first()
    return Rates.from_mapping(rates) if rates else None
