"""What can go wrong with a wallet, one class per cause.

Every message says what happened, with the values, and what to do next.  It never carries a user's
name: a user is shown by primary key, which only the site can resolve.
"""

from __future__ import annotations


class WishesError(Exception):
    """Base of every error that the economy raises on purpose."""


class InvalidRatesError(WishesError):
    """The conversion rates are not positive whole numbers."""


class BalanceOverflowError(WishesError):
    """A balance would leave the range of a BIGINT column."""

    def __init__(self, value: int, limit: int) -> None:
        self.value = value
        self.limit = limit
        super().__init__(
            f"a balance of {value} mana is beyond the limit of {limit}; nothing was changed. "
            "Split or correct the balance by hand first."
        )
