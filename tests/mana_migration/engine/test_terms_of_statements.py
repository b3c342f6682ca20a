"""The statements themselves where rows cannot tell: shortcuts, the order of judgements, locks, and what is forecast."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.results import Totals
from mana_migration.engine import conversion, reversal
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.integrity.records import mismatch_sql
from mana_migration.engine.reversal import ReversalTerms
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import RATES

TERMS = ConversionTerms(run=0, rates=RATES)


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


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_a_record_is_multiplied_in_bigint_where_no_rate_can_take_it_beyond(vendor: str) -> None:
    """A quarter of BIGINT for each colour, at the highest rate there is."""
    assert (
        "CASE WHEN r.green BETWEEN 0 AND 2305843009 AND r.blue BETWEEN 0 AND 2305843009 "
        "AND r.red BETWEEN 0 AND 2305843009 THEN r.green * t.green + "
    ) in mismatch_sql(vendor)
