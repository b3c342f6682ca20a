"""A run's figures: the same whether folded or not, exact whatever their size."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.results import Totals
from mana_migration.domain.time_series import UserSeries
from mana_migration.engine import totals
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.states import BatchStatus
from tests.mana_migration.history import after, done, make_batch, make_run
from wishes.rates import BIGINT_MAX

pytestmark = pytest.mark.django_db


def fold(run: MigrationRun) -> None:
    """Fold what is done, as whoever plans does."""
    totals.fold(run, "default")
    run.save(update_fields=["folded"])


def failing(users: int) -> Totals:
    """Return the totals of a batch half of which failed."""
    half = users // 2
    return Totals(
        selected=users, migrated=half, failed=half, green=half, mana=10 * half, errors=Counter({"overflow": half})
    )


def test_a_run_is_the_sum_of_its_done_batches() -> None:
    run = make_run()
    make_batch(run, done(50, green=7, mana=70))
    make_batch(run, failing(50))
    make_batch(run, Totals(selected=2, skipped=2, skips=Counter({"locked": 2})))
    make_batch(run, Totals(), status=BatchStatus.PLANNED)
    make_batch(make_run(), done(9))
    found = totals.run_totals(run, "default")
    assert (found.selected, found.migrated, found.failed, found.skipped) == (102, 75, 25, 2)
    assert (found.green, found.mana) == (32, 320)
    assert (found.errors, found.skips) == ({"overflow": 25}, {"locked": 2})


def test_folding_changes_no_figure() -> None:
    run = make_run()
    for number in range(5):
        make_batch(run, failing(10), start=number, seconds=0.2)
    before = totals.folded_figures(run, "default")
    for number in range(5, 8):
        fold(run)
        make_batch(run, done(10, mana=3), start=number, seconds=3.0)
    after_folds = totals.folded_figures(run, "default")
    assert after_folds["totals"] == {
        **before["totals"],
        "selected": 80,
        "migrated": 55,
        "mana": before["totals"]["mana"] + 9,
    }
    assert after_folds["batches"] == 8
    assert after_folds["seconds"] == pytest.approx(5 * 0.2 + 3 * 3.0)
    assert after_folds["histogram"] == {"0.25": 5, "5.0": 3}
    assert after_folds["last_progress"] == after(10).isoformat()
    fold(run)
    assert totals.folded_figures(run, "default")["totals"] == after_folds["totals"]
    assert not MigrationBatch.objects.filter(run=run, folded=False).exists()


def test_sums_over_batches_pass_bigint_exactly() -> None:
    run = make_run()
    for _ in range(3):
        make_batch(run, done(1, green=BIGINT_MAX, mana=BIGINT_MAX))
        fold(run)
        run.refresh_from_db()
    make_batch(run, done(1, green=BIGINT_MAX, mana=1))
    make_batch(run, done(1, green=BIGINT_MAX, mana=1))
    fold(run)
    run.refresh_from_db()
    found = totals.run_totals(run, "default")
    assert (found.green, found.mana) == (5 * BIGINT_MAX, 3 * BIGINT_MAX + 2)


def test_looking_at_a_run_costs_the_same_however_many_batches_are_folded() -> None:
    small, large = make_run(), make_run()
    make_batch(small, done(1))
    for number in range(300):
        make_batch(large, done(1), start=number)
    fold(large)
    make_batch(large, done(1), start=301)
    for run in (small, large):
        with CaptureQueriesContext(
            connection,
        ) as seen:
            totals.run_totals(run, "default")
        assert len(seen) == 1
    assert len(totals.unfolded(large.pk, "default")) == 1


def test_users_over_time_are_kept_by_when_their_batches_ended_in_any_order() -> None:
    run = make_run()
    batches = [
        {**done(users).as_dict(), "started_at": after(at - 1), "finished_at": after(at)}
        for at, users in ((1, 5), (100, 7), (40, 3))
    ]
    run.folded = totals.add_batches(totals.add_batches(run.folded, batches[:2]), batches[2:])
    points = UserSeries.from_json(run.folded["series"]).points()
    by = {at: users for at, users in points if at in (after(0), after(39), after(41), after(99), points[-1][0])}
    assert by == {after(0): 0, after(39): 5, after(41): 8, after(99): 8, points[-1][0]: 15}


def test_the_latest_batches_are_those_that_attempted_so_many() -> None:
    run = make_run()
    make_batch(run, failing(1_000))
    for _ in range(3):
        make_batch(run, done(400, mana=1))
    make_batch(run, Totals(), status=BatchStatus.PLANNED)
    window = totals.latest(run.pk, "default", attempted=1_000)
    assert (window.attempted, window.failed, window.mana) == (1_200, 0, 3)
    assert totals.latest(run.pk, "default", attempted=1_201).failed == 500


@pytest.mark.parametrize("pages", [1, 2, 100])
def test_the_latest_batches_are_read_a_page_at_a_time(pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "PAGE", pages)
    run = make_run()
    for _ in range(9):
        make_batch(run, done(1, mana=1))
    for count in (1, 4, 8, 9, 20):
        assert totals.latest(run.pk, "default", attempted=count).attempted == min(count, 9)


def test_batches_in_which_nobody_was_attempted_are_not_read_without_end() -> None:
    run = make_run()
    make_batch(run, failing(10))
    for _ in range(3):
        make_batch(run, Totals(selected=5, skipped=5))
    assert totals.latest(run.pk, "default", attempted=2).attempted == 0
    assert totals.latest(run.pk, "default", attempted=3).failed == 5
