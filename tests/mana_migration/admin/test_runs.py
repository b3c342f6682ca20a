"""The admin's lists and pages of runs, batches, events, records and fixes."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from mana_migration.domain.results import Totals
from mana_migration.models import IntegrityFix, MigrationRun, UserMigration
from mana_migration.states import EventKind, RunStatus
from tests.mana_migration.history import make_batch, make_event, make_history, make_run
from tests.mana_migration.stories import Village, make_staff

pytestmark = pytest.mark.django_db

MODELS = ("migrationrun", "migrationbatch", "runevent", "usermigration", "integrityfix")


def url(model: str, page: str = "changelist", *args: Any) -> str:
    """Return the address of an admin page."""
    return reverse(f"admin:mana_migration_{model}_{page}", args=args)


@pytest.fixture
def village() -> Village:
    """Return a village with rows in every table."""
    village = Village()
    user = village.failed("dora")
    make_event(village.run, EventKind.PAUSED, 5, actor="<b>olga</b>", message="lunch & tea")
    IntegrityFix.objects.create(
        check_id="negative_balance",
        user=user,
        run=village.run,
        before={"green": -5},
        after={"green": 0},
        green_change=5,
    )
    return village


def first(village: Village, model: str) -> int:
    """Return the key of a row of the model."""
    rows = {
        "migrationrun": village.run,
        "migrationbatch": village.batch,
        "runevent": village.run.events.first(),
        "usermigration": village.run.records.first(),
        "integrityfix": IntegrityFix.objects.first(),
    }
    row = rows[model]
    assert row is not None
    return int(row.pk)


@pytest.mark.parametrize("model", MODELS)
def test_everything_is_shown_and_nothing_can_be_changed(model: str, village: Village, admin_client: Client) -> None:
    key = first(village, model)
    assert admin_client.get(url(model)).status_code == 200
    assert admin_client.get(url(model, "change", key)).status_code == 200
    assert admin_client.post(url(model, "change", key), {"kind": "rollback"}).status_code == 403
    assert admin_client.get(url(model, "add")).status_code == 403
    assert admin_client.post(url(model, "add"), {}).status_code == 403
    assert admin_client.get(url(model, "delete", key)).status_code == 403
    assert admin_client.post(url(model, "delete", key), {"post": "yes"}).status_code == 403
    delete = {"action": "delete_selected", "_selected_action": [key], "post": "yes"}
    admin_client.post(url(model), delete)
    assert first(village, model) == key


@pytest.mark.parametrize("model", MODELS)
def test_each_list_wants_its_own_permission(model: str, village: Village, client: Client) -> None:
    client.force_login(make_staff("reader", f"view_{model}"))
    for other in MODELS:
        assert client.get(url(other)).status_code == (200 if other == model else 403)


def test_the_list_of_runs_costs_the_same_for_two_runs_and_for_twenty(
    admin_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(2):
        make_history()
    with django_assert_num_queries(7):  # session, account, count, page, unfolded batches, days of the hierarchy
        admin_client.get(url("migrationrun"))
    for _ in range(18):
        make_batch(make_run(), Totals(selected=7, migrated=7, mana=70))
    with django_assert_num_queries(7):
        page = admin_client.get(url("migrationrun")).content.decode()
    assert page.count('<td class="field-migrated"><span class="mm-num">7</span></td>') == 18


@pytest.mark.parametrize("model", ["usermigration", "integrityfix", "runevent", "migrationbatch"])
def test_the_other_lists_cost_the_same_whatever_their_size(
    model: str, village: Village, admin_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        user = village.skipped(f"user-{number}")
        IntegrityFix.objects.create(check_id="negative_balance", user=user, before={}, after={})
        make_event(village.run, EventKind.THROTTLED, number)
        make_batch(village.run, Totals())
    with django_assert_max_num_queries(6):
        admin_client.get(url(model))


def test_runs_of_single_users_are_left_out_until_they_are_asked_for(admin_client: Client) -> None:
    mass, single = make_run(actor="olga"), make_run(options={"users": ["7"]}, actor="root")
    for query, shown in (({}, {mass}), ({"users": "selected"}, {single}), ({"users": "all"}, {mass, single}),
                         ({"users": "all", "q": "Root"}, {single}), ({"q": str(mass.pk)}, {mass})):  # fmt: skip
        page = admin_client.get(url("migrationrun"), query)
        assert set(page.context["cl"].result_list) == shown, query


def test_records_are_filtered_by_run_batch_and_error(village: Village, admin_client: Client) -> None:
    village.migrated("yara")
    village.batch.selected, village.batch.failed, village.batch.migrated = 2, 1, 1
    village.batch.errors = {"negative_balance": 1}
    village.batch.save()
    record = village.run.records.get(status="failed")
    for query, count in (
        ({"error_class": "negative_balance"}, 1),
        ({"status__exact": "migrated"}, 1),
        ({"batch__id__exact": record.batch_id}, 2),
        ({"q": f"run:{record.run_id}"}, 2),
        ({"q": "run:4711"}, 0),
        ({"q": f"record:{record.pk}"}, 1),
    ):
        assert len(admin_client.get(url("usermigration"), query).context["cl"].result_list) == count, query
    page = admin_client.get(url("usermigration")).content.decode()
    assert f'href="{url("migrationrun")}{record.run_id}/change/">{record.run_id}</a>' in page
    assert '<span class="mm-ago">' in page


def test_a_runs_page_shows_figures_options_and_events(village: Village, admin_client: Client) -> None:
    run = make_run(status=RunStatus.STOPPED, stop_reason="too slow", options={"limit": 100, "users": []})
    totals = Totals(selected=3, migrated=2, failed=1, green=4, blue=5, red=6, mana=6540)
    totals.errors["negative_balance"] = 1
    make_batch(run, totals)
    make_event(run, EventKind.STOPPED, 9, actor="<b>olga</b>", message="too slow")
    page = admin_client.get(url("migrationrun", "change", run.pk)).content.decode()
    assert "3 handled: 2 migrated, 0 rolled back, 0 skipped, 1 failed" in page
    assert "4 green, 5 blue, 6 red" in page
    assert "6,540" in page
    assert "negative_balance: 1" in page
    assert "limit: 100" in page
    assert "<bdi>&lt;b&gt;olga&lt;/b&gt;</bdi> too slow" in page
    for model in ("usermigration", "migrationbatch", "runevent", "integrityfix"):
        assert admin_client.get(url(model), {"run__id__exact": run.pk}).status_code == 200


def test_the_links_of_a_run_lead_to_its_own_rows(village: Village, admin_client: Client) -> None:
    other = make_history()
    page = admin_client.get(url("usermigration"), {"run__id__exact": village.run.pk}).content.decode()
    assert "dora" in page
    assert f">{other.records[0].pk}</a>" not in page


def test_a_record_is_found_by_its_id(village: Village, admin_client: Client) -> None:
    make_history()
    record = UserMigration.objects.get(user__username="dora")
    page = admin_client.get(url("usermigration"), {"q": f"record:{record.pk}"}).content.decode()
    assert "dora" in page
    assert "1 user migration" in page
    assert "0 user migrations" in admin_client.get(url("usermigration"), {"q": "record:x"}).content.decode()


def test_records_are_found_by_the_users_name(village: Village, admin_client: Client) -> None:
    make_history()
    assert "1 user migration" in admin_client.get(url("usermigration"), {"q": "dora"}).content.decode()
    assert "0 user migrations" in admin_client.get(url("usermigration"), {"q": "dor"}).content.decode()


def test_the_index_lists_the_users_with_their_status(admin_client: Client) -> None:
    page = admin_client.get(reverse("admin:index")).content.decode()
    assert "Users with migration status" in page
    assert MigrationRun.objects.count() == 0
