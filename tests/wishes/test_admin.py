"""The admin of wallets and ledgers."""

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from tests.mana_migration.stories import Village
from wishes.admin import BoundedPaginator, ReadOnlyAdmin
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db

MODELS = ("wallet", "manaentry", "wishentry")


@pytest.mark.parametrize("model", MODELS)
def test_a_list_costs_the_same_whatever_its_size(
    model: str, admin_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    village = Village()
    for number in range(20):
        village.migrated(f"user-{number}", spent=5)
    with django_assert_max_num_queries(4):
        assert admin_client.get(reverse(f"admin:wishes_{model}_changelist")).status_code == 200


def test_rows_are_found_by_name_and_by_key(admin_client: Client) -> None:
    village = Village()
    user = village.migrated("anna", spent=5)
    village.migrated("annabel")
    address = reverse("admin:wishes_manaentry_changelist")
    for term in ("anna", user.pk):
        assert "2 mana entries" in admin_client.get(address, {"q": term}).content.decode()
    for term in ("ann", "9" * 30, "x"):
        assert "0 mana entries" in admin_client.get(address, {"q": term}).content.decode()


def test_entries_are_found_by_reference_and_filtered_by_kind(admin_client: Client) -> None:
    user = Village().migrated("anna", spent=5)
    address = reverse("admin:wishes_manaentry_changelist")
    for query, count in (({"q": f"shop:{user.pk}"}, 1), ({"kind__exact": "spend"}, 1), ({"kind__exact": "earn"}, 0)):
        assert len(admin_client.get(address, query).context["cl"].result_list) == count, query
    page = admin_client.get(address).content.decode()
    assert '<span class="mm-num">1,230</span>' in page
    assert '<span class="mm-ago">' in page


def test_nothing_can_be_changed(admin_client: Client) -> None:
    user = Village().migrated("anna")
    entry = ManaEntry.objects.get()
    for model, key in (("wallet", user.pk), ("manaentry", entry.pk)):
        page = reverse(f"admin:wishes_{model}_change", args=[key])
        assert admin_client.get(page).status_code == 200
        assert admin_client.post(page, {"mana": 10**6, "amount": 10**6}).status_code == 403
        assert admin_client.post(page.replace("change", "delete"), {"post": "yes"}).status_code == 403
        assert admin_client.get(reverse(f"admin:wishes_{model}_add")).status_code == 403
    assert Wallet.objects.get().mana == 1230


def test_a_page_behind_the_limit_is_not_offered(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    village = Village()
    for number in range(5):
        village.pending(f"user-{number}")
    monkeypatch.setattr(BoundedPaginator, "LIMIT", 4)
    monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)
    page = admin_client.get(reverse("admin:wishes_wallet_changelist")).content.decode()
    assert "the first 4 wallets are listed" in page
    assert page.count("<bdi>user-") == 2
    assert "?p=2" in page
    assert "?p=3" not in page
