"""What deleting a user does to the user's wallet."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import ProtectedError

INSTEAD = "deactivate the user instead, for example with is_active = False"


def protect_history(collector: Any, field: Any, wallets: models.QuerySet[Any], using: str) -> None:
    """Delete wallets that never held anything with their users; an ``on_delete`` of Django.

    The ledgers and the records of runs protect their users themselves.

    Raises:
        ProtectedError: a wallet holds something or is migrated, so that its history must be kept.
    """
    nothing = models.Q(green=0, blue=0, red=0, mana=0, migrated_at=None)
    kept = set(wallets.exclude(nothing))
    if kept:
        for wallet in kept:
            wallet.is_protected = True  # the admin shows it on the page that refuses
        raise ProtectedError(f"Users with a history of wishes or mana are never deleted: {INSTEAD}", kept)
    models.CASCADE(collector, field, wallets.all(), using)
