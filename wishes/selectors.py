"""Reads of balances and ledgers; nothing here writes or locks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models import CharField, Value

from wishes import conf
from wishes.errors import UnknownUserError
from wishes.hooks import hooks
from wishes.models import Entry, ManaEntry, Wallet, WishEntry
from wishes.rates import BIGINT_MAX, Rates

#: A user of the site, or the primary key of one.
UserOrKey: TypeAlias = models.Model | int | str | UUID


@dataclass(frozen=True, slots=True)
class Balance:
    """What one user owns, as of one instant.

    ``green``, ``blue`` and ``red`` are wishes, ``mana`` is mana; legacy wishes may be negative.
    ``migrated`` says that wishes earned from now on become mana.  ``wishes_worth`` is what the
    wishes are worth in mana at the rates in force, ``worth`` that and the mana together.
    """

    user: Any
    green: int = 0
    blue: int = 0
    red: int = 0
    mana: int = 0
    migrated: bool = False
    wishes_worth: int = 0

    @property
    def worth(self) -> int:
        """Return the worth of everything the user owns, in mana."""
        return self.wishes_worth + self.mana

    def of(self, currency: str) -> int:
        """Return the balance of ``green``, ``blue``, ``red`` or ``mana``."""
        return int(getattr(self, currency))


@dataclass(frozen=True, slots=True)
class BookedEntry:
    """An entry of either ledger, found by its reference."""

    user: Any
    currency: str
    kind: str
    amount: int
    balance_after: int
    created_at: datetime


def user_key(user: UserOrKey) -> Any:
    """Return the primary key of a user, or the key itself in the type of the user model.

    Raises:
        UnknownUserError: the value cannot be a key, or belongs to an unsaved user or another model.
    """
    model = get_user_model()
    if isinstance(user, models.Model):
        if not isinstance(user, model) or user.pk is None:
            raise UnknownUserError(type(user).__name__)
        return user.pk
    value: object = user  # callers are not always type-checked
    if value is None or isinstance(value, bool | float):
        raise UnknownUserError(value)
    try:
        key = model._meta.pk.to_python(value)
    except (ValidationError, TypeError):
        raise UnknownUserError(value) from None
    if isinstance(key, int) and abs(key) > BIGINT_MAX:
        raise UnknownUserError(value)
    return key


def read_balance(user: UserOrKey, *, using: str = "default") -> Balance:
    """Return what the user owns, in one query and without a lock.

    A user without a wallet owns nothing.  The figures may be outdated as soon as they are read:
    ask the service to spend instead of deciding by them.

    Raises:
        UnknownUserError: the value cannot be the key of a user.
    """
    key = user_key(user)
    return read_balances([key], using=using)[key]


def read_balances(users: Iterable[UserOrKey], *, using: str = "default") -> dict[Any, Balance]:
    """Return what each user owns by primary key, in one query: for lists and pages of users.

    Raises:
        UnknownUserError: a value cannot be the key of a user.
    """
    rates = conf.rates()
    found = {key: Balance(user=key) for key in map(user_key, users)}
    for wallet in Wallet.objects.using(using).filter(pk__in=list(found)):
        found[wallet.pk] = Balance(
            user=wallet.pk,
            green=wallet.green,
            blue=wallet.blue,
            red=wallet.red,
            mana=wallet.mana,
            migrated=wallet.migrated_at is not None,
            wishes_worth=rates.worth(wallet.green, wallet.blue, wallet.red),
        )
    return found


def rates_of(wallet: Wallet, *, using: str) -> Rates:
    """Return the rates in force for this wallet: those of its conversion, else those of the setting."""
    if wallet.migrated_at is not None and hooks.rates_of_migrated is not None:
        return hooks.rates_of_migrated(wallet.pk, using) or conf.rates()
    return conf.rates()


def read_back(wallet: Wallet, ledger: type[Entry], *, using: str) -> tuple[Any, ...]:
    """Return a wallet's four balances, its flag and its newest entry of a ledger, as the database has them now.

    The entry is its reference, kind, amount and balance after; all None where there is none.  In one query and without
    the ORM's cost, because each booking pays it.
    """
    connection = connections[using]
    quote = connection.ops.quote_name
    wallets, entries = quote(Wallet._meta.db_table), quote(ledger._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT w.green, w.blue, w.red, w.mana, w.migrated_at IS NOT NULL, "
            f"e.reference, e.kind, e.amount, e.balance_after FROM {wallets} w LEFT JOIN {entries} e ON e.id = "
            f"(SELECT MAX(id) FROM {entries} WHERE user_id = w.user_id) WHERE w.user_id = %s",
            [Wallet._meta.pk.get_db_prep_value(wallet.pk, connection)],
        )
        rows = cursor.fetchall()
    return tuple(rows[0]) if len(rows) == 1 else ()


def find_entry(reference: str, *, using: str) -> BookedEntry | None:
    """Return the entry with this reference from either ledger, in one query."""
    columns = ("user_id", "currency", "kind", "amount", "balance_after", "created_at")
    mana = ManaEntry.objects.using(using).annotate(currency=Value("mana", output_field=CharField()))
    wish = WishEntry.objects.using(using).annotate(currency=models.F("colour"))
    both = (
        mana.filter(reference=reference)
        .values_list(*columns)
        .union(wish.filter(reference=reference).values_list(*columns), all=True)
    )
    return next((BookedEntry(*row) for row in both), None)
