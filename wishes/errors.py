"""What can go wrong with a wallet, one class per cause.

Every message says what happened, with the values, and what to do next.  It never carries a user's
name: a user is shown by primary key, which only the site can resolve.

A direct write that the database refuses (``wishes.guards``) is no class of ours: it arrives as
``django.db.IntegrityError`` whose text names the service to call instead.
"""

from __future__ import annotations

from collections.abc import Sequence


class WishesError(Exception):
    """Base of every error that the economy raises on purpose."""


class InvalidRatesError(WishesError):
    """The conversion rates are not positive whole numbers."""


class BalanceOverflowError(WishesError):
    """A balance would leave the range of a BIGINT column."""

    def __init__(self, value: int, limit: int, currency: str = "mana") -> None:
        self.value = value
        self.limit = limit
        self.currency = currency
        super().__init__(
            f"a balance of {value} {currency} is beyond the limit of {limit}; nothing was changed. "
            "Split or correct the balance by hand first."
        )


class InvalidAmountError(WishesError):
    """An amount is not a whole number of at least 1."""

    def __init__(self, value: object, limit: int) -> None:
        self.value = value
        self.limit = limit
        super().__init__(
            f"an amount of {value!r} cannot be booked; give a whole number from 1 to {limit} "
            "and choose earn or spend for its direction"
        )


class InvalidColourError(WishesError):
    """There is no wish of this colour."""

    def __init__(self, value: object, allowed: Sequence[str]) -> None:
        self.value = value
        super().__init__(f"there is no {value!r} wish; choose from {', '.join(allowed)}")


class InvalidReferenceError(WishesError):
    """A reference cannot serve as an idempotency key."""

    def __init__(self, value: object, reason: str) -> None:
        self.value = value
        super().__init__(
            f"the reference {value!r} {reason}; give the operation's own lasting name, such as 'order:1234:payment'"
        )


class UnknownUserError(WishesError):
    """The value means no user of this database."""

    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__(f"there is no user {value!r} in this database; give a saved user or its primary key")


class InsufficientBalanceError(WishesError):
    """The user has less than the operation takes; nothing was changed.

    Attributes:
        user: the user's primary key.
        currency: ``green``, ``blue``, ``red`` or ``mana``: the balance that was to pay.
        required: what the operation takes, in units of that currency.
        available: what is there, in the same unit; legacy balances may be negative.
        missing: what is lacking, in the same unit.
    """

    def __init__(self, *, user: object, currency: str, required: int, available: int) -> None:
        self.user = user
        self.currency = currency
        self.required = required
        self.available = available
        self.missing = required - available
        super().__init__(
            f"user {user} has {available} {currency} and needs {required}, {self.missing} more; nothing was changed"
        )


class ReferenceConflictError(WishesError):
    """The reference was already used for another operation; nothing was changed.

    Attributes:
        reference: the idempotency key.
    """

    def __init__(self, *, reference: str, booked: str, asked: str) -> None:
        self.reference = reference
        super().__init__(
            f"the reference {reference!r} already stands for {booked}, not for {asked}; nothing was changed. "
            "Give every operation a reference of its own, and the same one only to its retries."
        )


class WriteNotKeptError(WishesError):
    """The database reported success and did not keep what was written; nothing was changed.

    Attributes:
        user: the user's primary key.
    """

    def __init__(self, user: object, what: str) -> None:
        self.user = user
        super().__init__(
            f"the database did not keep what was written for user {user}: {what}; nothing was changed. A trigger, a "
            "rule or row-level security of the site changes or hides rows: look at the tables wishes_wallet, "
            "wishes_manaentry and wishes_wishentry"
        )


class ReversalNotAllowedError(WishesError):
    """The database role of this process may not reverse conversions; nothing was changed."""

    def __init__(self, role: str) -> None:
        self.role = role
        super().__init__(
            f"the database role {role} may not reverse conversions; nothing was changed. Use the role of the migration "
            "commands, or grant it: GRANT INSERT ON wishes_guard TO the role"
        )
