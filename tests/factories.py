"""Builders of users and wallets: ``WalletFactory(green=-5)`` makes one of each, ``make_wallets`` many."""

import itertools
from collections.abc import Sequence
from typing import Any

import factory
from django.contrib.auth import get_user_model
from factory.django import DjangoModelFactory

from wishes.models import Wallet

_numbers = itertools.count(1)


class UserFactory(DjangoModelFactory):
    """A user without a wallet, under a name that is not a number."""

    class Meta:
        model = get_user_model()

    @classmethod
    def _adjust_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        return {get_user_model().USERNAME_FIELD: f"user-{next(_numbers)}"} | kwargs


class WalletFactory(DjangoModelFactory):
    """A wallet with its user: 3 green, 2 blue and 1 red wishes unless told, which are worth 1230 mana."""

    class Meta:
        model = Wallet

    user = factory.SubFactory(UserFactory)
    green = 3
    blue = 2
    red = 1


def make_wallets(balances: Sequence[tuple[int, ...]], using: str = "default") -> list[Wallet]:
    """Create a user with a wallet of (green, blue, red[, mana]) for each item, in few statements."""
    model = get_user_model()
    users = [model(**{model.USERNAME_FIELD: f"user-{next(_numbers)}"}) for _ in balances]
    model._base_manager.using(using).bulk_create(users, batch_size=1000)
    columns = ("green", "blue", "red", "mana")
    wallets = [
        Wallet(user=user, **dict(zip(columns, balance, strict=False)))
        for user, balance in zip(users, balances, strict=True)
    ]
    return list(Wallet.objects.using(using).bulk_create(wallets, batch_size=1000))
