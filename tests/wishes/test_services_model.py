"""The wallet service against a model of it in plain Python: any operations, in any order, with any repetitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wishes import errors, services
from wishes.guards import announce_reversal
from wishes.models import ManaEntry, Wallet, WishEntry
from wishes.rates import BIGINT_MAX, Rates

pytestmark = pytest.mark.django_db

RATES = Rates()
NOW = datetime(2026, 11, 1, tzinfo=UTC)
CURRENCIES = ("green", "blue", "red", "mana")


@dataclass
class Purse:
    """What the model knows of one user."""

    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CURRENCIES, 0))
    migrated: bool = False
    taken: list[dict[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Booked:
    """What the model remembers under a reference."""

    user: int
    kind: str
    currency: str
    amount: int
    balance: int


class Model:
    """Say what each call must do, by another way than the service."""

    def __init__(self) -> None:
        self.purses = [Purse(), Purse()]
        self.booked: dict[str, Booked] = {}

    def call(self, user: int, kind: str, currency: str, amount: int, reference: str) -> Booked | type[Exception]:
        """Return what must be booked, or the error that must be raised."""
        purse = self.purses[user]
        in_mana = amount if currency == "mana" else amount * RATES.of(currency)
        if old := self.booked.get(reference):
            same = (old.user, old.kind) == (user, kind) and (
                (old.currency, old.amount) in ((currency, amount), ("mana", in_mana))
            )
            return old if same else errors.ReferenceConflictError
        pays_in = "mana" if purse.migrated else currency
        units = in_mana if purse.migrated else amount
        balance = purse.held[pays_in] + (units if kind == "earn" else -units)
        if kind == "spend" and balance < 0:
            return errors.InsufficientBalanceError
        if balance > BIGINT_MAX:
            return errors.BalanceOverflowError
        purse.held[pays_in] = balance
        self.booked[reference] = Booked(user, kind, pays_in, units, balance)
        return self.booked[reference]

    def migrate(self, user: int) -> int | None:
        """Convert a user; return the mana, None where they are migrated already or it would not fit."""
        purse = self.purses[user]
        worth = RATES.worth(purse.held["green"], purse.held["blue"], purse.held["red"])
        if purse.migrated or purse.held["mana"] + worth > BIGINT_MAX:
            return None
        purse.taken.append({colour: purse.held[colour] for colour in CURRENCIES[:3]} | {"mana": worth})
        purse.held = {"green": 0, "blue": 0, "red": 0, "mana": purse.held["mana"] + worth}
        purse.migrated = True
        return worth

    def roll_back(self, user: int) -> dict[str, int] | None:
        """Take the conversion back; return what it took, None where there is none or it was spent."""
        purse = self.purses[user]
        if not purse.migrated or purse.held["mana"] < purse.taken[-1]["mana"]:
            return None
        taken = purse.taken.pop()
        for colour in CURRENCIES[:3]:
            purse.held[colour] += taken[colour]
        purse.held["mana"] -= taken["mana"]
        purse.migrated = False
        return taken


users = st.integers(0, 1)
amounts = st.one_of(st.integers(1, 30), st.sampled_from([100, 1000, 3000, BIGINT_MAX // 1000, BIGINT_MAX]))
steps = st.one_of(
    st.tuples(
        st.sampled_from(["earn", "earn", "spend"]),
        users,
        st.sampled_from(CURRENCIES),
        amounts,
        st.integers(0, 12).map("operation:{}".format),
    ),
    st.tuples(st.sampled_from(["migrate", "roll_back"]), users),
)


@contextmanager
def undone() -> Iterator[None]:
    """Undo what an example did."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def act(user: Any, kind: str, currency: str, amount: int, reference: str) -> services.Receipt:
    if currency == "mana":
        book = services.earn_mana if kind == "earn" else services.spend_mana
        return book(user, amount, reference=reference)
    exchange = services.earn_wishes if kind == "earn" else services.spend_wishes
    return exchange(user, currency, amount, reference=reference)


def convert(user: Any, worth: int, number: int) -> None:
    wallet = Wallet.objects.filter(pk=user.pk).first() or Wallet.objects.create(user=user)
    if worth:
        ManaEntry.objects.create(
            user=user,
            amount=worth,
            balance_after=wallet.mana + worth,
            kind="conversion",
            reference=f"conversion:{number}:{user.pk}",
        )
    Wallet.objects.filter(pk=user.pk).update(green=0, blue=0, red=0, mana=wallet.mana + worth, migrated_at=NOW)


def reverse(user: Any, taken: dict[str, int], number: int) -> None:
    wallet = Wallet.objects.get(pk=user.pk)
    if taken["mana"]:
        ManaEntry.objects.create(
            user=user,
            amount=-taken["mana"],
            balance_after=wallet.mana - taken["mana"],
            kind="reversal",
            reference=f"reversal:{number}:{user.pk}",
        )
    with announce_reversal(connection):
        Wallet.objects.filter(pk=user.pk).update(
            green=wallet.green + taken["green"],
            blue=wallet.blue + taken["blue"],
            red=wallet.red + taken["red"],
            mana=wallet.mana - taken["mana"],
            migrated_at=None,
        )


@given(st.lists(steps, max_size=40))
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_service_does_what_the_model_says(django_user_model: Any, operations: list[tuple[Any, ...]]) -> None:
    with undone():
        people = [django_user_model.objects.create(username=name) for name in ("one", "two")]
        model = Model()
        for number, (what, *arguments) in enumerate(operations):
            if what == "migrate":
                worth = model.migrate(arguments[0])
                if worth is not None:
                    convert(people[arguments[0]], worth, number)
            elif what == "roll_back":
                taken = model.roll_back(arguments[0])
                if taken is not None:
                    reverse(people[arguments[0]], taken, number)
            else:
                user, currency, amount, reference = arguments
                known = reference in model.booked
                expected = model.call(user, what, currency, amount, reference)
                if isinstance(expected, type):
                    with pytest.raises(expected):
                        act(people[user], what, currency, amount, reference)
                else:
                    receipt = act(people[user], what, currency, amount, reference)
                    sign = 1 if what == "earn" else -1
                    assert receipt == services.Receipt(
                        reference, expected.currency, sign * expected.amount, expected.balance, repeated=known
                    )
        check(people, model)


def check(people: list[Any], model: Model) -> None:
    """Compare every balance, every reference and every sum with the model."""
    for person, purse in zip(people, model.purses, strict=True):
        balance = services.read_balance(person)
        assert {currency: balance.of(currency) for currency in CURRENCIES} == purse.held
        assert balance.migrated == purse.migrated
        assert balance.worth == RATES.worth(balance.green, balance.blue, balance.red) + purse.held["mana"]
        booked = sum(ManaEntry.objects.filter(user=person).values_list("amount", flat=True))
        assert booked == purse.held["mana"]
    references = [*ManaEntry.objects.filter(kind__in=["earn", "spend"]).values_list("reference", flat=True)]
    references += WishEntry.objects.values_list("reference", flat=True)
    assert sorted(references) == sorted(model.booked)


def test_the_model_notices_a_service_that_forgets_what_it_booked(
    django_user_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "find_entry", lambda reference, using: None)
    with pytest.raises(IntegrityError), undone():
        person = django_user_model.objects.create(username="one")
        for _ in range(2):
            act(person, "earn", "mana", 5, "a")
