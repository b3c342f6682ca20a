"""Why one user has what they have: wallet, arithmetic, ledger and every run that touched them.

Nothing here carries a name: a user is shown by primary key and record ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections

from mana_migration.engine import users
from mana_migration.models import IntegrityFix, UserMigration
from mana_migration.selectors.user_list import Standing, standing_of
from mana_migration.states import RunKind, UserStatus
from wishes import conf as wishes_conf
from wishes.models import ManaEntry, Wallet, WishEntry
from wishes.rates import COLOURS

#: Ledger entries shown, the latest; a busy user has thousands.
ENTRIES_SHOWN: Final = 200

#: Records and fixes shown, the latest.
RECORDS_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Term:
    """One colour's part of a conversion: wishes times rate."""

    colour: str
    wishes: int
    rate: int

    @property
    def mana(self) -> int:
        """Return what these wishes are worth."""
        return self.wishes * self.rate


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How wishes become mana: the terms and their sum."""

    terms: tuple[Term, ...]

    @property
    def mana(self) -> int:
        """Return what all the wishes are worth."""
        return sum(term.mana for term in self.terms)

    @classmethod
    def of(cls, balances: Any, rates: Mapping[str, int]) -> Arithmetic:
        """Build it from anything that has green, blue and red."""
        return cls(tuple(Term(colour, getattr(balances, colour), int(rates.get(colour, 0))) for colour in COLOURS))


@dataclass(frozen=True, slots=True)
class Episode:
    """What one run did to the user."""

    record: UserMigration
    arithmetic: Arithmetic
    entry: ManaEntry | None
    reversal_entry: ManaEntry | None

    @property
    def is_conversion(self) -> bool:
        """Say whether wishes became mana here, taken back since or not."""
        return self.record.status in (UserStatus.MIGRATED, UserStatus.ROLLED_BACK)

    @property
    def is_import(self) -> bool:
        """Say whether the user arrived already migrated by the old system."""
        return self.record.run.kind == RunKind.IMPORT

    @property
    def is_rollback(self) -> bool:
        """Say whether the record is of a rollback that left the user alone."""
        return self.record.run.kind == RunKind.ROLLBACK

    @property
    def mana_after(self) -> int:
        """Return the user's mana right after the conversion."""
        return self.record.mana_before + self.record.mana_credited

    @property
    def adds_up(self) -> bool:
        """Say whether the mana credited is what the wishes were worth at the run's rates."""
        return self.is_import or self.arithmetic.mana == self.record.mana_credited


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that explains one user's numbers, newest first."""

    user_pk: str
    joined: datetime | None
    standing: Standing
    wallet: Wallet | None
    now: Arithmetic | None
    rates: Mapping[str, int]
    episodes: list[Episode]
    entries: list[ManaEntry]
    more_entries: bool
    wish_entries: list[WishEntry]
    fixes: list[IntegrityFix]

    @property
    def live(self) -> Episode | None:
        """Return the conversion that is in force, None if there is none."""
        return next((episode for episode in self.episodes if episode.record.status == UserStatus.MIGRATED), None)

    @property
    def ledger_agrees(self) -> bool:
        """Say whether the wallet's mana is the balance after the newest entry."""
        if self.wallet is None:
            return not self.entries
        return self.wallet.mana == (self.entries[0].balance_after if self.entries else 0)


def explain(pk: Any, *, using: str) -> Explanation | None:
    """Return what explains this user's numbers, None if there is no such user.

    Seven queries at most, none of which reads more than the rows shown.
    """
    user = get_user_model()._base_manager.using(using).filter(pk=pk).first()
    if user is None:
        return None
    wallet = Wallet.objects.using(using).filter(pk=pk).first()
    records = list(
        UserMigration.objects.using(using)
        .filter(user=pk)
        .select_related("run", "reversal_run")
        .order_by("-id")[:RECORDS_SHOWN]
    )
    entries = list(ManaEntry.objects.using(using).filter(user=pk).order_by("-id")[: ENTRIES_SHOWN + 1])
    rates = wishes_conf.rates().as_dict()
    key = users.to_sql(connections[using], users.to_text(user.pk))  # as references hold it
    booked = _entries_of(records, key, using)
    deciding = next((record for record in records if record.run.kind != RunKind.ROLLBACK), None)
    return Explanation(
        user_pk=str(user.pk),
        joined=getattr(user, "date_joined", None),
        standing=standing_of(wallet, deciding),
        wallet=wallet,
        now=Arithmetic.of(wallet, rates) if wallet else None,
        rates=rates,
        episodes=[
            Episode(
                record=record,
                arithmetic=Arithmetic.of(record, record.run.rates),
                entry=booked.get(f"conversion:{record.run_id}:{key}") or booked.get(f"opening:{key}"),
                reversal_entry=booked.get(f"reversal:{record.run_id}:{key}"),
            )
            for record in records
        ],
        entries=entries[:ENTRIES_SHOWN],
        more_entries=len(entries) > ENTRIES_SHOWN,
        wish_entries=list(WishEntry.objects.using(using).filter(user=pk).order_by("-id")[:ENTRIES_SHOWN]),
        fixes=list(IntegrityFix.objects.using(using).filter(user=pk).order_by("-id")[:RECORDS_SHOWN]),
    )


def _entries_of(records: Iterable[UserMigration], key: Any, using: str) -> dict[str, ManaEntry]:
    """Return the ledger entries that these records booked, by reference, however old."""
    references = [f"opening:{key}"]
    for record in records:
        references += [f"conversion:{record.run_id}:{key}", f"reversal:{record.run_id}:{key}"]
    found = ManaEntry.objects.using(using).filter(reference__in=references)
    return {entry.reference: entry for entry in found}


@dataclass(frozen=True, slots=True)
class Match:
    """A user that a search fits, and how."""

    user_pk: str
    how: str


def find(text: str, *, using: str) -> list[Match]:
    """Return the users that a primary key, username or record id fits; one user may fit in several ways.

    ``pk:57``, ``username:57`` and ``record:57`` ask for one way alone; ``57`` for all of them.
    """
    ways: dict[str, Callable[[str, str], list[Any]]] = {
        "pk": users_with_key,
        "username": users_with_name,
        "record": users_of_record,
    }
    word, colon, rest = text.strip().partition(":")
    if colon and word in ways:
        ways, value = {word: ways[word]}, rest.strip()
    else:
        value = text.strip()
    if not value or "\0" in value:
        return []
    return [Match(str(pk), how) for how, look in ways.items() for pk in look(value, using)]


def users_with_key(text: str, using: str) -> list[Any]:
    """Return the primary key that this text stands for, if a user has it."""
    model = get_user_model()
    try:
        key = model._meta.pk.to_python(text)
    except (ValidationError, ValueError):
        return []
    # "007" and "1_000" are numbers to Python and usernames at most to us; a UUID may come without its dashes
    if users.to_text(key).replace("-", "") != text.lower().replace("-", ""):
        return []
    return list(model._base_manager.using(using).filter(pk=key).values_list("pk", flat=True))


def users_with_name(text: str, using: str) -> list[Any]:
    """Return the primary key of the user with exactly this name."""
    model = get_user_model()
    return list(
        model._base_manager.using(using).filter(**{model.USERNAME_FIELD: text}).values_list("pk", flat=True)[:2]
    )


def users_of_record(text: str, using: str) -> list[Any]:
    """Return the primary key of the user of a record, given as ``57`` or ``record:57``."""
    digits = text.removeprefix("record:").removeprefix("#").strip()
    if not (digits.isascii() and digits.isdecimal()) or digits.startswith("0"):
        return []
    return list(UserMigration.objects.using(using).filter(pk=int(digits)).values_list("user", flat=True))
