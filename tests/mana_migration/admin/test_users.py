"""The admin's list of users with their migration status, and one user's page."""

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape
from pytest_django import DjangoAssertNumQueries

from mana_migration.models import IntegrityFix
from mana_migration.selectors import user_list
from mana_migration.selectors.user_list import Standing, standings, with_standing
from mana_migration.services import autofix
from mana_migration.states import UserStatus
from tests.mana_migration.history import make_run
from tests.mana_migration.stories import HOSTILE_NAMES, Village, make_staff
from wishes.admin import BoundedPaginator, ReadOnlyAdmin
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db

LIST = "admin:mana_migration_migratinguser_changelist"
ALL = [str(standing) for standing in Standing]


@pytest.fixture
def village() -> Village:
    """Return a village with one user of every standing."""
    village = Village()
    for standing in ALL:
        getattr(village, standing)(f"user-{standing}")
    return village


@pytest.fixture
def reader(client: Client) -> Client:
    """Return the browser of a staff account that may see records and nothing else."""
    client.force_login(make_staff("reader", "view_usermigration"))
    return client


def names(page: str) -> list[str]:
    """Return the usernames that a list shows, without the reader's."""
    return [name for name in re.findall(r"<bdi>(.*?)</bdi>", page) if name != "reader"]


def shown(reader: Client, **query: Any) -> list[str]:
    """Return the usernames that the list shows for a query."""
    response = reader.get(reverse(LIST), query)
    assert response.status_code == 200
    return names(response.content.decode())


def test_the_list_shows_every_standing(village: Village, reader: Client) -> None:
    page = reader.get(reverse(LIST)).content.decode()
    assert set(names(page)) == {f"user-{standing}" for standing in ALL}
    for standing in Standing:
        assert f'<span class="mm-status mm-status-{standing}">{standing.label}</span>' in page
    assert "negative_balance" in page


def test_lists_and_pages_say_that_a_problem_was_corrected_since(village: Village, reader: Client) -> None:
    reader.force_login(make_staff("both", "view_usermigration", "view_migrationrun"))
    cured, other = village.failed("user-cured"), village.failed("user-other")
    autofix.fix_all(actor="olga", users=[str(cured.pk)])
    fix = IntegrityFix.objects.get().pk
    for page, args in (
        (LIST, ()),
        ("admin:mana_migration_usermigration_changelist", ()),
        ("mana_migration:run_users", (village.run.pk,)),
        ("mana_migration:user", (cured.pk,)),
    ):
        said = reader.get(reverse(page, args=args)).content.decode().lower()
        assert said.count(f"corrected since by fix {fix}") == (2 if page.endswith(":user") else 1), page
    assert "corrected since" not in reader.get(reverse("mana_migration:user", args=[other.pk])).content.decode().lower()
    IntegrityFix.objects.create(check_id="negative_balance", user=cured, before={}, after={}, undoes_id=fix)
    assert "corrected since" not in reader.get(reverse(LIST)).content.decode()


@pytest.mark.parametrize("standing", ALL)
def test_a_filter_keeps_exactly_one_standing(standing: str, village: Village, reader: Client) -> None:
    expected = {f"user-{standing}"} if standing != Standing.NO_WALLET else {"user-no_wallet"}
    assert set(shown(reader, standing=standing)) == expected


def test_the_filters_and_the_column_agree(village: Village) -> None:
    village.kept("user-kept")
    users = list(get_user_model().objects.values_list("pk", flat=True))
    found = {key: one.standing for key, one in standings(users, using="default").items()}
    for standing in Standing:
        kept = set(with_standing(get_user_model().objects.all(), standing).values_list("pk", flat=True))
        assert kept == {key for key, value in found.items() if value == standing}


def test_a_user_whom_a_rollback_left_alone_is_still_migrated(village: Village, reader: Client) -> None:
    village.kept("user-kept")
    assert "user-kept" in shown(reader, standing="migrated")
    assert "user-kept" not in shown(reader, standing="skipped")


def test_a_user_migrated_after_a_failure_is_no_longer_failed(village: Village, reader: Client) -> None:
    user = village.failed("user-second-try")
    village.run = make_run()
    village.record(user, UserStatus.MIGRATED)
    Wallet.objects.filter(pk=user.pk).update(green=0, migrated_at=timezone.now())
    assert "user-second-try" not in shown(reader, standing="failed")
    assert "user-second-try" in shown(reader, standing="migrated")


def test_a_search_finds_by_the_beginning_of_the_name(village: Village, reader: Client) -> None:
    assert set(shown(reader, q="user-p")) == {"user-pending"}
    assert shown(reader, q="pending") == []


def test_a_search_finds_by_key(village: Village, reader: Client) -> None:
    user = get_user_model().objects.get(username="user-failed")
    assert "user-failed" in shown(reader, q=str(user.pk))


def test_a_search_finds_by_record(village: Village, reader: Client) -> None:
    record = village.run.records.get(user__username="user-skipped")
    assert shown(reader, q=f"record:{record.pk}") == ["user-skipped"]
    assert shown(reader, q="record:nonsense") == []


@pytest.mark.parametrize("term", ["9" * 30, "-1", "%", "_", "\\", "'", "record:" + "9" * 30, "\u202e", "é" * 200])
def test_a_strange_search_finds_nobody(term: str, village: Village, reader: Client) -> None:
    assert shown(reader, q=term) == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_text(name: str, reader: Client) -> None:
    user = Village().migrated(name)
    for url in (
        reverse(LIST),
        reverse("admin:mana_migration_migratinguser_change", args=[user.pk]),
        reverse("admin:mana_migration_usermigration_changelist"),
    ):
        page = reader.get(url).content.decode()
        assert f"<bdi>{escape(name)}</bdi>" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page


def test_the_list_costs_the_same_for_five_users_and_for_fifty(
    reader: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    village = Village()
    for number in range(50):
        village.migrated(f"user-{number}")
    with django_assert_num_queries(8):  # session, account, permissions twice, count, page, wallets, records
        reader.get(reverse(LIST), {"q": "user-4"})
    with django_assert_num_queries(8):
        reader.get(reverse(LIST))


def test_the_list_never_counts_all_users(village: Village, reader: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedPaginator, "LIMIT", 3)
    monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)
    page = reader.get(reverse(LIST)).content.decode()
    assert "the first 3 users with migration status are listed" in page
    assert len(names(page)) == 2


def test_the_page_explains_the_numbers(village: Village, reader: Client) -> None:
    user = village.migrated("user-spender", spent=200)
    page = reader.get(reverse("admin:mana_migration_migratinguser_change", args=[user.pk])).content.decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page)).replace("&nbsp;", " ")
    assert "3 green x 10 + 2 blue x 100 + 1 red x 1,000 = 1,230 mana" in text.replace("\N{MULTIPLICATION SIGN}", "x")
    assert "0 mana before + 1,230 credited = 1,230 mana after the conversion" in text
    assert f"conversion:{village.run.pk}:{user.pk}" in text
    assert "-200" in text
    assert "agrees with the ledger" in text


def test_the_page_costs_the_same_for_a_long_history(
    village: Village, reader: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    user = village.migrated("user-busy")
    ManaEntry.objects.bulk_create(
        ManaEntry(user=user, amount=1, balance_after=1230 + number, kind="earn", reference=f"earn:{number}")
        for number in range(1, 300)
    )
    with django_assert_max_num_queries(13):
        page = reader.get(reverse("admin:mana_migration_migratinguser_change", args=[user.pk])).content.decode()
    assert "the latest 200 ledger entries" in page


@pytest.mark.parametrize("standing", ["pending", "no_wallet", "failed"])
def test_a_list_that_leaves_users_out_says_so(
    standing: str, village: Village, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        getattr(village, standing)(f"user-{number}")
    address = reverse("admin:mana_migration_migratinguser_changelist")
    assert "Not all users" not in admin_client.get(address, {"standing": standing}).content.decode()
    monkeypatch.setattr(user_list, "USERS_SEARCHED", 1)
    monkeypatch.setattr(user_list, "RECORDS_SEARCHED", 1)
    assert "Not all users were looked at" in admin_client.get(address, {"standing": standing}).content.decode()


def test_the_admin_leads_to_the_staff_pages(village: Village, admin_client: Client) -> None:
    user = village.migrated("anna")
    page = reverse("mana_migration:user", args=[user.pk])
    for address in (
        reverse("admin:mana_migration_migratinguser_change", args=[user.pk]),
        reverse("admin:auth_user_change", args=[user.pk]),
    ):
        assert f'href="{page}"' in admin_client.get(address).content.decode()
    assert f'href="{reverse("mana_migration:overview")}"' in admin_client.get(reverse("admin:index")).content.decode()


def test_nobody_is_added_changed_or_deleted(village: Village, admin_client: Client) -> None:
    user = get_user_model().objects.get(username="user-migrated")
    page = reverse("admin:mana_migration_migratinguser_change", args=[user.pk])
    assert admin_client.get(page).status_code == 200
    assert admin_client.post(page, {"username": "other"}).status_code == 403
    assert admin_client.get(reverse("admin:mana_migration_migratinguser_add")).status_code == 403
    assert admin_client.post(f"{page.removesuffix('change/')}delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{page.removesuffix('change/')}history/").status_code == 404
    assert admin_client.get(page.replace(str(user.pk), "999999")).status_code == 404
    assert admin_client.get(page.replace(str(user.pk), "no-key")).status_code == 404
    delete = {"action": "delete_selected", "_selected_action": [user.pk], "post": "yes"}
    admin_client.post(reverse(LIST), delete)
    assert get_user_model().objects.filter(pk=user.pk).exists()


def test_staff_without_the_permission_are_refused(village: Village, client: Client) -> None:
    user = get_user_model().objects.get(username="user-migrated")
    client.force_login(make_staff("other", "view_migrationrun"))
    assert client.get(reverse(LIST)).status_code == 403
    assert client.get(reverse("admin:mana_migration_migratinguser_change", args=[user.pk])).status_code == 403


def test_the_sites_own_admin_cannot_delete_a_user_with_a_wallet(village: Village, admin_client: Client) -> None:
    user = get_user_model().objects.get(username="user-migrated")
    url = reverse("admin:auth_user_delete", args=[user.pk])
    assert "Cannot delete user" in admin_client.get(url).content.decode()
    admin_client.post(url, {"post": "yes"})
    assert get_user_model().objects.filter(pk=user.pk).exists()
