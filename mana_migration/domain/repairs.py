"""What can be put right without guessing, decided from one user's figures alone: plain Python, no database.

# Note [One reading]
A repair is made only where the data allow one reading of what happened, and never pays out: mana is
only ever taken down to what the ledger backs, and no ledger entry or record is made up.  Everything
else is left as it is, with the reason, for a person to decide.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

#: The range of a BIGINT column, which a recorded change must fit into.
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Flag(enum.Enum):
    """What a repair does to a wallet's ``migrated_at``."""

    KEEP = "keep"
    SET = "set"
    """Take the moment of the live record."""
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Balances:
    """A wallet's wishes and mana."""

    green: int
    blue: int
    red: int
    mana: int

    @property
    def wishes(self) -> tuple[int, int, int]:
        """Return green, blue and red."""
        return (self.green, self.blue, self.red)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a user's entries say: their sum, the balance after the newest (None: no entries), the newest's kind.

    ``open_conversions`` are conversions without their reversal, as (run, mana credited).  ``newest_entry`` is the id of
    the newest; ``broken``: a balance among them is negative or does not follow from the one before.
    """

    total: int = 0
    newest_balance: int | None = None
    newest_kind: str = ""
    open_conversions: tuple[tuple[int, int], ...] = ()
    opening: bool = False
    newest_entry: int = 0
    broken: bool = False

    @property
    def agrees(self) -> bool:
        """Say whether the sum is the balance after the newest entry."""
        return self.total == (self.newest_balance or 0)


@dataclass(frozen=True, slots=True)
class LiveRecord:
    """A record with the status migrated; ``before`` is the pre-image."""

    id: int
    run: int
    before: Balances
    credited: int


@dataclass(frozen=True, slots=True)
class UserState:
    """Everything about one user that a repair is decided by."""

    wallet: Balances | None
    migrated: bool
    ledger: LedgerState
    live: tuple[LiveRecord, ...] = ()
    migrated_at: str = ""
    """The flag itself as ISO text, to be put back as it was; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What the wallet holds and shall hold, what becomes of its flag, and why that is the only reading."""

    before: Balances
    after: Balances
    flag: Flag
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """Why nothing can be done automatically."""

    reason: str


NOTHING_WRONG: Final = Left("")
"""The finding is gone: it was corrected in the meantime."""


def decide(check: str, state: UserState) -> Repair | Left:
    """Return what to do about a finding of a fixable check, by the user's state as it is now."""
    decision = _DECISIONS[check](state)
    if isinstance(decision, Repair) and not _recordable(decision.before, decision.after):
        return Left("the change itself is beyond the limit of BIGINT and could not be recorded")
    return decision


def in_range(balances: Balances) -> bool:
    """Say whether each balance fits into a BIGINT column."""
    return all(_LOWEST <= value <= _HIGHEST for value in (*balances.wishes, balances.mana))


def _recordable(before: Balances, after: Balances) -> bool:
    changes = (
        after.green - before.green,
        after.blue - before.blue,
        after.red - before.red,
        after.mana - before.mana,
    )
    return all(_LOWEST <= change <= _HIGHEST for change in changes)


def _negative_balance(state: UserState) -> Repair | Left:
    wallet = state.wallet
    if wallet is None or state.migrated or min(wallet.wishes) >= 0:
        return NOTHING_WRONG
    green, blue, red = (max(0, amount) for amount in wallet.wishes)
    return Repair(wallet, Balances(green, blue, red, wallet.mana), Flag.KEEP, "set to 0")


def _orphaned_mana(state: UserState) -> Repair | Left:
    wallet, ledger = state.wallet, state.ledger
    if wallet is None or state.migrated or wallet.mana == ledger.total:
        return NOTHING_WRONG
    if wallet.mana < ledger.total:
        return Left(
            "the ledger says more mana than the wallet holds; to raise it would pay out what may have been spent"
        )
    if ledger.total < 0:
        return Left("more was spent than the ledger ever credited: part of the unbacked mana is spent already")
    if not ledger.agrees:
        return Left("later entries were booked on top of the unbacked mana")
    return Repair(wallet, replace(wallet, mana=ledger.total), Flag.KEEP, "written off to the sum of the ledger entries")


def _migration_inconsistency(state: UserState) -> Repair | Left:
    if state.wallet is None:
        return Left("the record's user has no wallet")
    if len(state.live) > 1:
        return Left("there are several live records of one user")
    if state.live and state.migrated:
        return NOTHING_WRONG
    if state.live:
        return _unflagged(state.wallet, state.live[0], state.ledger)
    return _unrecorded(state.wallet, state.ledger) if state.migrated else NOTHING_WRONG


def _booked(record: LiveRecord, ledger: LedgerState) -> bool:
    """Say whether a record's conversion is in the ledger and was not reversed there; one worth 0 has no entry."""
    return not record.credited or (record.run, record.credited) in ledger.open_conversions


def _unflagged(wallet: Balances, record: LiveRecord, ledger: LedgerState) -> Repair | Left:
    """Decide about a live record whose wallet is not flagged as migrated."""
    if not ledger.agrees:
        return Left("the ledger's sum is not the balance after its newest entry")
    booked = (record.run, record.credited) in ledger.open_conversions
    if record.credited and not booked:
        return Left("the record's conversion is not in the ledger, or was reversed there")
    if wallet.wishes == (0, 0, 0) and wallet.mana == ledger.total:
        return Repair(wallet, wallet, Flag.SET, "converted as the record and the ledger say; only the flag was missing")
    if booked and wallet == record.before and ledger.newest_kind == "conversion":
        # What an old instance, saved whole, leaves behind: exactly the pre-image, and nothing happened since.
        return Repair(
            wallet,
            Balances(0, 0, 0, ledger.total),
            Flag.SET,
            "a stale write had put back exactly what was there before the conversion",
        )
    return Left("the wallet holds neither what the conversion left nor what was there before it")


def _unrecorded(wallet: Balances, ledger: LedgerState) -> Repair | Left:
    """Decide about a wallet flagged as migrated without a live record."""
    if ledger.open_conversions:
        return Left("the ledger has the conversion but its record is gone, and with it the wishes before it")
    if ledger.opening:
        return Left("the ledger has the opening balance but the record of its import is gone")
    if wallet.wishes != (0, 0, 0):
        return Left("there are wishes on the flagged wallet")
    if wallet.mana != ledger.total or not ledger.agrees:
        return Left("the wallet's mana is not what its ledger entries say")
    return Repair(wallet, wallet, Flag.CLEAR, "nothing was ever converted; the flag alone was set")


def decide_by_ledger(state: UserState) -> Repair | Left:
    """Return how to bring a user's wallet to what their ledger and their live record say, whatever happened to it.

    Unlike ``decide`` it also pays out, and takes what later entries were booked on: for a user whose case was looked
    into, never for all.
    """
    wallet, ledger, converted = state.wallet, state.ledger, bool(state.live)
    obstacle = _obstacle(state)
    if wallet is None or obstacle:
        return Left(obstacle or "the user has no wallet: compare with a backup")
    repaired = Balances(*((0, 0, 0) if converted else wallet.wishes), ledger.total)
    flag = Flag.KEEP if converted == state.migrated else Flag.SET if converted else Flag.CLEAR
    if repaired == wallet and flag is Flag.KEEP and ledger.agrees:
        if ledger.broken:
            return Repair(wallet, wallet, flag, "the sum of the entries is confirmed; no balance changes")
        return NOTHING_WRONG
    if not _recordable(wallet, repaired):
        return Left("the change itself is beyond the limit of BIGINT and could not be recorded")
    return Repair(wallet, repaired, flag, "brought to what the ledger and the record say")


def _obstacle(state: UserState) -> str:
    """Return why the ledger and the records do not say what a wallet should hold; empty where they do."""
    ledger = state.ledger
    if ledger.total < 0:
        return (
            f"the ledger's sum is {ledger.total}: book what is missing with wishes.services.earn_mana, then repair "
            "again"
        )
    if len(state.live) > 1:
        return "there are several live records of one user: compare with a backup"
    if state.live and not ledger.opening and not _booked(state.live[0], ledger):
        return "the record's conversion is not in the ledger, or was reversed there: compare with a backup"
    if not state.live and (ledger.open_conversions or ledger.opening):
        return "the ledger has a conversion whose record, with the wishes before it, is gone: compare with a backup"
    return ""


_DECISIONS: Final = {
    "negative_balance": _negative_balance,
    "orphaned_mana": _orphaned_mana,
    "migration_inconsistency": _migration_inconsistency,
}

FIXABLE: Final = tuple(_DECISIONS)
"""The checks with a repair, in the order in which repairs are made."""
