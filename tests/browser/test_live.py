"""The live page: without scripts, without the server, without the session, by keyboard."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone
from playwright.sync_api import expect

from mana_migration.domain.results import Totals
from mana_migration.models import MigrationRun
from mana_migration.states import RunStatus
from tests.browser.desk import Desk
from tests.mana_migration.history import make_batch, make_run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

OpenDesk = Callable[..., Desk]


@pytest.fixture
def run(transactional_db: None) -> MigrationRun:
    """Return an open run."""
    return make_run(status=RunStatus.RUNNING, created_at=timezone.now(), expected=1000)


def progress(run: MigrationRun, users: int) -> None:
    """Let some users have been migrated just now."""
    now = timezone.now()
    make_batch(run, Totals(selected=users, migrated=users), started_at=now, finished_at=now)


def test_without_javascript_the_page_reloads_by_itself(run: MigrationRun, desk: OpenDesk) -> None:
    page = desk("pause_run", scripts=False).page
    page.goto(f"/migration/runs/{run.pk}/")
    progress(run, 123)
    expect(page.locator(".mm-cards dd").first).to_have_text("123", timeout=30_000)


def test_without_javascript_a_run_is_paused(run: MigrationRun, desk: OpenDesk) -> None:
    page = desk("pause_run", scripts=False).page
    page.goto(f"/migration/runs/{run.pk}/")
    page.get_by_role("link", name="Pause").click()
    page.get_by_label("Reason").fill("the backup runs")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text(f"Run {run.pk} is paused.")).to_be_visible()


def test_the_keyboard_is_enough(run: MigrationRun, desk: OpenDesk) -> None:
    page = desk("pause_run").page
    page.goto(f"/migration/runs/{run.pk}/")

    def tab_to(words: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if words in page.evaluate("document.activeElement.textContent || document.activeElement.name"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"the focus on {words} cannot be seen"
                return
        raise AssertionError(f"{words} cannot be reached by Tab")

    tab_to("Pause…")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Reason")).to_be_visible()
    page.get_by_label("Reason").focus()
    page.keyboard.type("by keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"Run {run.pk} is paused.")).to_be_visible()


def test_an_opened_table_and_the_focus_survive_the_update(run: MigrationRun, desk: OpenDesk) -> None:
    progress(run, 10)
    page = desk("pause_run").page
    page.goto(f"/migration/runs/{run.pk}/")
    page.locator("#table-progress summary").click()
    progress(run, 20)
    expect(page.locator(".mm-cards dd").first).to_have_text("30")
    assert page.locator("#table-progress").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.closest('details').id") == "table-progress"


def test_a_change_of_status_brings_the_right_buttons(run: MigrationRun, desk: OpenDesk) -> None:
    page = desk("pause_run", "resume_run").page
    page.goto(f"/migration/runs/{run.pk}/")
    expect(page.get_by_role("link", name="Pause")).to_be_visible()
    MigrationRun.objects.filter(pk=run.pk).update(status=RunStatus.PAUSED)
    expect(page.get_by_role("link", name="Resume")).to_be_visible()
    expect(page.get_by_role("link", name="Pause")).to_have_count(0)


def test_a_server_that_does_not_answer_is_pointed_out(run: MigrationRun, desk: OpenDesk) -> None:
    sam = desk()
    page = sam.page
    page.goto(f"/migration/runs/{run.pk}/")
    expect(page.locator("#offline")).to_be_hidden()
    page.route("**/fragment*", lambda route: route.abort())
    expect(page.locator("#offline")).to_be_visible()
    page.unroute("**/fragment*")
    expect(page.locator("#offline")).to_be_hidden()
    sam.forgive("Failed to load resource")
    sam.forgive("htmx:")


def test_an_ended_session_leads_to_the_sign_in(run: MigrationRun, desk: OpenDesk) -> None:
    page = desk().page
    page.goto(f"/migration/runs/{run.pk}/")
    Session.objects.all().delete()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    assert f"next=/migration/runs/{run.pk}/" in page.url


def test_a_page_that_nobody_works_behind_says_how_to_start_a_worker(run: MigrationRun, desk: OpenDesk) -> None:
    MigrationRun.objects.filter(pk=run.pk).update(created_at=timezone.now() - timedelta(seconds=60))
    page = desk().page
    page.goto(f"/migration/runs/{run.pk}/")
    expect(page.get_by_text("python manage.py work_migration")).to_be_visible()
    progress(run, 5)
    expect(page.get_by_text("python manage.py work_migration")).to_have_count(0)
