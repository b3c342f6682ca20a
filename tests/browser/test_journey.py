"""A run is started, watched to its end, paused, resumed and rolled back: by clicks alone."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mana_migration.domain.options import MigrationOptions
from mana_migration.models import MigrationRun, RunEvent
from mana_migration.services import operation, runs
from mana_migration.services.context import RunContext, current_actor
from mana_migration.services.migration import Migration
from mana_migration.states import EventKind, RunKind
from tests.browser.desk import Desk
from tests.factories import make_wallets
from wishes.models import Wallet
from wishes.services import spend_mana

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

EVERYTHING = (
    "start_run",
    "pause_run",
    "resume_run",
    "stop_run",
    "rollback_run",
    "rollback_user",
    "export_report",
    "change_migrationrun",
)

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
    page.get_by_role("link", name="Change settings").click()
    page.get_by_label("Batch size").fill("200")
    page.get_by_label("Delay between batches").fill("0")
    page.get_by_label("Reason").fill("the night is long enough")
    page.locator(".mm-buttons button").click()
    expect(page.get_by_text("are changed, from its next batch on")).to_be_visible()
    expect(page.locator(".mm-headline").get_by_text("Completed")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("All integrity checks passed").first).to_be_visible()
    assert handled(page) == 600
    expect(page.locator(".chart-shade-paused").first).to_be_attached()
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
    pace(run.pk, delay=1.0, batch_size=5)
    worker()
    expect(page.locator(".mm-cards dd").first).not_to_have_text("0", timeout=60_000)
    confirm(page, "Stop", "enough for today")
    expect(page.locator(".mm-headline").get_by_text("Stopped")).to_be_visible()
    expect(page.get_by_text("enough for today").first).to_be_visible()
    assert 0 < handled(page) < 150


def test_support_answers_a_question_about_an_order(desk: OpenDesk) -> None:
    wallets = make_wallets([(3, 2, 1)] * 3)
    migration = operation.execute(Migration(MigrationOptions()), RunContext())
    spend_mana(wallets[0].pk, amount=1000, reference="shop:order-4711")
    page = desk(*EVERYTHING).page
    page.get_by_label("Find a user").fill("4711")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("heading", name=f"User {wallets[0].pk}")).to_be_visible()
    assert wallets[0].user.get_username() not in page.url
    timeline = page.locator(".mm-timeline > li")
    expect(timeline).to_have_count(2)
    expect(timeline.first).to_contain_text("-1,000 mana")
    expect(timeline.last).to_contain_text(f"Migration {migration.run}")
    page.get_by_role("button", name="Copy").click()
    assert "shop:order-4711" in page.locator("#summary").input_value()

    page.get_by_role("link", name="Roll back this user").click()
    page.get_by_label("Reason").fill("ticket 17")
    page.get_by_role("button", name="Roll back user").click()
    expect(page.get_by_label("stay migrated: nothing is changed")).to_be_focused()  # nothing is chosen for the agent
    page.get_by_label("stay migrated: nothing is changed").check()
    page.get_by_role("button", name="Roll back user").click()
    expect(page.locator(".messagelist .warning")).to_contain_text("Nothing was changed")
    page.go_back()
    expect(page.get_by_label("Reason")).to_have_value("ticket 17")  # the back button loses nothing
    page.reload()
    page.get_by_label("are rolled back; the missing mana is written off").check()
    page.get_by_label("Reason").fill("ticket 17")
    page.get_by_role("button", name="Roll back user").click()
    expect(page.get_by_text(f"User {wallets[0].pk} is rolled back")).to_be_visible()
    expect(timeline.first).to_contain_text("ticket 17")


def test_staff_go_from_an_error_to_its_users_and_try_them_again(desk: OpenDesk) -> None:
    make_wallets([(3, 2, 1)] * 30)
    failing = make_wallets([(-4, 0, 0)] * 2)
    users = tuple(str(wallet.pk) for wallet in failing)
    failed = operation.execute(Migration(MigrationOptions(users=users)), RunContext())
    page = desk(*EVERYTHING, "view_usermigration").page
    expect(page.locator(".mm-counts")).to_contain_text("2 failed")
    page.goto(f"/migration/runs/{failed.run}/")
    page.get_by_role("link", name="Show users").click()
    expect(page.get_by_role("link", name=f"User {failing[0].pk}")).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="Retry these").click()
    expect(page.get_by_text("Nothing has changed since they failed")).to_be_visible()
    page.get_by_label("Fix errors that can be fixed first").check()
    expect(page.get_by_text("Nothing has changed since they failed")).to_have_count(0)  # the preview follows the form
    page.get_by_label("Reason").fill("corrected")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("2 migrated, 0 failed, 0 skipped")).to_be_visible()
    expect(page.locator(".mm-counts")).to_contain_text("0 failed")


def test_an_auditor_prints_a_report_and_checks_its_totals(desk: OpenDesk, tmp_path: Path) -> None:
    make_wallets([(3, 2, 1)] * 30)
    make_wallets([(-4, 0, 0)] * 2)
    done = operation.execute(Migration(MigrationOptions(skip_invalid=True)), RunContext())
    page = desk(*EVERYTHING).page
    page.goto(f"/migration/runs/{done.run}/")
    for kind in ("html", "json", "csv", "xlsx", "summary.csv"):
        with page.expect_download() as waiting:
            page.get_by_role("link", name=kind, exact=True).click()
        assert waiting.value.suggested_filename.endswith(kind)
        assert waiting.value.path().stat().st_size > 100
    page.get_by_role("link", name="Report", exact=True).click()
    page.wait_for_url("**/report")
    sheets = printed(page, tmp_path)
    assert "36,900" in sheets[0]  # 30 users of 1,230 mana: the totals are on the first sheet
    text = " ".join("".join(sheets).split())
    assert text.index("negative_balance") < text.index("Reconciliation")  # problems before successes
    assert "The list is printed where it is open on the screen." in text
    page.get_by_text("Show the list").click()
    assert len("".join(printed(page, tmp_path))) > len("".join(sheets)) + 30 * len("migrated")  # a row for each user
    page.go_back()
    page.get_by_role("link", name="Report of the whole migration").click()
    page.wait_for_url("**/whole")
    assert "36,900" in printed(page, tmp_path)[0]


def test_a_second_person_approves(site_with_approval: str, desk: OpenDesk) -> None:
    make_wallets([(3, 2, 1)] * 30)
    olga = desk(*EVERYTHING, name="olga", at=site_with_approval).page
    confirm(olga, "Start a migration", "the first night")
    expect(olga.get_by_text("You asked for this run, so a second person has to approve it.")).to_be_visible()
    expect(olga.get_by_role("link", name="Approve")).to_have_count(0)
    make_wallets([(0, 0, 1)])
    sam = desk("approve_run", name="sam", at=site_with_approval).page
    sam.get_by_role("link", name="Migration request").click()
    expect(sam.get_by_text("The numbers have changed since it was asked for.")).to_be_visible()
    expect(sam.get_by_role("row", name="Would be migrated")).to_contain_text("31")
    confirm(sam, "Approve", "compared with the plan")
    expect(sam.get_by_text("is approved")).to_be_visible()
    run = MigrationRun.objects.get()
    assert (run.actor, run.reason, run.expected) == ("olga", "the first night", 31)
    expect(sam.locator(".mm-events")).to_contain_text("Approved by sam: compared with the plan")
    olga.reload()
    olga.get_by_role("link", name=f"Run {run.pk}").click()
    expect(olga.locator(".mm-headline").get_by_text("Queued")).to_be_visible()


def printed(page: Page, folder: Path) -> list[str]:
    """Return the text of each A4 sheet that the page is printed on."""
    page.pdf(path=folder / "page.pdf", format="A4")
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("pdftotext (Debian: poppler-utils) reads what was printed")
    done = subprocess.run([reader, "-layout", folder / "page.pdf", "-"], capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\f").split("\f")
