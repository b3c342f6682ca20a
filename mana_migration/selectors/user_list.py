"""The standing of users in the migration, many at once: for lists of users.

# Note [Standing]
A user's standing follows from the wallet first, because the wallet is the truth, and from the
latest record of a run that could have converted them second.  Records that a rollback wrote about
users whom it left alone say nothing about a standing: such users are still migrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext_lazy as _

from mana_migration.models import UserMigration
from mana_migration.models.record import UserMigrationQuerySet
from mana_migration.states import RunKind, UserStatus
from wishes.models import Wallet

_User = TypeVar("_User", bound=models.Model)

#: Users and records that a list by standing reads.
USERS_SEARCHED: Final = 20_000
RECORDS_SEARCHED: Final = 20_000


class Standing(models.TextChoices):
    """A user's standing."""

    PENDING = "pending", _("Pending")
    """Has a wallet that no run has handled."""
    MIGRATED = "migrated", _("Migrated")
    """Holds mana alone."""
    FAILED = "failed", _("Failed")
    """Could not be converted when last tried."""
    SKIPPED = "skipped", _("Skipped")
    """Was left out on purpose by the latest run that reached them."""
    ROLLED_BACK = "rolled_back", _("Rolled back")
    """Was converted and has been rolled back."""
    NO_WALLET = "no_wallet", _("No wallet")
    """Has nothing to convert and never had a wish."""


@dataclass(frozen=True, slots=True)
class UserStanding:
    """One user's standing, the wallet behind it and the record that decided it."""

    standing: Standing
    wallet: Wallet | None
    record: UserMigration | None


_OF_RECORD: Final = {
    UserStatus.FAILED: Standing.FAILED,
    UserStatus.SKIPPED: Standing.SKIPPED,
    UserStatus.ROLLED_BACK: Standing.ROLLED_BACK,
}


def standing_of(wallet: Wallet | None, record: UserMigration | None) -> Standing:
    """Return the standing that a wallet and the latest deciding record amount to; see Note [Standing]."""
    if wallet is None:
        return Standing.NO_WALLET
    if wallet.migrated_at is not None:
        return Standing.MIGRATED
    if record is None:
        return Standing.PENDING
    # A live record beside an unmigrated wallet is an inconsistency, which validation reports.
    return _OF_RECORD.get(UserStatus(record.status), Standing.PENDING)


def standings(keys: Sequence[Any], *, using: str) -> dict[Any, UserStanding]:
    """Return the standing of each of these users, by primary key; two queries, whatever their number."""
    wallets = Wallet.objects.using(using).in_bulk(keys)
    latest: dict[Any, UserMigration] = {}
    for record in _deciding(using).with_fix().filter(user__in=keys).order_by("id"):
        latest[record.user_id] = record
    return {
        key: UserStanding(standing_of(wallets.get(key), latest.get(key)), wallets.get(key), latest.get(key))
        for key in keys
    }


def with_standing(users: QuerySet[_User], standing: Standing) -> QuerySet[_User]:
    """Keep the users of one standing, in bounded time.

    Pending users and those without a wallet are searched for among the ``USERS_SEARCHED`` users with the
    greatest keys, those who failed, were skipped or rolled back among the latest ``RECORDS_SEARCHED``
    records of their kind; ``is_bounded`` says whether there are more.
    """
    using = users.db
    wallets = Wallet.objects.using(using).filter(user=OuterRef("pk"))
    unmigrated = Exists(wallets.filter(migrated_at__isnull=True))
    records = _deciding(using)
    if standing == Standing.MIGRATED:  # a migrated wallet has a live record, which has an index of its own
        live = UserMigration.objects.using(using).filter(status=UserStatus.MIGRATED)
        return users.filter(pk__in=live.values("user"))
    if standing in (Standing.NO_WALLET, Standing.PENDING):
        records = records.filter(user=OuterRef("pk"))
        if (last := _last_searched(using)) is not None:  # each table in this range of keys, so that none is read whole
            users = users.filter(pk__gt=last)
            wallets, records = wallets.filter(user__gt=last), records.filter(user__gt=last)
        if standing == Standing.NO_WALLET:
            return users.filter(~Exists(wallets))
        return users.filter(Exists(wallets.filter(migrated_at__isnull=True)), ~Exists(records))
    latest = UserMigration.objects.using(using).filter(status=standing.value).order_by("-run_id")[:RECORDS_SEARCHED]
    later = records.filter(user=OuterRef("user"), id__gt=OuterRef("id"))
    decided = records.filter(~Exists(later), pk__in=latest.values("pk"))
    return users.filter(unmigrated, pk__in=decided.values("user"))


def is_bounded(standing: Standing, *, using: str) -> bool:
    """Say whether ``with_standing`` leaves users out because there are too many to read."""
    if standing == Standing.MIGRATED:
        return False
    if standing in (Standing.NO_WALLET, Standing.PENDING):
        return _last_searched(using) is not None
    records = UserMigration.objects.using(using).filter(status=standing.value).order_by("-run_id")
    return records.values("pk")[RECORDS_SEARCHED : RECORDS_SEARCHED + 1].exists()


def _last_searched(using: str) -> Any:
    """Return the greatest key of a user beyond those that are searched; None where all are."""
    keys = get_user_model()._base_manager.using(using).order_by("-pk").values_list("pk", flat=True)
    return next(iter(keys[USERS_SEARCHED : USERS_SEARCHED + 1]), None)


def _deciding(using: str) -> UserMigrationQuerySet:
    return UserMigration.objects.using(using).exclude(run__kind=RunKind.ROLLBACK)
