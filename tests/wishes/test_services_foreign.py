"""Whatever a site's triggers and rules do to what the wallet service writes: it is noticed, or it did no harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from tests.support.foreign import Foreign, everything
from wishes import services
from wishes.errors import WishesError, WriteNotKeptError
from wishes.models import ManaEntry, Wallet, WishEntry

pytestmark = pytest.mark.django_db

Book = Callable[[Any], object]

BOOKINGS: dict[str, Book] = {
    "earn mana": lambda user: services.earn_mana(user, 50, reference="a"),
    "spend mana": lambda user: services.spend_mana(user, 5, reference="b"),
    "earn wishes": lambda user: services.earn_wishes(user, "green", 7, reference="c"),
    "spend wishes": lambda user: services.spend_wishes(user, "green", 2, reference="d"),
}


def state() -> tuple[Any, ...]:
    """Return wallets and ledgers, but for the times of their rows."""
    wallets = list(Wallet.objects.order_by("pk").values_list("pk", "green", "blue", "red", "mana", "migrated_at"))
    entries = [
        list(model.objects.order_by("pk").values_list("user_id", "kind", "amount", "balance_after", "reference"))
        for model in (ManaEntry, WishEntry)
    ]
    return wallets, entries


@pytest.fixture
def user(django_user_model: Any) -> Any:
    """Return a user with 100 mana and 10 green wishes."""
    someone = django_user_model.objects.create(username="someone")
    services.earn_mana(someone, 100, reference="opening mana")
    services.earn_wishes(someone, "green", 10, reference="opening wishes")
    return someone


@pytest.mark.parametrize("booking", BOOKINGS)
@pytest.mark.parametrize("foreign", everything("wishes_wallet", "wishes_manaentry", "wishes_wishentry"), ids=str)
def test_a_booking_that_the_database_does_not_keep_is_an_error_and_changes_nothing(
    user: Any, booking: str, foreign: Foreign
) -> None:
    before = state()
    point = connection.savepoint()
    BOOKINGS[booking](user)
    expected = state()
    connection.savepoint_rollback(point)
    foreign.attach()
    try:
        with transaction.atomic():
            BOOKINGS[booking](user)
    except (DatabaseError, WishesError):
        assert state() == before
    else:
        assert state() == expected


def test_the_error_says_what_is_there_and_where_to_look(user: Any) -> None:
    drop = "RETURN NULL;" if connection.vendor == "postgresql" else "SELECT RAISE(IGNORE)"
    Foreign("dropped", "wishes_wallet", "UPDATE", body=drop).attach()
    with pytest.raises(WriteNotKeptError) as caught:
        services.earn_mana(user, 50, reference="quest:1")
    assert "mana is 100 instead of 150; nothing was changed" in str(caught.value)
    assert caught.value.user == user.pk
    assert services.read_balance(user).mana == 100
