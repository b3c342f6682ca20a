"""axe on every page, light and dark, wide and narrow; hostile names break nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from mana_migration.domain.results import Totals
from mana_migration.models import IntegrityFix, MigrationRun
from mana_migration.states import EventKind, RunStatus
from tests.browser.desk import Desk
from tests.mana_migration.history import make_batch, make_event, make_run
from tests.mana_migration.stories import HOSTILE_NAMES, Village
from wishes.services import earn_wishes

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

OpenDesk = Callable[..., Desk]
ALL = (
    "start_run",
    "pause_run",
    "resume_run",
    "stop_run",
    "rollback_run",
    "rollback_user",
    "export_report",
    "view_usermigration",
    "view_migrationbatch",
    "view_runevent",
    "view_runrequest",
    "approve_run",
    "view_integrityfix",
    "view_wallet",
    "view_manaentry",
    "view_wishentry",
)
STORIES = ("pending", "migrated", "failed", "skipped", "rolled_back", "no_wallet", "kept")


def build(status: RunStatus) -> tuple[Village, MigrationRun, list[int]]:
    """Make something of everything that pages show, with hostile names, and a run of this status."""
    village = Village()
    names = [*HOSTILE_NAMES, "anna"]
    users = [getattr(village, story)(name) for story, name in zip(STORIES, names, strict=True)]
    earn_wishes(users[0].pk, colour="green", amount=2, reference="quest:1")
    IntegrityFix.objects.create(check_id="negative_balance", user=users[2], run=village.run, before={}, after={})
    now = timezone.now()
    run = make_run(status=status, created_at=now, expected=500, reason="<b>a reason</b>", stop_reason="it was slow")
    totals = Totals(selected=100, migrated=90, failed=6, skipped=4, green=100, blue=50, red=7, mana=13000)
    totals.errors.update(negative_balance=5, IntegrityError=1)
    totals.skips.update(overflow=4)
    for number in range(3):
        make_batch(run, totals, started_at=now, finished_at=now, errors=dict(totals.errors), start=number)
    make_event(run, EventKind.PAUSED, 5, actor="\u202eolga", message="<i>lunch</i>")
    make_event(run, EventKind.CHECKED, 6, details={"ok": status != RunStatus.FAILED, "checks": {}})
    return village, run, [user.pk for user in users]


def pages(village: Village, run: MigrationRun, users: list[int]) -> list[str]:
    """Return the address of every page that is read."""
    record = village.run.records.first()
    assert record
    admin = "/admin/mana_migration"
    return [
        "/migration/",
        f"/migration/runs/{run.pk}/",
        f"/migration/runs/{village.run.pk}/",
        f"/migration/runs/{village.run.pk}/report",
        f"/migration/runs/{village.run.pk}/users/",
        f"/migration/requests/{village.request.pk}/",
        "/migration/statistics",
        "/migration/users/",
        *(f"/migration/users/{user}/" for user in users),
        *(f"{admin}/migratinguser/{user}/change/" for user in users[:2]),
        f"{admin}/migratinguser/",
        f"{admin}/migratinguser/?standing=failed",
        f"{admin}/migratinguser/?q=nobody",
        f"{admin}/migrationrun/",
        f"{admin}/migrationrun/{run.pk}/change/",
        f"{admin}/migrationbatch/",
        f"{admin}/runevent/",
        f"{admin}/runrequest/",
        f"{admin}/usermigration/",
        f"{admin}/usermigration/{record.pk}/change/",
        f"{admin}/integrityfix/",
        "/admin/wishes/wallet/",
        "/admin/wishes/manaentry/",
    ]


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (
            RunStatus.RUNNING,
            {"color_scheme": "light", "viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},
        ),
        (RunStatus.FAILED, {"color_scheme": "dark", "locale": "de", "viewport": {"width": 390, "height": 800}}),
    ],
    ids=["light, English, 200 % zoom", "dark, German, phone"],
)
def test_axe_finds_nothing_serious_on_any_page(status: RunStatus, options: dict[str, Any], desk: OpenDesk) -> None:
    everything = build(status)
    sam = desk(*ALL, **options)
    found = {}
    for address in pages(*everything):
        sam.page.goto(address)
        if findings := sam.serious_findings():
            found[address] = findings
    assert found == {}


BUTTONS = {
    "Pause": RunStatus.RUNNING,
    "Resume": RunStatus.PAUSED,
    "Stop": RunStatus.RUNNING,
    "Roll back": RunStatus.COMPLETED,
}


@pytest.mark.parametrize("button", BUTTONS)
def test_axe_finds_nothing_serious_on_a_confirmation(button: str, desk: OpenDesk) -> None:
    village, run, users = build(BUTTONS[button])
    sam = desk(*ALL)
    sam.page.goto(f"/migration/runs/{village.run.pk if button == 'Roll back' else run.pk}/")
    make_batch(village.run, Totals(selected=9, migrated=9))
    sam.page.reload()
    sam.page.get_by_role("link", name=f"{button}…").click()
    expect(sam.page.get_by_label("Reason")).to_be_visible()
    assert sam.serious_findings() == []
    assert users


def test_axe_finds_nothing_serious_on_the_other_forms(desk: OpenDesk) -> None:
    _, _, users = build(RunStatus.COMPLETED)
    sam = desk(*ALL)
    sam.page.goto("/migration/")
    assert sam.serious_findings() == []
    sam.page.get_by_role("link", name="Start a migration").click()
    expect(sam.page.get_by_label("Reason")).to_be_visible()
    assert sam.serious_findings() == []
    sam.page.goto(f"/migration/users/{users[6]}/")  # has spent the mana
    sam.page.get_by_role("link", name="Roll back").click()
    expect(sam.page.get_by_text("are rolled back; the missing mana is written off")).to_be_visible()
    assert sam.serious_findings() == []
    sam.page.goto("/migration/users/")
    sam.page.get_by_label("Find a user").fill("nobody")
    sam.page.get_by_role("button", name="Find").click()
    expect(sam.page.get_by_text("No user has this primary key")).to_be_visible()
    assert sam.serious_findings() == []
    sam.forgive("404")  # the answer to the search


def test_an_empty_site_is_accessible_too(desk: OpenDesk) -> None:
    sam = desk(*ALL)
    assert sam.serious_findings() == []


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_no_staff_page_is_wider_than_the_window(width: int, desk: OpenDesk) -> None:
    village, run, users = build(RunStatus.RUNNING)
    sam = desk(*ALL, viewport={"width": width, "height": 800})
    wide = {}
    for address in pages(village, run, users):
        if address.startswith("/migration/") and not address.endswith("/report"):
            sam.page.goto(address)
            if sam.overflow() > 0:
                wide[address] = sam.overflow()
    assert wide == {}


def test_on_a_phone_a_list_of_runs_is_scrolled_and_its_words_stay_whole(desk: OpenDesk) -> None:
    make_run(actor="root")
    sam = desk(*ALL, viewport={"width": 375, "height": 800})
    sam.page.goto("/migration/")
    lines = [
        sam.page.locator(f".mm-table tbody tr td:nth-of-type({place})").evaluate(
            "cell => { const words = document.createRange();"
            " words.selectNodeContents(cell.querySelector('bdi') ?? cell);"
            " return new Set([...words.getClientRects()].map(box => Math.round(box.bottom))).size }"
        )
        for place in (2, 3)  # when, by whom
    ]
    assert lines == [1, 1]


def test_hostile_names_are_shown_as_they_are_and_do_nothing(desk: OpenDesk) -> None:
    build(RunStatus.COMPLETED)
    sam = desk(*ALL)
    sam.page.goto("/admin/mana_migration/migratinguser/")
    shown = sam.page.locator("td.field-shown_username bdi").all_inner_texts()
    assert set(HOSTILE_NAMES) <= set(shown)
    sam.page.get_by_role("link", name=HOSTILE_NAMES[0]).click()
    expect(sam.page.get_by_role("heading", name=HOSTILE_NAMES[0])).to_be_visible()


def test_figures_can_be_read_without_colour(desk: OpenDesk) -> None:
    _, run, _ = build(RunStatus.FAILED)
    sam = desk(*ALL)
    sam.page.goto(f"/migration/runs/{run.pk}/")
    marks = sam.page.evaluate("""
        [...document.querySelectorAll('.mm-status')].map(
            (status) => [status.textContent, getComputedStyle(status, '::before').content])
    """)
    assert marks
    for word, mark in marks:
        assert word.strip()
        assert mark not in ("none", "normal", '""')
