"""What another app may add to the wallet service; the economy itself does not know which.

An app that moves users from wishes to mana sets these from its ``AppConfig.ready``.  Unset, they
do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from wishes.guards import Guard
from wishes.rates import Rates


class BeforeSpend(Protocol):
    """Convert a user who is about to spend."""

    def __call__(self, user_key: Any, using: str) -> bool:
        """Convert the unmigrated user of this primary key, or leave them; return whether the wallet changed.

        Called inside the spending transaction, under the wallet's lock, once it is known that the
        spend is no repetition.  It must lock nothing that waits for wallets elsewhere.
        """


class RatesOfMigrated(Protocol):
    """Say at which rates a migrated user was converted."""

    def __call__(self, user_key: Any, using: str) -> Rates | None:
        """Return the frozen rates of this user's conversion; None: those of the setting."""


class _Hooks:
    """Hold the functions that are in force in this process."""

    before_spend: BeforeSpend | None = None
    rates_of_migrated: RatesOfMigrated | None = None
    more_guards: Callable[[str], list[Guard]] = staticmethod(lambda vendor: [])
    """Returns the guards that the app adds to those of the economy, by the vendor of the database."""


hooks = _Hooks()
