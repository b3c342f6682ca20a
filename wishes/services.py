"""Read, earn and spend at any moment, without knowing who is migrated.

Application code calls these functions and nothing else; it never saves a wallet itself.

    from wishes import services

    services.earn_wishes(user, "red", 2, reference=f"quest:{quest.pk}:reward")
    services.spend_mana(user, 1500, reference=f"order:{order.pk}:payment")

Each function joins the caller's transaction, or opens one.  An error leaves the caller's
transaction usable and the wallet as it was.

# Note [Lock, check, book]
Everything about a user's balances happens under the lock on the wallet's row: take it, then check
whether the reference was booked already, then compute with exact integers, then write the entry
and the one column that changes.  The unique constraint on the reference is the last line, not the
first: two retries of one operation meet at the lock, and only the same reference given to two
users at once reaches the constraint.  (At once, with one user migrated and the other not, the two
entries go to different ledgers and both stand; each is right for its user.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db import IntegrityError, connections, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.db.transaction import TransactionManagementError

from wishes.errors import (
    BalanceOverflowError,
    InsufficientBalanceError,
    InvalidAmountError,
    InvalidColourError,
    InvalidReferenceError,
    ReferenceConflictError,
    UnknownUserError,
    WriteNotKeptError,
)
from wishes.hooks import hooks
from wishes.models import EntryKind, ManaEntry, Wallet, WishEntry
from wishes.rates import BIGINT_MAX, COLOURS
from wishes.selectors import (
    Balance,
    BookedEntry,
    UserOrKey,
    find_entry,
    rates_of,
    read_back,
    read_balance,
    read_balances,
    user_key,
)

__all__ = [
    "Balance",
    "Receipt",
    "UserOrKey",
    "earn_mana",
    "earn_wishes",
    "lock_wallets",
    "read_balance",
    "read_balances",
    "spend_mana",
    "spend_wishes",
]

#: References that begin like this belong to the migration; callers may not use them.
RESERVED_PREFIXES: Final = ("conversion:", "reversal:", "opening:", "adjustment:")

#: The longest reference, in characters.
REFERENCE_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was booked for one operation.

    ``currency`` is ``green``, ``blue``, ``red`` or ``mana``; ``amount`` the signed change of that
    balance and ``balance_after`` the balance just after it, both in units of that currency.
    ``repeated`` says that the operation had been booked before: these are its first figures, and
    nothing was changed now.
    """

    reference: str
    currency: str
    amount: int
    balance_after: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """An operation as asked for: its kind, its currency and its amount, from 1."""

    kind: EntryKind
    currency: str
    amount: int

    def signed(self, amount: int) -> int:
        return amount if self.kind == EntryKind.EARN else -amount

    def __str__(self) -> str:
        return f"{self.kind} of {self.amount} {self.currency}"


def earn_wishes(user: UserOrKey, colour: str, amount: int, *, reference: str, using: str = "default") -> Receipt:
    """Credit a user with ``amount`` wishes of one colour; a migrated user gets their worth in mana.

    The worth is taken at the rates of the user's own conversion.  A user's first credit creates
    the wallet.  Repeating a call with its reference changes nothing and returns the first receipt
    with ``repeated=True``, also where the user was migrated or rolled back in between.

    Args:
        user: a saved user or its primary key.
        colour: ``green``, ``blue`` or ``red``.
        amount: wishes, from 1.
        reference: the operation's lasting name, unique over all users and both ledgers, at most
            200 characters.
        using: alias of the database that holds the wallet.

    Raises:
        ReferenceConflictError: the reference stands for another operation.
        BalanceOverflowError: the balance would pass the limit of BIGINT.
        InvalidAmountError, InvalidColourError, InvalidReferenceError, UnknownUserError: bad values.
    """
    return _book(user, _wish_order(EntryKind.EARN, colour, amount), reference, using)


def spend_wishes(user: UserOrKey, colour: str, amount: int, *, reference: str, using: str = "default") -> Receipt:
    """Take ``amount`` wishes of one colour from a user; a migrated user pays their worth in mana.

    Arguments, repetition and errors are those of ``earn_wishes``, and:

    Raises:
        InsufficientBalanceError: the user has less; it carries the numbers.
    """
    return _book(user, _wish_order(EntryKind.SPEND, colour, amount), reference, using)


def earn_mana(user: UserOrKey, amount: int, *, reference: str, using: str = "default") -> Receipt:
    """Credit a user with ``amount`` mana, migrated or not.

    Arguments, repetition and errors are those of ``earn_wishes``; there is no colour.
    """
    return _book(user, _Order(EntryKind.EARN, "mana", _amount(amount)), reference, using)


def spend_mana(user: UserOrKey, amount: int, *, reference: str, using: str = "default") -> Receipt:
    """Take ``amount`` mana from a user, migrated or not; wishes are never exchanged to pay for it.

    Arguments, repetition and errors are those of ``earn_wishes``; there is no colour, and:

    Raises:
        InsufficientBalanceError: the user has less; it carries the numbers.
    """
    return _book(user, _Order(EntryKind.SPEND, "mana", _amount(amount)), reference, using)


def lock_wallets(*users: UserOrKey, using: str = "default") -> None:
    """Lock the wallets of several users, in key order, until the caller's transaction ends.

    For operations on more than one user in one transaction, such as a gift: call it first, so that
    two of them can never wait for each other.  Missing wallets are created.

    Raises:
        django.db.transaction.TransactionManagementError: there is no transaction.
        UnknownUserError: a value stands for no user.
    """
    if not connections[using].in_atomic_block:
        raise TransactionManagementError("lock_wallets holds its locks for a transaction: call it inside atomic()")
    keys = sorted({user_key(user) for user in users})
    present = set(_locked(using).filter(pk__in=keys).order_by("pk").values_list("pk", flat=True))
    for key in keys:
        if key not in present:
            _lock(key, using)


def _wish_order(kind: EntryKind, colour: str, amount: int) -> _Order:
    if colour not in COLOURS:
        raise InvalidColourError(colour, COLOURS)
    return _Order(kind, colour, _amount(amount))


def _amount(amount: object) -> int:
    # the values are checked by hand, because callers are not always type-checked
    if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= BIGINT_MAX:
        raise InvalidAmountError(amount, BIGINT_MAX)
    return amount


def _check_reference(reference: object) -> None:
    if not isinstance(reference, str) or not reference.strip() or "\0" in reference:
        raise InvalidReferenceError(reference, "is not a text")
    if len(reference) > REFERENCE_MAX:
        raise InvalidReferenceError(reference, f"has more than {REFERENCE_MAX} characters")
    if reference.startswith(RESERVED_PREFIXES):
        raise InvalidReferenceError(reference, "begins like one of the migration's own")


def _book(user: UserOrKey, order: _Order, reference: str, using: str) -> Receipt:
    """Book an order once; see Note [Lock, check, book]."""
    key = user_key(user)
    _check_reference(reference)
    try:
        with transaction.atomic(using=using):  # a savepoint, inside the caller's transaction
            wallet = _lock(key, using)
            entry = find_entry(reference, using=using)
            if entry is not None:
                return _repeated(entry, wallet, order, reference, using)
            if order.kind == EntryKind.SPEND:
                wallet = _touch(wallet, using)
            return _post(wallet, order, reference, using)
    except IntegrityError:
        entry = find_entry(reference, using=using)
        if entry is None:
            raise
        raise _conflict(entry, key, order, reference) from None


def _locked(using: str) -> QuerySet[Wallet]:
    # no_key: entries of other tables that point at the wallet's user need not wait
    return Wallet.objects.using(using).select_for_update(of=("self",), no_key=True)


def _lock(key: Any, using: str) -> Wallet:
    """Return the user's wallet under its lock, created if need be: a missing row cannot be locked."""
    wallet = _locked(using).filter(pk=key).first()
    if wallet is None:
        # asked for here, because the foreign key itself is checked only at the end of the transaction
        if not get_user_model()._default_manager.using(using).filter(pk=key).exists():
            raise UnknownUserError(key)
        Wallet.objects.using(using).bulk_create([Wallet(pk=key)], ignore_conflicts=True)
        wallet = _locked(using).filter(pk=key).first()
        if wallet is None:
            raise WriteNotKeptError(key, "the new wallet is not there")
    return wallet


def _touch(wallet: Wallet, using: str) -> Wallet:
    """Let the migration convert a user who is about to spend; return the wallet as it is then."""
    if wallet.migrated_at is None and hooks.before_spend is not None and hooks.before_spend(wallet.pk, using):
        return _locked(using).get(pk=wallet.pk)
    return wallet


def _repeated(entry: BookedEntry, wallet: Wallet, order: _Order, reference: str, using: str) -> Receipt:
    """Return the receipt of an operation that was booked before, if it was this one."""
    amount = order.amount
    if entry.currency == "mana" and order.currency != "mana":  # the user was migrated then
        amount *= rates_of(wallet, using=using).of(order.currency)
    same_currency = entry.currency in (order.currency, "mana")
    if (entry.user, entry.kind, entry.amount) != (wallet.pk, order.kind, order.signed(amount)) or not same_currency:
        raise _conflict(entry, wallet.pk, order, reference)
    return Receipt(reference, entry.currency, entry.amount, entry.balance_after, repeated=True)


def _conflict(entry: BookedEntry, key: Any, order: _Order, reference: str) -> ReferenceConflictError:
    booked = f"{entry.kind} of {abs(entry.amount)} {entry.currency}"
    return ReferenceConflictError(
        reference=reference,
        booked=f"{booked} by user {entry.user}",
        asked=f"{order} by user {key}",
    )


def _post(wallet: Wallet, order: _Order, reference: str, using: str) -> Receipt:
    """Write the entry and the one balance that it changes; the wallet is locked."""
    currency, amount = order.currency, order.amount
    if currency != "mana" and wallet.migrated_at is not None:
        amount *= rates_of(wallet, using=using).of(currency)
        currency = "mana"
    available = int(getattr(wallet, currency))
    change = order.signed(amount)
    if change < 0 and available < amount:
        raise InsufficientBalanceError(user=wallet.pk, currency=currency, required=amount, available=available)
    balance = available + change
    if balance > BIGINT_MAX:
        raise BalanceOverflowError(balance, BIGINT_MAX, currency)
    fields = {
        "user_id": wallet.pk,
        "amount": change,
        "balance_after": balance,
        "kind": order.kind,
        "reference": reference,
    }
    try:
        if currency == "mana":
            ManaEntry.objects.using(using).create(**fields)
        else:
            WishEntry.objects.using(using).create(**fields, colour=currency)
    except TypeError as error:  # Django expects a row from INSERT ... RETURNING, which a trigger has dropped
        raise WriteNotKeptError(wallet.pk, "the new entry is not there") from error
    Wallet.objects.using(using).filter(pk=wallet.pk).update(**{currency: balance, "updated_at": Now()})
    receipt = Receipt(reference, currency, change, balance)
    _check_kept(wallet, order.kind, receipt, using)
    return receipt


def _check_kept(wallet: Wallet, kind: EntryKind, receipt: Receipt, using: str) -> None:
    """Compare the database with what was written: a trigger or a rule of the site's may have dropped or changed it.

    Raises:
        WriteNotKeptError: it differs; the savepoint of the booking is rolled back with it.
    """
    kept = read_back(wallet, ManaEntry if receipt.currency == "mana" else WishEntry, using=using)
    balances = {name: int(getattr(wallet, name)) for name in (*COLOURS, "mana")} | {
        receipt.currency: receipt.balance_after
    }
    written = (
        *balances.values(),
        wallet.migrated_at is not None,
        receipt.reference,
        kind,
        receipt.amount,
        receipt.balance_after,
    )
    if kept != written:
        names = (*balances, "migrated", "reference", "kind", "amount", "balance after")
        wrong = [
            f"{name} is {there!r} instead of {wanted!r}"
            for name, there, wanted in zip(names, kept, written, strict=False)
            if there != wanted
        ]
        raise WriteNotKeptError(wallet.pk, ", ".join(wrong) or "the wallet is gone")
