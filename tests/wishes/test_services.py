"""The wallet service: what each call books, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import connection, transaction

from wishes import errors, services
from wishes.guards import announce_reversal
from wishes.models import ManaEntry, Wallet, WishEntry
from wishes.rates import BIGINT_MAX

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def user(django_user_model: Any) -> Any:
    return django_user_model.objects.create(username="someone")


def wallet(user: Any, **values: Any) -> Wallet:
    return Wallet.objects.create(user=user, **values)


def test_a_user_without_a_wallet_owns_nothing_and_reading_creates_none(user: Any) -> None:
    assert services.read_balance(user) == services.Balance(user=user.pk)
    assert not Wallet.objects.exists()


def test_a_balance_tells_its_worth_at_the_rates_in_force(user: Any, settings: Any) -> None:
    settings.WISHES_RATES = {"green": 2, "blue": 30, "red": 400}
    wallet(user, green=5, blue=-1, red=3, mana=7)
    balance = services.read_balance(user.pk)
    assert (balance.wishes_worth, balance.worth, balance.migrated) == (10 - 30 + 1200, 1187, False)
    assert balance.of("blue") == -1


@pytest.mark.parametrize("colour", ["green", "blue", "red"])
def test_wishes_are_earned_and_spent_by_colour(user: Any, colour: str) -> None:
    earned = services.earn_wishes(user, colour, 5, reference="quest:1")
    spent = services.spend_wishes(user.pk, colour, 2, reference="order:1")
    assert earned == services.Receipt("quest:1", colour, 5, 5)
    assert spent == services.Receipt("order:1", colour, -2, 3)
    assert services.read_balance(user).of(colour) == 3
    assert list(WishEntry.objects.order_by("id").values_list("kind", "colour", "amount", "balance_after")) == [
        ("earn", colour, 5, 5),
        ("spend", colour, -2, 3),
    ]
    assert not ManaEntry.objects.exists()


def test_mana_is_earned_and_spent_by_an_unmigrated_user_too(user: Any) -> None:
    assert services.earn_mana(user, 100, reference="gift:1") == services.Receipt("gift:1", "mana", 100, 100)
    assert services.spend_mana(user, 40, reference="order:1") == services.Receipt("order:1", "mana", -40, 60)
    assert services.read_balance(user).mana == 60
    assert list(ManaEntry.objects.order_by("id").values_list("kind", "amount", "balance_after")) == [
        ("earn", 100, 100),
        ("spend", -40, 60),
    ]


def test_a_migrated_user_earns_and_spends_the_worth_of_wishes_in_mana(user: Any) -> None:
    wallet(user, migrated_at=NOW)
    assert services.earn_wishes(user, "red", 3, reference="quest:1") == services.Receipt("quest:1", "mana", 3000, 3000)
    assert services.spend_wishes(user, "blue", 4, reference="o:1") == services.Receipt("o:1", "mana", -400, 2600)
    assert not WishEntry.objects.exists()
    assert services.read_balance(user) == services.Balance(user=user.pk, mana=2600, migrated=True)


def test_only_the_balance_that_changes_is_written(user: Any) -> None:
    wallet(user, green=-4, blue=2, red=1, mana=9)
    services.earn_wishes(user, "green", 1, reference="a")
    assert Wallet.objects.values_list("green", "blue", "red", "mana").get() == (-3, 2, 1, 9)


class TestRepetition:
    @pytest.mark.parametrize("migrated_at", [None, NOW])
    def test_the_same_call_again_changes_nothing_and_returns_the_first_receipt(
        self, user: Any, migrated_at: datetime | None
    ) -> None:
        wallet(user, migrated_at=migrated_at, mana=0)
        calls = [
            lambda: services.earn_wishes(user, "green", 5, reference="a"),
            lambda: services.spend_wishes(user, "green", 2, reference="b"),
            lambda: services.earn_mana(user, 50, reference="c"),
            lambda: services.spend_mana(user, 20, reference="d"),
        ]
        first = [call() for call in calls]
        before = services.read_balance(user)
        again = [call() for call in calls]
        assert [receipt.repeated for receipt in first + again] == [False] * 4 + [True] * 4
        assert [(r.currency, r.amount, r.balance_after) for r in again] == [
            (r.currency, r.amount, r.balance_after) for r in first
        ]
        assert services.read_balance(user) == before

    def test_wishes_earned_before_the_migration_are_recognised_after_it(self, user: Any) -> None:
        services.earn_wishes(user, "red", 3, reference="quest:1")
        Wallet.objects.update(red=0, mana=3000, migrated_at=NOW)
        again = services.earn_wishes(user, "red", 3, reference="quest:1")
        assert again == services.Receipt("quest:1", "red", 3, 3, repeated=True)
        assert services.read_balance(user).mana == 3000

    def test_wishes_earned_as_mana_are_recognised_after_a_rollback(self, user: Any) -> None:
        wallet(user, migrated_at=NOW)
        services.earn_wishes(user, "red", 3, reference="quest:1")
        with transaction.atomic(), announce_reversal(connection):
            Wallet.objects.update(migrated_at=None)
        again = services.earn_wishes(user, "red", 3, reference="quest:1")
        assert again == services.Receipt("quest:1", "mana", 3000, 3000, repeated=True)

    def test_a_spend_is_recognised_even_where_the_balance_would_not_allow_it_again(self, user: Any) -> None:
        services.earn_mana(user, 10, reference="a")
        services.spend_mana(user, 10, reference="b")
        assert services.spend_mana(user, 10, reference="b").repeated

    @pytest.mark.parametrize("migrated_at", [None, NOW])
    def test_a_reference_stands_for_one_user_kind_currency_and_amount(
        self, user: Any, django_user_model: Any, migrated_at: datetime | None
    ) -> None:
        other = django_user_model.objects.create(username="other")
        wallet(user, migrated_at=migrated_at, mana=100)
        wallet(other, mana=100)
        services.earn_wishes(user, "green", 5, reference="a")
        before = services.read_balances([user, other])
        for call in (
            lambda: services.earn_wishes(user, "green", 6, reference="a"),
            lambda: services.earn_wishes(user, "red", 5, reference="a"),
            lambda: services.spend_wishes(user, "green", 5, reference="a"),
            lambda: services.earn_wishes(other, "green", 5, reference="a"),
            lambda: services.earn_mana(user, 5, reference="a"),
            lambda: services.spend_mana(user, 5, reference="a"),
        ):
            with pytest.raises(errors.ReferenceConflictError, match="'a' already stands for earn of"):
                call()
        assert services.read_balances([user, other]) == before


class TestRefusals:
    @pytest.mark.parametrize("migrated_at", [None, NOW])
    def test_too_little_is_refused_with_the_numbers(self, user: Any, migrated_at: datetime | None) -> None:
        wallet(user, migrated_at=migrated_at, mana=150, green=0 if migrated_at else 3)
        with pytest.raises(errors.InsufficientBalanceError) as caught:
            services.spend_wishes(user, "green", 20, reference="a")
        error = caught.value
        expected = ("mana", 200, 150, 50) if migrated_at else ("green", 20, 3, 17)
        assert (error.currency, error.required, error.available, error.missing) == expected
        assert str(error) == (
            f"user {user.pk} has {error.available} {error.currency} and needs {error.required}, "
            f"{error.missing} more; nothing was changed"
        )
        assert not WishEntry.objects.exists() and not ManaEntry.objects.exists()

    def test_wishes_are_never_exchanged_to_pay_mana(self, user: Any) -> None:
        wallet(user, red=10)
        with pytest.raises(errors.InsufficientBalanceError):
            services.spend_mana(user, 1, reference="a")

    def test_a_negative_legacy_balance_cannot_be_spent_but_can_be_earned_on(self, user: Any) -> None:
        wallet(user, blue=-2)
        with pytest.raises(errors.InsufficientBalanceError, match="has -2 blue and needs 1, 3 more"):
            services.spend_wishes(user, "blue", 1, reference="a")
        assert services.earn_wishes(user, "blue", 3, reference="b").balance_after == 1

    def test_a_balance_beyond_bigint_is_refused(self, user: Any) -> None:
        wallet(user, green=BIGINT_MAX, mana=BIGINT_MAX - 1)
        assert services.earn_mana(user, 1, reference="a").balance_after == BIGINT_MAX
        with pytest.raises(errors.BalanceOverflowError, match="mana is beyond"):
            services.earn_mana(user, 1, reference="b")
        with pytest.raises(errors.BalanceOverflowError, match="green is beyond"):
            services.earn_wishes(user, "green", BIGINT_MAX, reference="c")

    def test_a_worth_beyond_bigint_is_refused(self, user: Any) -> None:
        wallet(user, migrated_at=NOW)
        with pytest.raises(errors.BalanceOverflowError):
            services.earn_wishes(user, "red", BIGINT_MAX // 1000 + 1, reference="a")
        with pytest.raises(errors.InsufficientBalanceError):
            services.spend_wishes(user, "red", BIGINT_MAX, reference="a")

    @pytest.mark.parametrize("amount", [0, -1, 1.0, "1", True, None, BIGINT_MAX + 1])
    def test_an_amount_is_a_whole_number_of_at_least_one(self, user: Any, amount: Any) -> None:
        for call in (services.earn_mana, services.spend_mana):
            with pytest.raises(errors.InvalidAmountError, match="cannot be booked"):
                call(user, amount, reference="a")
        with pytest.raises(errors.InvalidAmountError):
            services.earn_wishes(user, "red", amount, reference="a")

    @pytest.mark.parametrize("colour", ["mana", "RED", "", None, "yellow"])
    def test_a_colour_is_one_of_three(self, user: Any, colour: Any) -> None:
        with pytest.raises(errors.InvalidColourError, match="choose from green, blue, red"):
            services.earn_wishes(user, colour, 1, reference="a")

    @pytest.mark.parametrize(
        "reference", ["", "  ", None, 7, "a\0b", "x" * 201, "conversion:1:2", "reversal:1:2", "opening:1"]
    )
    def test_a_reference_is_the_callers_own_text(self, user: Any, reference: Any) -> None:
        with pytest.raises(errors.InvalidReferenceError, match="order:1234"):
            services.earn_mana(user, 1, reference=reference)

    @pytest.mark.parametrize("value", [10**9, 10**30, "nobody", None, True, 1.0, AnonymousUser(), Wallet()])
    def test_a_user_is_one_of_this_database(self, value: Any) -> None:
        with pytest.raises(errors.UnknownUserError):
            services.earn_mana(value, 1, reference="a")
        assert not Wallet.objects.exists()

    def test_an_unsaved_user_is_refused(self) -> None:
        with pytest.raises(errors.UnknownUserError):
            services.earn_mana(get_user_model()(username="new"), 1, reference="a")

    def test_every_refusal_leaves_the_callers_transaction_usable(self, user: Any, django_user_model: Any) -> None:
        other = django_user_model.objects.create(username="other")
        services.earn_mana(other, 1, reference="taken")
        with transaction.atomic():
            for call in (
                lambda: services.spend_mana(user, 1, reference="a"),
                lambda: services.earn_mana(user, 1, reference="taken"),
                lambda: services.earn_mana(10**9, 1, reference="b"),
                lambda: services.earn_wishes(user, "red", 0, reference="c"),
            ):
                with pytest.raises(errors.WishesError):
                    call()
            services.earn_mana(user, 5, reference="d")
        assert services.read_balance(user).mana == 5


def test_the_callers_transaction_takes_a_booking_back(user: Any) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        services.earn_mana(user, 5, reference=f"gift:{uuid4()}")
        raise RuntimeError
    assert services.read_balance(user).mana == 0
    assert not ManaEntry.objects.exists()
