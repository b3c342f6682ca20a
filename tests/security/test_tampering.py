"""The table in docs/checks.md of what is seen of changes behind the guards: each row is planted and validated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Concat

from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, RunEvent, UserMigration
from mana_migration.services import validation
from tests.support.economy import Economy
from tests.support.violations import add_entry, batch_of, entry, other_run, record, wallet
from wishes.models import ManaEntry, WishEntry

pytestmark = pytest.mark.django_db

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"

Plant = Callable[[Economy], Any]

DAY = timedelta(days=1)


def run_of(economy: Economy, **conditions: Any) -> Any:
    """Return a query of the mass run that converted most users."""
    return MigrationRun.objects.filter(pk=economy.record("still").run_id, **conditions)


def change_both(economy: Economy, name: str, kind: str) -> None:
    """Change a user's first entry of a kind, all balances since, and the wallet, so that all of them agree."""
    changed = entry(economy, name, kind).earliest("pk")
    since = ManaEntry.objects.filter(user_id=economy.key(name), pk__gte=changed.pk)
    since.update(balance_after=F("balance_after") + 7)
    ManaEntry.objects.filter(pk=changed.pk).update(amount=changed.amount + 7)
    wallet(economy, name).update(mana=F("mana") + 7)


def remove(query: Any) -> None:
    """Delete rows whatever refers to them."""
    query._raw_delete(query.db)


def remove_run(economy: Economy) -> None:
    """Delete a run with its batches, records and events."""
    run = economy.record("still").run_id
    for model in (UserMigration, MigrationBatch, RunEvent):
        remove(model.objects.filter(run=run))
    remove(MigrationRun.objects.filter(pk=run))


def one_event(economy: Economy, kind: str) -> Any:
    """Return a query of an event of the mass run."""
    return RunEvent.objects.filter(run=economy.record("still").run_id, kind=kind)


#: What each row of the table stands for, in all its varieties.
ROWS: dict[str, list[Plant]] = {
    "a migrated wallet's mana or wishes": [
        lambda e: wallet(e, "still").update(mana=1),
        lambda e: wallet(e, "still").update(green=1),
    ],
    "an unmigrated wallet's wishes": [lambda e: wallet(e, "back").update(green=1)],
    "`migrated_at` removed, or set on a wallet without a record": [
        lambda e: wallet(e, "still").update(migrated_at=None),
        lambda e: wallet(e, "broke").update(migrated_at=e.wallet("still").migrated_at, blue=0),
    ],
    "`migrated_at` moved": [lambda e: wallet(e, "still").update(migrated_at=e.wallet("still").migrated_at - DAY)],
    "a run's entry deleted, or its user, kind, amount or reference": [
        lambda e: entry(e, "still", "conversion").delete(),
        lambda e: entry(e, "still", "conversion").update(user_id=e.key("empty")),
        lambda e: entry(e, "still", "conversion").update(kind="earn"),
        lambda e: entry(e, "still", "conversion").update(amount=1),
        lambda e: entry(e, "still", "conversion").update(reference="conversion:999:1"),
        lambda e: entry(e, "poorer", "adjustment").delete(),
        lambda e: entry(e, "poorer", "adjustment").update(reference=Concat("reference", Value("0"))),
    ],
    "a run's entry together with its wallet": [lambda e: change_both(e, "still", "conversion")],
    "a run's entry without a record": [
        lambda e: add_entry(e, "still", 5, "conversion", f"conversion:{other_run(e).pk}:{e.key('still')}")
    ],
    "an entry of a fix without the fix": [
        lambda e: add_entry(e, "still", 5, "adjustment", "adjustment:fix:999:found"),
        lambda e: remove(IntegrityFix.objects.order_by("-pk")[:1]),
    ],
    "`balance_after` of any entry": [
        lambda e: entry(e, "active", "conversion").update(balance_after=1),
        lambda e: entry(e, "still", "conversion").update(balance_after=1),
    ],
    "the site's entry deleted, or its user or amount": [
        lambda e: entry(e, "active", "earn").first().delete(),
        lambda e: entry(e, "active", "earn").update(user_id=e.key("still")),
        lambda e: entry(e, "active", "spend").update(amount=-41),
    ],
    "the site's entry together with its wallet, or invented": [
        lambda e: change_both(e, "active", "earn"),
        lambda e: add_entry(e, "active", 5, "earn", "gift"),
        lambda e: add_entry(e, "active", -5, "spend", "toll"),
    ],
    "the site's entry: kind or reference": [
        lambda e: entry(e, "active", "earn").update(kind="adjustment"),
        lambda e: ManaEntry.objects.filter(pk=entry(e, "active", "earn").earliest("pk").pk).update(reference="other"),
    ],
    "the date of any entry": [
        lambda e: entry(e, "still", "conversion").update(created_at=F("created_at") - DAY),
        lambda e: entry(e, "active", "earn").update(created_at=F("created_at") - DAY),
    ],
    "an entry of wishes": [lambda e: WishEntry.objects.filter(pk=WishEntry.objects.earliest("pk").pk).update(amount=9)],
    "a record's figures, outcome, error class, run, batch or user": [
        lambda e: record(e, "still").update(green=4),
        lambda e: record(e, "still").update(mana_before=1),
        lambda e: record(e, "failed", status="failed").update(status="skipped"),
        lambda e: record(e, "failed", status="failed").update(error_class="duplicate"),
        lambda e: record(e, "still").update(batch=e.record("imported").batch_id),
        lambda e: record(e, "failed", status="failed").update(user_id=e.key("late")),
    ],
    "a record deleted": [
        lambda e: record(e, "empty").delete(),
        lambda e: record(e, "skipped", status="skipped").delete(),
    ],
    "a record's message or times": [
        lambda e: record(e, "failed", status="failed").update(error_message="another"),
        lambda e: record(e, "still").update(created_at=F("created_at") - DAY),
        lambda e: record(e, "back", status="rolled_back").update(reversed_at=F("reversed_at") - DAY),
    ],
    "a batch's figures, digest, number or link": [
        lambda e: batch_of(e, "still").update(mana=1),
        lambda e: batch_of(e, "still").update(digest="0" * 64),
        lambda e: batch_of(e, "still").update(link="0" * 64),
        lambda e: batch_of(e, "still").update(number=99),
    ],
    "a batch deleted": [lambda e: remove(batch_of(e, "failed", status="failed"))],
    "a batch's times": [lambda e: batch_of(e, "still").update(started_at=F("started_at") - DAY)],
    "a run's kind, options, rates, actor, host, reason, target or baseline": [
        lambda e: run_of(e).update(kind="import"),
        lambda e: run_of(e).update(options={}),
        lambda e: run_of(e).update(rates={"green": 11, "blue": 100, "red": 1000}),
        lambda e: run_of(e).update(actor="another"),
        lambda e: run_of(e).update(host="another"),
        lambda e: run_of(e).update(reason="another"),
        lambda e: run_of(e).update(target_run=run_of(e).get()),
        lambda e: run_of(e).update(baseline={}),
        lambda e: run_of(e).update(expected=99),
    ],
    "a run's status, or the reason of its end": [
        lambda e: run_of(e).update(status="stopped"),
        lambda e: run_of(e).update(status="failed"),
        lambda e: run_of(e).update(status="rolled_back"),
        lambda e: run_of(e).update(stop_reason="another"),
    ],
    "a run's settings in force or times": [
        lambda e: run_of(e).update(controls={}),
        lambda e: run_of(e).update(created_at=F("created_at") - DAY),
        lambda e: run_of(e).update(finished_at=F("finished_at") + DAY),
    ],
    "a whole run": [remove_run],
    "an event's kind, actor, message or details": [
        lambda e: one_event(e, "started").update(kind="resumed"),
        lambda e: one_event(e, "started").update(actor="another"),
        lambda e: one_event(e, "started").update(message="another"),
        lambda e: one_event(e, "checked").update(details={}),
    ],
    "an event deleted or added before the run's latest change of status": [
        lambda e: remove(one_event(e, "started")),
        lambda e: remove(one_event(e, "checked")),
        lambda e: remove(one_event(e, "finished")),
        lambda e: RunEvent.objects.create(run=run_of(e).get(), kind="checked"),
    ],
    "an event's time": [lambda e: one_event(e, "started").update(created_at=F("created_at") - DAY)],
    "a fix's check, user, values, actor or what it undoes": [
        lambda e: IntegrityFix.objects.update(check_id="overflow"),
        lambda e: IntegrityFix.objects.update(user_id=e.key("still")),
        lambda e: IntegrityFix.objects.update(before={}),
        lambda e: IntegrityFix.objects.update(green_change=1),
        lambda e: IntegrityFix.objects.update(actor="another"),
        lambda e: IntegrityFix.objects.update(undoes=1),
        lambda e: IntegrityFix.objects.create(check_id="overflow", user_id=e.key("still"), before={}, after={}),
    ],
    "a fix's run or time": [
        lambda e: IntegrityFix.objects.update(run=run_of(e).get()),
        lambda e: IntegrityFix.objects.update(created_at=F("created_at") - DAY),
    ],
}


def table() -> dict[str, set[str]]:
    """Return the rows of the table in the docs: what is changed, and the checks that see it."""
    section = PAGE.read_text().partition("### What is seen")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {changed: set(re.findall(r"`(\w+)`", seen)) for changed, seen in rows if changed not in ("changed", "---")}


def seen(**options: Any) -> dict[str, int]:
    """Return the findings by check."""
    report = validation.validate(phase="post", **options)
    return {check.id: check.count for check in report.checks if check.count}


@pytest.fixture
def before(economy: Economy) -> Iterator[dict[str, int]]:
    found = seen()
    assert found.keys() <= {"unmigrated_remaining"}
    return found


def test_the_table_has_a_row_for_each_kind_of_change() -> None:
    assert list(table()) == list(ROWS)


@pytest.mark.parametrize("changed", ROWS)
def test_what_the_table_says_is_seen_is_seen_and_nothing_else(
    economy: Economy, before: dict[str, int], changed: str, subtests: Any
) -> None:
    expected = table()[changed]
    for number, plant in enumerate(ROWS[changed], 1):
        with subtests.test(number), transaction.atomic():
            plant(economy)
            found = seen()
            transaction.set_rollback(True)
            assert {check for check in found if found[check] != before.get(check, 0)} >= expected
            assert expected or found == before
