"""What the pages to read show."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from mana_migration.domain.results import Totals
from mana_migration.models import MigrationRun, RunEvent
from mana_migration.states import EventKind, RunStatus
from tests.mana_migration.history import NOON, done, make_batch, make_event, make_history, make_run
from tests.mana_migration.stories import HOSTILE_NAMES, Village, read_file, url

pytestmark = pytest.mark.django_db

SignIn = Callable[..., Client]


def text_of(page: str) -> str:
    """Return what a reader of the page sees, on one line."""
    body = re.sub(r"<script.*?</script>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("&nbsp;", " ").replace("&#x27;", "'")


def test_the_overview_of_an_empty_database_says_what_to_do_first(sign_in: SignIn) -> None:
    page = text_of(sign_in().get(url("overview")).content.decode())
    assert "No run yet" in page
    assert "python manage.py migrate_users --dry-run" in page


def test_the_overview_lists_the_runs_with_their_figures(sign_in: SignIn) -> None:
    history = make_history()
    page = text_of(sign_in().get(url("overview")).content.decode())
    assert f"Migration {history.run.pk}" in page
    assert f"{history.totals.migrated:,}" in page
    assert f"{history.totals.mana:,}" in page


def test_the_overview_costs_the_same_for_two_runs_and_for_twenty(
    sign_in: SignIn,
) -> None:
    client = sign_in()
    make_history(12)
    queries = _count(client, url("overview"))
    for _ in range(18):
        make_batch(make_run(), Totals(selected=7, migrated=7, mana=70))
    assert _count(client, url("overview")) == queries


def _count(client: Client, address: str) -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as context:
        client.get(address)
    # without what names the session and makes the transaction read-only
    return sum(" FROM " in query["sql"] for query in context.captured_queries)


def test_the_overview_is_divided_into_pages(sign_in: SignIn) -> None:
    for _ in range(30):
        make_run()
    client = sign_in()
    first = client.get(url("overview")).content.decode()
    before = re.search(r'href="\?(before=\d+)">Earlier runs', first)
    assert before
    second = client.get(f"{url('overview')}?{before[1]}").content.decode()
    listed = [re.findall(r">Migration (\d+)</a>", page) for page in (first, second)]
    assert [len(page) for page in listed] == [25, 5]
    assert len({*listed[0], *listed[1]}) == 30
    assert "Earlier runs" not in second
    assert client.get(url("overview"), {"before": "x"}).status_code == 200


def test_runs_of_single_users_share_a_row(sign_in: SignIn) -> None:
    make_run()
    for _ in range(40):
        make_run(kind="rollback", options={"users": ["7"]})
    last = make_run()
    page = text_of(sign_in().get(url("overview")).content.decode())
    assert "40 runs for single users" in page
    assert f"Migration {last.pk}" in page
    assert "Earlier runs" not in page


FILTERS = {
    "kind": ({"kind": "rollback"}, {"kind": "migration"}, {"kind": "rollback"}),
    "status": ({"status": "stopped"}, {"status": "completed"}, {"status": "stopped"}),
    "since": ({"created_at": NOON}, {"created_at": NOON - timedelta(days=2)}, {"since": "2026-11-23"}),
    "actor": ({"actor": "olga"}, {"actor": "root"}, {"actor": "Olga"}),
}


@pytest.mark.parametrize("name", FILTERS)
def test_runs_are_filtered(name: str, sign_in: SignIn) -> None:
    wanted, other, query = FILTERS[name]
    kept, left_out = make_run(**wanted), make_run(**other)
    client = sign_in()
    page = client.get(url("overview"), query).content.decode()
    assert url("run", kept.pk) in page
    assert url("run", left_out.pk) not in page
    assert client.get(url("overview"), {name: "no such \0"}).status_code == 200


def test_every_page_says_how_far_all_users_are_with_links_to_them(village: Village, sign_in: SignIn) -> None:
    for number, story in enumerate(("migrated", "migrated", "pending", "failed", "skipped", "rolled_back")):
        getattr(village, story)(f"user-{number}")
    village.batch.selected = village.batch.migrated = 3
    village.batch.save()
    village.rollback_batch.selected = village.rollback_batch.rolled_back = 1
    village.rollback_batch.save()
    reader, other = sign_in("view_usermigration", name="reader"), sign_in(name="other")
    for page in (url("overview"), url("run", village.run.pk), url("users")):
        words = text_of(reader.get(page).content.decode())
        assert "33.3 % 2 of 6 migrated 1 pending 1 failed 1 skipped 1 rolled back" in words
        assert "?standing=failed" in reader.get(page).content.decode()
        assert "?standing=" not in other.get(page).content.decode()


def test_a_closed_run_says_what_applies_now(village: Village, sign_in: SignIn) -> None:
    village.migrated("anna")
    village.rolled_back("dora")
    village.batch.selected = village.batch.migrated = 2
    village.batch.save()
    page = text_of(sign_in().get(url("run", village.run.pk)).content.decode())
    assert "1 user is still migrated by this run." in page
    assert f"1 user was rolled back by run {village.rollback.pk}" in page


def test_from_an_error_to_its_users(village: Village, sign_in: SignIn) -> None:
    user = village.failed("dora")
    village.batch.selected = village.batch.failed = 1
    village.batch.errors = {"negative_balance": 1}
    village.batch.save()
    client = sign_in("start_run")
    page = client.get(url("run", village.run.pk)).content.decode()
    words = text_of(page)
    assert "negative_balance 1 is negative" in words
    link = re.search(r'href="([^"]+)">Show users', page)
    retry = re.search(r'href="([^"]+)">Retry these', page)
    assert link
    assert retry
    listed = client.get(link[1].replace("&amp;", "&")).content.decode()
    assert url("user", user.pk) in listed
    assert "Retry these" not in sign_in(name="reader").get(url("run", village.run.pk)).content.decode()


def test_a_run_that_no_process_has_begun_is_queued(sign_in: SignIn) -> None:
    client = sign_in()
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now())
    assert "Queued" in client.get(url("run", run.pk)).content.decode()
    make_batch(run, Totals(selected=1, migrated=1))
    assert "Queued" not in client.get(url("run", run.pk)).content.decode()


def test_a_paused_run_has_no_speed(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.PAUSED, created_at=timezone.now(), expected=10)
    now = timezone.now()
    make_batch(run, Totals(selected=5, migrated=5), started_at=now, finished_at=now)
    assert "Speed 0 users a minute now" in text_of(sign_in().get(url("run", run.pk)).content.decode())


#: Each page, at 200,000 users as at two: no more queries than these.
MOST_QUERIES = 10


def test_no_page_needs_many_queries(village: Village, sign_in: SignIn) -> None:
    user = village.migrated("anna", spent=10)
    village.failed("dora")
    village.rolled_back("emil")
    village.batch.selected = village.batch.failed = 1
    village.batch.errors = {"negative_balance": 1}
    village.batch.save()
    client = sign_in("start_run", "rollback_run", "view_usermigration")
    run = village.run.pk
    pages = {"overview": [], "run": [run], "run_fragment": [run], "run_users": [run], "users": [], "user": [user.pk]}
    open_run = make_run(status=RunStatus.RUNNING, created_at=timezone.now(), expected=200_000)
    make_batch(open_run, Totals(selected=1, failed=1, errors={"x": 1}))
    found = {name: _count(client, url(name, *args)) for name, args in pages.items()}
    found["open run"] = _count(client, url("run", open_run.pk))
    assert {name: count for name, count in found.items() if count > MOST_QUERIES} == {}


def test_a_runs_page_costs_the_same_for_ten_users_and_for_a_thousand(
    sign_in: SignIn,
) -> None:
    client = sign_in()
    small, large = make_run(), make_run()
    make_batch(small, Totals(selected=10, migrated=10))
    for number in range(50):
        make_batch(large, Totals(selected=20, migrated=20), start=number)
    queries = _count(client, url("run", small.pk))
    assert _count(client, url("run", large.pk)) == queries


def test_a_runs_page_says_everything_that_the_watch_says(sign_in: SignIn) -> None:
    history = make_history()
    make_event(history.run, EventKind.PAUSED, 5, actor="olga", message="the backup runs")
    page = text_of(sign_in().get(url("run", history.run.pk)).content.decode())
    for words in ("Started", "Speed", "Took", "Errors", "Settings", "batch size 50"):
        assert words in page
    assert "negative_balance" in page
    assert "by olga : the backup runs" in page
    assert "Users handled over time" in page
    assert "Mana by colour of wish" in page


def test_a_run_at_work_says_what_its_batches_prove(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now())
    make_batch(run, done(50, green=4, mana=40))
    client = sign_in()
    assert "1 batch verified, value conserved." in text_of(client.get(url("run_fragment", run.pk)).content.decode())
    wrong = make_batch(run, done(50, green=4, mana=41))
    page = text_of(client.get(url("run_fragment", run.pk)).content.decode())
    assert f"1 of 2 batches verified; batch {wrong.pk} moved other mana than its wishes are worth." in page


def test_a_closed_run_is_not_polled_and_needs_no_script(sign_in: SignIn) -> None:
    page = sign_in().get(url("run", make_history().run.pk)).content.decode()
    assert "hx-get" not in page
    assert "htmx" not in page
    assert "http-equiv" not in page


def test_an_open_run_is_polled_and_reloads_without_scripts(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now())
    page = sign_in().get(url("run", run.pk)).content.decode()
    assert f'hx-get="{url("run_fragment", run.pk)}?status=running"' in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert '"includeIndicatorStyles": false' in page


def test_the_fragment_is_the_changing_part_alone(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now())
    page = sign_in().get(url("run_fragment", run.pk), {"status": "running"}).content.decode()
    assert "<html" not in page
    assert "Details" in page


def test_a_change_of_status_makes_the_page_reload_with_its_buttons(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.PAUSED, created_at=timezone.now())
    response = sign_in().get(url("run_fragment", run.pk), {"status": "running"})
    assert (response.headers.get("HX-Refresh"), response.content) == ("true", b"")


def test_the_page_says_how_to_start_a_worker_where_nobody_works(sign_in: SignIn) -> None:
    client = sign_in()
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now() - timedelta(seconds=30))
    for page in (url("run", run.pk), url("overview")):
        assert "python manage.py work_migration" in client.get(page).content.decode()
    now = timezone.now()
    make_batch(run, Totals(selected=1, migrated=1), finished_at=now, started_at=now)
    for page in (url("run", run.pk), url("overview")):
        assert "No worker process seems to be working" not in client.get(page).content.decode()


def test_a_run_that_has_just_said_what_it_waits_for_is_not_said_to_lack_a_worker(sign_in: SignIn) -> None:
    client = sign_in()
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now() - timedelta(seconds=30))
    sentence, begun = "waiting for a wallet that another session holds", timezone.now() - timedelta(seconds=20)
    RunEvent.objects.create(
        run=run, kind=EventKind.THROTTLED, message=sentence, details={"wait": "wallets"}, created_at=begun
    )
    for page in (url("run", run.pk), url("overview")):
        assert "No worker process seems to be working" not in client.get(page).content.decode()
    assert "Waiting for a wallet that another session holds." in client.get(url("run", run.pk)).content.decode()
    long_ago = timezone.now() - timedelta(hours=1)
    MigrationRun.objects.update(status=RunStatus.COMPLETED)
    run = make_run(status=RunStatus.RUNNING, created_at=long_ago)
    RunEvent.objects.create(
        run=run, kind=EventKind.THROTTLED, message=sentence, details={"wait": "wallets"}, created_at=long_ago
    )
    assert "No worker process seems to be working" in client.get(url("run", run.pk)).content.decode()


def test_a_paused_run_is_not_said_to_lack_a_worker(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.PAUSED, created_at=timezone.now() - timedelta(hours=1))
    assert "No worker process seems to be working" not in sign_in().get(url("run", run.pk)).content.decode()


BUTTONS = {"pause_run": "Pause…", "resume_run": "Resume…", "stop_run": "Stop…", "rollback_run": "Roll back…"}
OFFERED = {
    RunStatus.RUNNING: {"pause_run", "stop_run", "rollback_run"},
    RunStatus.PAUSED: {"resume_run", "stop_run", "rollback_run"},
    RunStatus.CHECKING: {"stop_run", "rollback_run"},
    RunStatus.COMPLETED: {"rollback_run"},
    RunStatus.FAILED: {"rollback_run"},
    RunStatus.STOPPED: {"rollback_run"},
    RunStatus.ROLLING_BACK: set(),
    RunStatus.ROLLED_BACK: set(),
}


@pytest.mark.parametrize("status", RunStatus)
def test_only_what_the_status_and_the_permissions_allow_is_offered(status: RunStatus, sign_in: SignIn) -> None:
    run = make_run(status=status)
    make_batch(run, Totals(selected=1, migrated=1))
    everything = sign_in(*BUTTONS, name="boss").get(url("run", run.pk)).content.decode()
    assert {name for name, label in BUTTONS.items() if f">{label}<" in everything} == OFFERED[status]
    nothing = sign_in(name="reader").get(url("run", run.pk)).content.decode()
    assert not any(f">{label}<" in nothing for label in BUTTONS.values())


def test_the_search_finds_by_key_name_and_record(village: Village, sign_in: SignIn) -> None:
    client = sign_in()
    user = village.failed("dora")
    record = village.run.records.get()
    for text in (f"pk:{user.pk}", "dora", "username:dora", f"record:{record.pk}", " dora "):
        response = client.post(url("users"), {"user": text})
        assert (response.status_code, response.headers.get("Location")) == (302, url("user", user.pk)), text


def test_the_search_asks_where_two_users_fit(village: Village, sign_in: SignIn) -> None:
    client = sign_in()
    first = village.pending("anna")
    second = village.failed(str(first.pk))
    page = client.post(url("users"), {"user": str(first.pk)}).content.decode()
    assert url("user", first.pk) in page
    assert url("user", second.pk) in page
    words = text_of(page)
    assert f"User {first.pk} primary key Pending" in words
    assert f"User {second.pk} username Failed" in words


@pytest.mark.parametrize("text", ["1000", "order-1000", "shop:order-1000", "reference:1000"])
def test_the_search_finds_the_user_of_an_order(text: str, village: Village, sign_in: SignIn) -> None:
    from wishes.services import spend_mana

    user, other = village.migrated("anna"), village.migrated("dora")
    spend_mana(user.pk, amount=10, reference="shop:order-1000")
    spend_mana(other.pk, amount=10, reference="shop:order-10001")
    response = sign_in().post(url("users"), {"user": text})
    assert (response.status_code, response.headers.get("Location")) == (302, url("user", user.pk))


def test_the_timeline_has_everything_in_order_and_nothing_twice(village: Village, sign_in: SignIn) -> None:
    user = village.migrated("anna", spent=1000)
    page = sign_in().get(url("user", user.pk)).content.decode()
    timeline = text_of(page[page.index('class="mm-timeline"') : page.index('id="summary"')])
    assert timeline.index("Spent -1,000 mana") < timeline.index("Converted Migration")
    assert timeline.count(f"conversion:{village.run.pk}:{user.pk}") == 1
    assert "230 mana afterwards" in timeline
    summary = page[page.index('id="summary"') :]
    assert f"converted by run {village.run.pk}: 1,230 mana" in summary


@pytest.mark.parametrize("text", ["nobody", "pk:x", "record:", "\0", "9" * 40, "<script>", "record:" + "9" * 40])
def test_the_search_says_that_nobody_fits(text: str, sign_in: SignIn) -> None:
    response = sign_in().post(url("users"), {"user": text})
    assert response.status_code == 404
    assert "No user has this" in response.content.decode()
    assert "<script>" not in response.content.decode().replace('<script src="', "")


def test_no_name_is_in_the_address_of_a_search(village: Village, sign_in: SignIn) -> None:
    village.pending("dora")
    response = sign_in().post(url("users"), {"user": "dora"})
    assert "dora" not in response.headers["Location"]


@pytest.mark.parametrize("story", ["pending", "migrated", "failed", "skipped", "rolled_back", "no_wallet", "kept"])
@pytest.mark.parametrize("name", HOSTILE_NAMES[:2])
def test_the_explanation_of_a_user_never_shows_the_name(
    story: str, name: str, village: Village, sign_in: SignIn
) -> None:
    user = getattr(village, story)(name)
    page = sign_in().get(url("user", user.pk)).content.decode()
    assert "alert(1)" not in page
    assert "HYPERLINK" not in page


EXPLAINED = {
    "pending": ("What a conversion would credit", "3 green x 10 + 2 blue x 100 + 1 red x 1,000 = 1,230 mana"),
    "migrated": ("0 mana before + 1,230 credited = 1,230 mana after the conversion", "Mana 0 → 1,230"),
    "failed": ("Failed Migration", "negative_balance : is negative", "Nothing was changed"),
    "skipped": ("Skipped Migration", "overflow : too much"),
    "rolled_back": ("Rolled back Rollback", "-1,230 mana", "+1,230 mana", "3 green, 2 blue and 1 red wishes restored"),
    "no_wallet": ("This user has no wallet",),
    "kept": ("Not rolled back Rollback", "shortfall :", "1,000 mana of the conversion was spent already"),
}


@pytest.mark.parametrize("story", EXPLAINED)
def test_the_explanation_says_why(story: str, village: Village, sign_in: SignIn) -> None:
    user = getattr(village, story)("anna")
    page = text_of(sign_in().get(url("user", user.pk)).content.decode()).replace("\N{MULTIPLICATION SIGN}", "x")
    for words in EXPLAINED[story]:
        assert words in page


def test_the_link_to_the_admin_wants_its_permission(village: Village, sign_in: SignIn) -> None:
    user = village.migrated("anna")
    assert "in the admin" not in sign_in(name="one").get(url("user", user.pk)).content.decode()
    assert "in the admin" in sign_in("view_usermigration", name="two").get(url("user", user.pk)).content.decode()


def test_a_ledger_that_disagrees_with_the_wallet_is_pointed_out(village: Village, sign_in: SignIn) -> None:
    from wishes.models import Wallet

    user = village.migrated("anna")
    Wallet.objects.filter(pk=user.pk).update(mana=7)
    assert "does not agree with the ledger" in sign_in().get(url("user", user.pk)).content.decode()


def test_no_page_shows_a_users_name(village: Village, sign_in: SignIn) -> None:
    for number in range(3):
        village.migrated(f"canary-{number}")
    client = sign_in("export_report")
    pages = [url("overview"), url("run", village.run.pk), url("report", village.run.pk)]
    pages += [url("download", village.run.pk, kind) for kind in ("json", "csv", "html", "summary.csv")]
    for page in pages:
        response = client.get(page)
        assert response.status_code == 200
        assert b"canary" not in read_file(response)
    assert get_user_model().objects.filter(username__startswith="canary").count() == 3


def test_the_page_of_another_database_keeps_to_it(sign_in: SignIn) -> None:
    page = sign_in().get(url("overview"), {"database": "default"}).content.decode()
    assert "This page is about the database" not in page
