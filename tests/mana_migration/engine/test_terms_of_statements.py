"""The statements themselves where rows cannot tell: shortcuts, the order of judgements, locks, and what is forecast."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.results import Totals
from mana_migration.engine import conversion, reversal
from mana_migration.engine.conversion import ConversionTerms, cohort_sql, picked_sql, problem_sql, selection_sql
from mana_migration.engine.integrity.records import mismatch_sql
from mana_migration.engine.reversal import ReversalTerms
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import RATES
from wishes.rates import Rates

TERMS = ConversionTerms(run=0, rates=RATES)


def problems_in_order(sql: str) -> list[str]:
    """Return what a CASE decides, in its order."""
    return [part.split("'")[1] for part in sql.split(" THEN ")[1:]]


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_almost_everybody_is_judged_by_comparisons_with_a_quarter_of_bigint(vendor: str) -> None:
    """Four such amounts together cannot be beyond BIGINT, whatever the rates are."""
    assert problem_sql(vendor, RATES, per_user=False).startswith(
        "CASE WHEN w.green BETWEEN 0 AND 230584300921369395 AND w.blue BETWEEN 0 AND 23058430092136939 "
        "AND w.red BETWEEN 0 AND 2305843009213693 AND w.mana <= 2305843009213693951 THEN ''"
    )


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_a_closer_look_comes_before_the_shortcut_and_negative_balances_before_all(vendor: str) -> None:
    assert problems_in_order(problem_sql(vendor, RATES, per_user=False)) == ["", "negative_balance", "overflow"]
    assert problems_in_order(problem_sql(vendor, RATES, per_user=True)) == [
        "negative_balance", "orphaned_mana", "migration_inconsistency", "", "overflow",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("permyriad", "bound"), [(0, "00000000"), (1, "00068db8"), (2_500, "40000000"), (9_999, "fff97247")]
)
def test_a_cohort_is_bounded_by_its_share_of_two_to_the_32(permyriad: int, bound: str) -> None:
    assert cohort_sql("w.user_id", permyriad) == f"substr(md5(CAST(w.user_id AS text)), 1, 8) < '{bound}'"


@pytest.mark.parametrize("permyriad", [10_000, 10_001])
def test_a_cohort_of_everybody_needs_no_condition(permyriad: int) -> None:
    assert cohort_sql("w.user_id", permyriad) == "1 = 1"


def test_wallets_are_locked_in_the_order_of_their_keys_and_judged_once() -> None:
    locked = picked_sql("postgresql", TERMS, "wishes_wallet w", "1 = 1", locked=True)
    assert "WHERE 1 = 1 ORDER BY w.user_id FOR NO KEY UPDATE OF w OFFSET 0) w" in locked
    assert " AS line FROM (" in locked
    on_sqlite = picked_sql("sqlite", TERMS, "wishes_wallet w", "1 = 1", locked=True)
    assert "WHERE 1 = 1 ORDER BY w.user_id )" in on_sqlite
    for vendor in ("sqlite", "postgresql"):
        unlocked = picked_sql(vendor, TERMS, "wishes_wallet w", "1 = 1", locked=False)
        assert "WHERE 1 = 1 ) w" in unlocked
        assert " AS line" not in unlocked


@pytest.mark.parametrize("closer", [{"skip_invalid": True}, {"per_user": True}])
def test_a_closer_look_locks_the_unmigrated_before_it_reads_their_entries(closer: dict[str, bool]) -> None:
    terms = ConversionTerms(run=7, rates=RATES, **closer)
    first = conversion._statement("postgresql", terms)._writes.locks_first
    assert "w.user_id BETWEEN %(first)s AND %(last)s AND w.migrated_at IS NULL" in first
    assert "FOR NO KEY UPDATE" in first
    assert "orphaned_mana" in picked_sql("postgresql", terms, "wishes_wallet w", "1 = 1", locked=True)


def test_without_a_closer_look_picking_locks() -> None:
    assert conversion._statement("postgresql", ConversionTerms(run=7, rates=RATES))._writes.locks_first == ""
    assert "orphaned_mana" not in picked_sql("postgresql", TERMS, "wishes_wallet w", "1 = 1", locked=True)


@pytest.mark.django_db
def test_a_forecast_takes_balances_as_they_are_unless_they_are_to_be_fixed() -> None:
    bad, good = (str(found.pk) for found in make_wallets([(-5, 1, 0), (3, 2, 1)]))
    told = conversion.forecast(connection, TERMS)
    expected = Totals(selected=2, migrated=1, failed=1, green=3, blue=2, red=1, mana=1230)
    expected.errors["negative_balance"] = 1
    assert told == expected
    assert conversion.forecast(connection, TERMS, fixed=True) == Totals(
        selected=2, migrated=2, green=3, blue=3, red=1, mana=1330
    )
    assert conversion.largest(connection, TERMS, count=5) == [(good, 3, 2, 1, 1230)]
    assert conversion.largest(connection, TERMS, count=5, fixed=True) == [(good, 3, 2, 1, 1230), (bad, 0, 1, 0, 100)]


@pytest.mark.django_db
def test_a_forecast_is_of_the_users_named_and_of_the_first_so_many() -> None:
    keys = [str(found.pk) for found in make_wallets([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1)])]
    named = (keys[0], keys[2])
    assert conversion.forecast(connection, TERMS, selected_users=named).mana == 1010
    assert conversion.forecast(connection, TERMS, selected_users=named, limit=1).mana == 10
    assert conversion.forecast(connection, TERMS, limit=2).mana == 110
    assert conversion.forecast(connection, TERMS, limit=0).selected == 0
    assert [row[0] for row in conversion.largest(connection, TERMS, count=3)] == [keys[2], keys[3], keys[1]]
    assert [row[0] for row in conversion.largest(connection, TERMS, count=9, limit=2)] == [keys[1], keys[0]]
    assert [row[0] for row in conversion.largest(connection, TERMS, count=9, selected_users=named)] == [
        keys[2],
        keys[0],
    ]


@pytest.mark.django_db
def test_a_forecast_locks_nobody() -> None:
    make_wallets([(1, 0, 0)])
    with CaptureQueriesContext(connection) as captured:
        conversion.forecast(connection, TERMS)
        conversion.largest(connection, TERMS, count=1)
        reversal.forecast(connection, ReversalTerms(run=0))
        reversal.shortfalls(connection, ReversalTerms(run=0), limit=1)
    assert len(captured) == 4
    for query in captured:
        assert "FOR NO KEY UPDATE" not in query["sql"]
        assert " AS line" not in query["sql"]  # what is picked to be written


def test_a_run_that_is_not_open_yet_has_handled_nobody() -> None:
    assert selection_sql(TERMS) == "w.migrated_at IS NULL"
    assert selection_sql(ConversionTerms(run=5, rates=RATES)) == (
        "w.migrated_at IS NULL AND (SELECT 1 FROM mana_migration_usermigration r "
        "WHERE r.user_id = w.user_id AND r.run_id = 5 LIMIT 1) IS NULL"
    )


def test_other_rates_have_other_bounds() -> None:
    sql = problem_sql("sqlite", Rates(1, 2, 3), per_user=False)
    assert "w.green BETWEEN 0 AND 2305843009213693951 AND w.blue BETWEEN 0 AND 1152921504606846975" in sql


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_a_record_is_multiplied_in_bigint_where_no_rate_can_take_it_beyond(vendor: str) -> None:
    """A quarter of BIGINT for each colour, at the highest rate there is."""
    assert (
        "CASE WHEN r.green BETWEEN 0 AND 2305843009 AND r.blue BETWEEN 0 AND 2305843009 "
        "AND r.red BETWEEN 0 AND 2305843009 THEN r.green * t.green + "
    ) in mismatch_sql(vendor)
