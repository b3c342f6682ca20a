"""Users are deleted while they have nothing to lose; a history of wishes or mana keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db.models import ProtectedError
from django.test import Client
from django.urls import reverse

from tests.factories import UserFactory, WalletFactory
from tests.mana_migration.running import migrate
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

Users = get_user_model()


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(Users.objects.create_superuser("root"))
    return client


def blank() -> Any:
    return WalletFactory(green=0, blue=0, red=0).user


def with_history(kind: str) -> Any:
    """Create a user whose wallet must be kept."""
    if kind == "spent":
        user = UserFactory()
        services.earn_mana(user, 5, reference=f"gift:{user.pk}")
        services.spend_mana(user, 5, reference=f"order:{user.pk}")
        return user
    user = WalletFactory(green=-1 if kind == "debt" else 3, blue=0, red=0).user
    if kind == "migrated":
        migrate()
    return user


HISTORIES = ("wishes", "debt", "migrated", "spent")


def test_a_wallet_that_never_held_anything_goes_with_its_user() -> None:
    user = blank()
    user.delete()
    assert not Users.objects.filter(pk=user.pk).exists()
    assert not Wallet.objects.exists()


@pytest.mark.parametrize("kind", HISTORIES)
def test_a_history_keeps_its_user(kind: str) -> None:
    user = with_history(kind)
    with pytest.raises(ProtectedError):
        user.delete()
    assert Wallet.objects.filter(user=user).exists()


def test_a_prune_of_many_users_deletes_them_in_few_queries_or_none_of_them(django_assert_max_num_queries: Any) -> None:
    chosen = [blank().pk for _ in range(30)]
    kept = with_history("wishes")
    with pytest.raises(ProtectedError, match="deactivate the user instead"):
        Users.objects.filter(pk__in=[*chosen, kept.pk]).delete()
    assert Users.objects.filter(pk__in=chosen).count() == 30
    with django_assert_max_num_queries(30):
        Users.objects.filter(pk__in=chosen).delete()
    assert list(Wallet.objects.values_list("pk", flat=True)) == [kept.pk]


def test_the_admin_deletes_such_a_user_and_not_the_wallet_alone(staff: Client) -> None:
    user = blank()
    assert staff.get(reverse("admin:wishes_wallet_delete", args=[user.pk])).status_code == 403
    address = reverse("admin:auth_user_delete", args=[user.pk])
    assert "wallet of user" in staff.get(address).content.decode()
    assert staff.post(address, {"post": "yes"}).status_code == 302
    assert not Users.objects.filter(pk=user.pk).exists()


@pytest.mark.parametrize("kind", ["wishes", "migrated"])
def test_the_admins_page_says_why_a_user_is_kept_and_what_to_do(staff: Client, kind: str) -> None:
    user = with_history(kind)
    page = staff.get(reverse("admin:auth_user_delete", args=[user.pk])).content.decode()
    assert "it has a history: deactivate the user instead" in page
    assert 'name="post"' not in page  # no button
    chosen = {"action": "delete_selected", "_selected_action": [user.pk]}
    page = staff.post(reverse("admin:auth_user_changelist"), chosen).content.decode()
    assert "it has a history: deactivate the user instead" in page
