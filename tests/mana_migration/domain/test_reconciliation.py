"""The books of a run: they agree when every source does, and each single wrong figure is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mana_migration.domain.reconciliation import of_migration, of_rollback
from mana_migration.domain.report import Reconciliation, RecordSum
from mana_migration.domain.results import Totals

RATES = {"green": 10, "blue": 100, "red": 1000}


def part(status: str, users: int, green: int, **values: int | None) -> RecordSum:
    found = RecordSum(1, status, None, users, green, 0, 0, 0, 10 * green, 0, 0)
    return replace(found, **values)  # type: ignore[arg-type]


TOTALS = Totals(selected=10, migrated=9, failed=1, green=100, mana=1000)
STANDING = part("migrated", 6, 70)
TAKEN = part("rolled_back", 3, 30, reversal_run=2, mana_debited=250, shortfall=50)
FAILED = part("failed", 1, -5, mana_credited=0)
LEDGER = (1000, 250)


def migration(
    totals: Totals = TOTALS,
    sums: tuple[RecordSum, ...] = (STANDING, TAKEN, FAILED),
    ledger: tuple[int, int] = LEDGER,
    *,
    complete: bool = True,
) -> Reconciliation:
    return of_migration(totals, RATES, sums, ledger, complete=complete)


def test_value_before_and_written_off_is_value_after() -> None:
    books = migration()
    assert (books.before, books.converted, books.written_off) == (1000, 1000, 50)
    assert (books.mana_after, books.wishes_after, books.after, books.difference) == (750, 300, 1050, 0)
    assert books.ok


@pytest.mark.parametrize(
    "wrong",
    [
        {"totals": replace(TOTALS, mana=1001)},
        {"totals": replace(TOTALS, green=101)},
        {"ledger": (1001, 250)},
        {"ledger": (1000, 249)},
        {"sums": (replace(STANDING, mana_credited=701), TAKEN)},
        {"sums": (replace(STANDING, green=71), TAKEN)},
        {"sums": (STANDING, replace(TAKEN, mana_debited=251))},
        {"sums": (STANDING, replace(TAKEN, shortfall=51))},
        {"sums": (STANDING, replace(TAKEN, green=31))},
        {"sums": (STANDING,)},
    ],
)
def test_a_single_wrong_figure_in_any_source_is_noticed(wrong: dict[str, object]) -> None:
    assert not migration(**wrong).ok  # type: ignore[arg-type]


def test_one_unit_beside_the_largest_figures_is_noticed() -> None:
    huge = 10**30
    totals, standing = replace(TOTALS, green=huge, mana=10 * huge), part("migrated", 9, huge)
    assert migration(totals, (standing,), (10 * huge, 0)).ok
    assert not migration(totals, (standing,), (10 * huge + 1, 0)).ok


def test_deleted_records_are_not_held_against_the_books() -> None:
    books = migration(sums=(STANDING, FAILED), complete=False)
    assert books.ok
    assert (books.wishes_after, books.written_off) == (300, 50)


ROLLED_BACK = Totals(selected=4, rolled_back=3, skipped=1, green=30, mana=250, shortfall=50)
SKIPPED = part("skipped", 1, 0, mana_credited=0, shortfall=99)


def test_a_rollback_gives_back_what_it_debits_and_writes_off() -> None:
    books = of_rollback(ROLLED_BACK, (TAKEN, SKIPPED), {1: RATES}, complete=True)
    assert (books.before, books.written_off, books.after, books.ok) == (250, 50, 300, True)


@pytest.mark.parametrize(
    ("totals", "taken"),
    [
        (replace(ROLLED_BACK, mana=251), TAKEN),
        (replace(ROLLED_BACK, shortfall=51), TAKEN),
        (replace(ROLLED_BACK, green=31), TAKEN),
        (ROLLED_BACK, replace(TAKEN, mana_debited=251)),
        (ROLLED_BACK, replace(TAKEN, green=31)),
        (ROLLED_BACK, replace(TAKEN, mana_credited=301)),
    ],
)
def test_a_single_wrong_figure_of_a_rollback_is_noticed(totals: Totals, taken: RecordSum) -> None:
    assert not of_rollback(totals, (taken, SKIPPED), {1: RATES}, complete=True).ok


def test_a_rollback_that_deleted_its_records_is_judged_by_its_batches() -> None:
    assert of_rollback(ROLLED_BACK, (SKIPPED,), {}, complete=False).ok
