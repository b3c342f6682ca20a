"""A run is started, watched to its end, paused, resumed and rolled back: by clicks alone."""

import subprocess
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from mana_migration.models import MigrationRun, RunEvent
from mana_migration.services import runs
from mana_migration.services.context import current_actor
from mana_migration.states import EventKind, RunKind
from tests.browser.desk import Desk
from tests.factories import make_wallets
from wishes.models import Wallet

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

EVERYTHING = ("start_run", "pause_run", "resume_run", "stop_run", "rollback_run", "rollback_user", "export_report")

OpenDesk = Callable[..., Desk]
StartWorker = Callable[[], "subprocess.Popen[bytes]"]


def confirm(page: Page, button: str, reason: str) -> None:
    """Follow the link to a confirmation, give the reason and confirm."""
    page.get_by_role("link", name=button).click()
    page.get_by_label("Reason").fill(reason)
    page.locator(".mm-buttons button").click()


def handled(page: Page) -> int:
    """Return the number of users that the live page shows as migrated."""
    return int(page.locator(".mm-cards dd").first.inner_text().replace(",", ""))


def pace(run: int, *, delay: float, batch_size: int) -> None:
    """Set how fast a run goes, so that it can be watched."""
    runs.change_controls(run, {"delay": delay, "batch_size": batch_size}, actor=current_actor())


def test_a_whole_life_of_a_run(desk: OpenDesk, worker: StartWorker) -> None:
    make_wallets([(3, 2, 1)] * 600)
    sam = desk(*EVERYTHING, by_form=True)
    page = sam.page

    page.get_by_role("link", name="Start a migration").click()
    expect(page.get_by_text("of 600 users")).to_be_visible()
    page.get_by_label("Reason").fill("the big day")
    page.get_by_role("button", name="Start the migration").click()
    expect(page.get_by_text("a worker process takes it up")).to_be_visible()
    run = MigrationRun.objects.get()
    assert (run.actor, run.reason) == ("sam", "the big day")
    pace(run.pk, delay=0.3, batch_size=5)

    worker()
    page.evaluate("window.stayed = true")  # gone as soon as the page is loaded anew
    expect(page.locator(".mm-cards dd").first).not_to_have_text("0", timeout=60_000)
    seen = handled(page)
    expect(page.locator(".mm-cards dd").first).not_to_have_text(f"{seen:,}")
    assert handled(page) > seen
    assert page.evaluate("window.stayed") is True

    confirm(page, "Pause", "the backup runs")
    expect(page.get_by_text(f"Run {run.pk} is paused.")).to_be_visible()
    expect(page.get_by_text("paused by sam because the backup runs", exact=False).first).to_be_visible()
    batches = run.batches.filter(status="done")
    page.wait_for_function("document.querySelector('#live').textContent.includes('paused')")
    done = batches.count()
    page.reload()
    assert batches.count() <= done + 1  # the batch in hand is finished, no other is begun

    confirm(page, "Resume", "the backup is done")
    expect(page.get_by_text(f"Run {run.pk} is running again.")).to_be_visible()
    pace(run.pk, delay=0, batch_size=200)
    expect(page.locator(".mm-headline").get_by_text("Completed")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("All integrity checks passed").first).to_be_visible()
    assert handled(page) == 600
    assert Wallet.objects.filter(migrated_at__isnull=True).count() == 0

    confirm(page, "Roll back", "wrong rates")
    expect(page.get_by_text("is open; a worker process takes it up")).to_be_visible()
    expect(page.locator(".mm-headline").get_by_text("Completed")).to_be_visible(timeout=60_000)
    back = MigrationRun.objects.get(kind=RunKind.ROLLBACK)
    assert (back.actor, back.reason) == ("sam", "wrong rates")
    page.get_by_role("link", name=f"Run {run.pk}", exact=True).click()
    expect(page.locator(".mm-headline").get_by_text("Rolled back")).to_be_visible()
    assert Wallet.objects.filter(green=3, blue=2, red=1, mana=0, migrated_at__isnull=True).count() == 600
    assert list(
        RunEvent.objects.filter(run=run, kind__in=[EventKind.PAUSED, EventKind.RESUMED]).values_list("actor", "message")
    ) == [("sam", "the backup runs"), ("sam", "the backup is done")]


def test_a_stopped_run_keeps_what_it_did(desk: OpenDesk, worker: StartWorker) -> None:
    make_wallets([(3, 2, 1)] * 200)
    page = desk(*EVERYTHING).page
    page.get_by_role("link", name="Start a migration").click()
    page.get_by_label("At most this many users").fill("150")
    page.get_by_role("button", name="Update the preview").click()
    expect(page.get_by_text("of 150 users")).to_be_visible()
    page.get_by_label("Reason").fill("a first part")
    page.get_by_role("button", name="Start the migration").click()
    expect(page.get_by_text("a worker process takes it up")).to_be_visible()
    run = MigrationRun.objects.get()
    pace(run.pk, delay=0.3, batch_size=5)
    worker()
    expect(page.locator(".mm-cards dd").first).not_to_have_text("0", timeout=60_000)
    confirm(page, "Stop", "enough for today")
    expect(page.locator(".mm-headline").get_by_text("Stopped")).to_be_visible()
    expect(page.get_by_text("enough for today").first).to_be_visible()
    assert 0 < handled(page) < 150


def test_a_user_is_found_explained_and_rolled_back(desk: OpenDesk, worker: StartWorker) -> None:
    wallets = make_wallets([(3, 2, 1)] * 3)
    page = desk(*EVERYTHING).page
    confirm(page, "Start a migration", "go")
    worker()
    expect(page.locator(".mm-headline").get_by_text("Completed")).to_be_visible(timeout=60_000)
    page.locator(".breadcrumbs").get_by_role("link", name="Mana migration").click()
    page.get_by_label("Find a user").fill(wallets[0].user.get_username())
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("heading", name=f"User {wallets[0].pk}")).to_be_visible()
    expect(page.get_by_text("1,230 mana after the conversion")).to_be_visible()
    assert wallets[0].user.get_username() not in page.url
    confirm(page, "Roll back this user", "asked for it")
    expect(page.get_by_text(f"User {wallets[0].pk} is rolled back")).to_be_visible()
    expect(page.get_by_text("What a conversion would credit")).to_be_visible()


def test_a_report_is_read_and_downloaded(desk: OpenDesk, worker: StartWorker) -> None:
    make_wallets([(3, 2, 1)] * 30)
    page = desk(*EVERYTHING).page
    confirm(page, "Start a migration", "go")
    worker()
    expect(page.locator(".mm-headline").get_by_text("Completed")).to_be_visible(timeout=60_000)
    for kind in ("html", "json", "csv", "xlsx", "summary.csv"):
        with page.expect_download() as waiting:
            page.get_by_role("link", name=kind, exact=True).click()
        name = waiting.value.suggested_filename
        assert name.startswith("migration-report-")
        assert name.endswith(kind)
        assert waiting.value.path().stat().st_size > 100
    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.get_by_text("36,900").first).to_be_visible()
