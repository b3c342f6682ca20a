"""Why one user has what they have: wallet, arithmetic, ledger and every run that handled them.

Nothing here carries a name: a user is shown by primary key and record ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections

from mana_migration.engine import users
from mana_migration.models import IntegrityFix, UserMigration
from mana_migration.selectors.user_list import Standing, UserStanding, standing_of, standings
from mana_migration.states import RunKind, UserStatus
from wishes import conf as wishes_conf
from wishes.models import EntryKind, ManaEntry, Wallet, WishEntry
from wishes.moments import aware
from wishes.rates import COLOURS

#: Ledger entries shown, the latest; a busy user has thousands.
ENTRIES_SHOWN: Final = 200

#: Users that one reference can find, and the latest entries whose references say how the site begins them.
MOST_MATCHES, REFERENCES_READ = 20, 200

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
        """Say whether wishes became mana here, rolled back since or not."""
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
class Moment:
    """One thing that happened to the user; ``kind`` says which of the others is there.

    ``converted``, ``imported``, ``failed``, ``skipped``, ``kept`` (a rollback left the user alone) and
    ``rolled_back`` have an episode; ``entry`` is of the mana ledger and ``wish_entry`` of that of the
    wishes; ``fixed`` has a fix.
    """

    at: datetime
    kind: str
    episode: Episode | None = None
    entry: ManaEntry | None = None
    wish_entry: WishEntry | None = None
    fix: IntegrityFix | None = None

    @property
    def ledger_id(self) -> int:
        """Return the id of the mana entry that it booked, by which what happened at the same time is ordered."""
        entry = self.entry
        if self.episode is not None:
            entry = self.episode.reversal_entry if self.kind == "rolled_back" else self.episode.entry
        return 0 if entry is None else entry.pk


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
    def timeline(self) -> list[Moment]:
        """Return all that happened to the user, newest first; what a run booked is part of what it did."""
        found = [moment for episode in self.episodes for moment in _moments(episode)]
        shown = {entry.pk for episode in self.episodes for entry in (episode.entry, episode.reversal_entry) if entry}
        written_off = tuple(f"adjustment:shortfall:{episode.record.run_id}:" for episode in self.episodes)
        found += [
            Moment(aware(entry.created_at), "entry", entry=entry)
            for entry in self.entries
            if entry.pk not in shown and not entry.reference.startswith(written_off)
        ]
        found += [Moment(aware(entry.created_at), "wish_entry", wish_entry=entry) for entry in self.wish_entries]
        found += [Moment(fix.created_at, "fixed", fix=fix) for fix in self.fixes]
        return sorted(found, key=lambda moment: (moment.at, moment.ledger_id), reverse=True)

    @property
    def ledger_agrees(self) -> bool:
        """Say whether the wallet's mana is the balance after the newest entry."""
        if self.wallet is None:
            return not self.entries
        return self.wallet.mana == (self.entries[0].balance_after if self.entries else 0)


def _moments(episode: Episode) -> list[Moment]:
    record = episode.record
    if episode.is_import:
        kind = "imported"
    elif episode.is_conversion:
        kind = "converted"
    else:
        kind = "kept" if episode.is_rollback else record.status
    found = [Moment(record.created_at, kind, episode)]
    if record.reversed_at is not None:
        found.append(Moment(record.reversed_at, "rolled_back", episode))
    return found


def explain(pk: Any, *, using: str) -> Explanation | None:
    """Return what explains this user's numbers, None if there is no such user.

    Six queries at most, none of which reads more than the rows shown.
    """
    user = get_user_model()._base_manager.using(using).filter(pk=pk).select_related("wish_wallet").first()
    if user is None:
        return None
    wallet = getattr(user, "wish_wallet", None)
    records = list(
        UserMigration.objects.using(using)
        .with_fix()
        .filter(user=pk)
        .select_related("run", "reversal_run")
        .order_by("-id")[:RECORDS_SHOWN]
    )
    entries = list(ManaEntry.objects.using(using).filter(user=pk).order_by("-id")[: ENTRIES_SHOWN + 1])
    rates = wishes_conf.rates().as_dict()
    key = users.to_sql(connections[using], users.to_text(user.pk))  # as references hold it
    booked = _entries_of(records, entries, key, using)
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


def _entries_of(
    records: Iterable[UserMigration], entries: Sequence[ManaEntry], key: Any, using: str
) -> dict[str, ManaEntry]:
    """Return the ledger entries that these records booked, by reference, however old; ``entries``: the latest."""
    references = [f"opening:{key}"]
    for record in records:
        references += [f"conversion:{record.run_id}:{key}", f"reversal:{record.run_id}:{key}"]
    # more than are shown: some of these may be older
    found = ManaEntry.objects.using(using).filter(reference__in=references) if len(entries) > ENTRIES_SHOWN else entries
    wanted = set(references)
    return {entry.reference: entry for entry in found if entry.reference in wanted}


@dataclass(frozen=True, slots=True)
class Match:
    """A user that a search fits, and how: ``detail`` is the reference where that fits."""

    user_pk: str
    how: str
    standing: UserStanding
    detail: str = ""


def find(text: str, *, using: str) -> list[Match]:
    """Return the users that a primary key, username, record id or ledger reference fits.

    One user may fit in several ways.  ``pk:57``, ``username:57``, ``record:57`` and ``reference:57`` ask
    for one way alone; ``57`` for all of them.
    """
    ways: dict[str, Callable[[str, str], list[Any]]] = {
        "pk": users_with_key,
        "username": users_with_name,
        "record": users_of_record,
        "reference": users_of_reference,
    }
    word, colon, rest = text.strip().partition(":")
    if colon and word in ways:
        ways, value = {word: ways[word]}, rest.strip()
    else:
        value = text.strip()
    if not value or "\0" in value:
        return []
    found = [(key, how) for how, find in ways.items() for key in find(value, using)]
    keys = [key[0] if isinstance(key, tuple) else key for key, _how in found]
    known = standings(keys, using=using)
    return [
        Match(str(key), how, known[key], given[1] if isinstance(given, tuple) else "")
        for key, (given, how) in zip(keys, found, strict=True)
    ]


def key_of(text: str) -> Any:
    """Return the primary key that this text would be, whether or not a user has it; None where it can be none."""
    try:
        key = get_user_model()._meta.pk.to_python(text)
    except (ValidationError, ValueError):
        return None
    # "007" and "1_000" are numbers to Python and usernames at most to us; a UUID may come without its dashes
    return key if users.to_text(key).replace("-", "") == text.lower().replace("-", "") else None


def users_with_key(text: str, using: str) -> list[Any]:
    """Return the primary key that this text means, if a user has it."""
    key = key_of(text)
    if key is None:
        return []
    return list(get_user_model()._base_manager.using(using).filter(pk=key).values_list("pk", flat=True))


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
    if int(digits) > 2**63 - 1:
        return []
    return list(UserMigration.objects.using(using).filter(pk=int(digits)).values_list("user", flat=True))


def users_of_reference(text: str, using: str) -> list[tuple[Any, str]]:
    """Return the primary key and the reference of the user of ledger entries with this reference.

    ``1000`` and ``order-1000`` also find ``shop:order-1000``, where the latest entries have references
    that begin like that: a support agent has the order's number and not what the site puts before it.
    """
    wanted = {text} | {f"{prefix}{text}" for prefix in _prefixes(using)}
    found = {
        (entry.user_id, entry.reference)
        for model in (ManaEntry, WishEntry)
        for entry in model._base_manager.using(using).filter(reference__in=wanted)[:MOST_MATCHES]
    }
    return sorted(found, key=lambda pair: pair[1])


def _prefixes(using: str) -> set[str]:
    """Return what the references of the latest entries of the site begin with, up to each of their separators."""
    latest = ManaEntry.objects.using(using).order_by("-id").values_list("reference", "kind")[:REFERENCES_READ]
    own = (EntryKind.CONVERSION, EntryKind.REVERSAL, EntryKind.OPENING)
    return {
        reference[: separator.end()]
        for reference, kind in latest
        if kind not in own
        for separator in re.finditer(r"[:/#_. -]", reference)
    }
