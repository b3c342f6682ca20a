from typing import Any

import pytest

from mana_migration.domain.results import Totals
from mana_migration.domain.snapshot import BatchCheck, RunSnapshot
from mana_migration.engine import totals as figures
from mana_migration.models import MigrationRun
from mana_migration.reports.console import plain_line
from mana_migration.reports.run_lines import facts
from mana_migration.reports.snapshot_json import snapshot_json
from mana_migration.selectors.runs import run_snapshot
from mana_migration.states import RunKind, RunStatus
from tests.mana_migration.history import done, make_batch, make_run

pytestmark = pytest.mark.django_db

OTHER_RATES = {"green": 1, "blue": 2, "red": 3}


def snapshot(run: MigrationRun) -> RunSnapshot:
    """Return what is seen of a run."""
    seen = run_snapshot(run_id=run.pk)
    assert seen is not None
    return seen


def check(run: MigrationRun) -> BatchCheck | None:
    """Return what the run's snapshot says of its batches."""
    return snapshot(run).batch_check


def said(run: MigrationRun) -> str:
    """Return the line of the screen about integrity."""
    return next(fact.value for fact in facts(snapshot(run)) if fact.label == "Integrity")


def fold(run: MigrationRun) -> None:
    """Fold what is done."""
    figures.fold(run, "default")
    run.save()


def test_batches_whose_mana_is_the_worth_of_their_wishes_are_verified() -> None:
    run = make_run(status=RunStatus.RUNNING)
    assert said(run) == "no batch to verify yet"
    make_batch(run, done(50, green=1, blue=2, red=3, mana=3210))
    fold(run)
    make_batch(run, Totals(selected=2, migrated=1, failed=1, red=2**62 // 1000, mana=2**62 // 1000 * 1000))
    assert check(run) == BatchCheck(2, conserved=True)
    assert said(run) == "2 batches verified, value conserved"
    assert "verified" not in plain_line(snapshot(run))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("mana", [39, 41, 0])
def test_the_first_batch_that_moved_other_mana_is_named(mana: int, *, folded: bool) -> None:
    run = make_run(status=RunStatus.RUNNING)
    make_batch(run, done(50, green=4, mana=40))
    wrong = make_batch(run, done(50, green=4, mana=mana))
    make_batch(run, done(50, green=4, mana=mana))
    if folded:
        fold(run)
    assert check(run) == BatchCheck(1, conserved=False, first_wrong=wrong.pk)
    words = f"1 of 3 batches verified; batch {wrong.pk} moved other mana than its wishes are worth"
    assert said(run) == words
    assert plain_line(snapshot(run)).endswith(words)


def test_sums_of_the_run_that_its_batches_do_not_have_are_found() -> None:
    run = make_run(status=RunStatus.RUNNING)
    make_batch(run, done(50, green=4, mana=40))
    fold(run)
    run.folded["totals"]["mana"] = 50
    run.save()
    assert said(run) == "1 of 1 batch verified; the sums of the run are not those of its batches"


@pytest.mark.parametrize(
    ("rates", "target", "conserved"),
    [([{}], None, True), ([{}, {}], None, True), ([{}, OTHER_RATES], None, None), ([{}, OTHER_RATES], 0, True)],
    ids=["one run", "runs at the same rates", "runs at other rates", "one of such runs"],
)
def test_a_rollback_is_verified_at_the_rates_of_what_it_reverses(
    rates: list[dict[str, Any]], target: int | None, *, conserved: bool | None
) -> None:
    runs = [make_run(**({"rates": each} if each else {})) for each in rates]
    run = make_run(
        kind=RunKind.ROLLBACK,
        status=RunStatus.RUNNING,
        rates={},
        target_run=None if target is None else runs[target],
    )
    make_batch(run, Totals(selected=5, rolled_back=5, blue=3, mana=290, shortfall=10))
    assert check(run) == BatchCheck(1, conserved=conserved)


def test_an_import_converts_nothing() -> None:
    run = make_run(kind=RunKind.IMPORT, status=RunStatus.RUNNING)
    make_batch(run, done(5, mana=7))
    assert check(run) is None


def test_a_run_that_was_stopped_says_what_its_batches_prove_and_that_it_was_not_checked() -> None:
    run = make_run(status=RunStatus.STOPPED)
    assert said(run) == "not checked"
    make_batch(run, done(5, green=1, mana=10))
    assert said(run) == "1 batch verified, value conserved; the run itself was not checked"
    assert snapshot_json(snapshot(run))["batch_check"] == {
        "verified": 1,
        "value_conserved": True,
        "first_wrong_batch": None,
    }
