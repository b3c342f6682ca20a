"""The statements of reversals where one batch cannot tell: locks, forecasts, shortfalls, and who is planned."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from mana_migration.domain.results import Totals
from mana_migration.engine import reversal
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.states import RunKind
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import convert, open_run, reverse
from wishes import services

TERMS = ReversalTerms(run=0)


@pytest.mark.django_db
class TestFourUsers:
    """Rich and even can be rolled back, poor lacks 30 and broke all of his 10."""

    @pytest.fixture(autouse=True)
    def _users(self) -> None:
        wallets = make_wallets([(3, 2, 1), (0, 0, 1), (5, 0, 0), (1, 0, 0)])
        self.poor, self.rich, self.even, self.broke = (wallet.pk for wallet in wallets)
        self.run = open_run()
        convert(self.run, [wallet.pk for wallet in wallets])
        services.spend_mana(self.poor, 30, reference="shop")
        services.earn_mana(self.rich, 7, reference="quest")
        services.spend_mana(self.broke, 10, reference="pub")

    def record(self, key: Any) -> int:
        """Return the id of a user's conversion."""
        return UserMigration.objects.get(user_id=key, run=self.run).pk

    def test_a_forecast_counts_who_is_taken_back_and_who_is_left(self) -> None:
        expected = Totals(selected=4, rolled_back=2, skipped=2, green=5, red=1, mana=1050)
        expected.skips["shortfall"] = 2
        assert reversal.forecast(connection, TERMS) == expected
        assert reversal.forecast(connection, ReversalTerms(run=0, write_off=True)) == Totals(
            selected=4, rolled_back=4, green=9, blue=2, red=2, mana=2250, shortfall=40
        )

    def test_a_forecast_of_some_keys_takes_the_first_and_the_last(self) -> None:
        rich, even = str(self.rich), str(self.even)
        assert reversal.forecast(connection, TERMS, keys=(rich, even)).mana == 1050
        assert reversal.forecast(connection, TERMS, keys=(rich, rich)).mana == 1000
        assert reversal.forecast(connection, TERMS, keys=(even, even)).mana == 50

    def test_the_largest_shortfalls_come_first_and_those_of_the_old_system_not_at_all(self) -> None:
        poor, broke = (self.record(self.poor), 1230, 30), (self.record(self.broke), 10, 10)
        assert reversal.shortfalls(connection, TERMS, limit=5) == [poor, broke]
        assert reversal.shortfalls(connection, TERMS, limit=1) == [poor]
        assert reversal.shortfalls(connection, ReversalTerms(run=0, write_off=True), limit=5) == [poor, broke]
        one = (str(self.broke), str(self.broke))
        assert reversal.shortfalls(connection, TERMS, limit=5, keys=one) == [broke]
        MigrationRun.objects.filter(pk=self.run.pk).update(kind=RunKind.IMPORT)
        assert reversal.shortfalls(connection, ReversalTerms(run=0, selected=True), limit=5) == []

    def test_of_equal_shortfalls_the_older_record_comes_first(self) -> None:
        services.spend_mana(self.even, 10, reference="shop too")
        found = reversal.shortfalls(connection, TERMS, limit=5)
        assert [row[0] for row in found] == [self.record(key) for key in (self.poor, self.even, self.broke)]

    def test_the_largest_is_what_lacks_most_however_little_was_credited(self) -> None:
        services.spend_mana(self.even, 50, reference="shop too")
        found = reversal.shortfalls(connection, TERMS, limit=5)
        assert found == [
            (self.record(self.even), 50, 50),
            (self.record(self.poor), 1230, 30),
            (self.record(self.broke), 10, 10),
        ]

    def test_whoever_is_left_keeps_a_record_of_what_was_there_and_what_is_lacking(self) -> None:
        back = open_run(RunKind.ROLLBACK)
        done = reverse(back, [self.poor, self.broke])
        assert done.skips == {"shortfall": 2}
        kept = UserMigration.objects.filter(run=back).order_by("user_id")
        assert [
            (row.user_id, row.status, row.green, row.blue, row.red, row.mana_before, row.mana_credited, row.shortfall)
            for row in kept
        ] == [(self.poor, "skipped", 0, 0, 0, 1200, 0, 30), (self.broke, "skipped", 0, 0, 0, 0, 0, 10)]
        assert {(row.error_class, row.error_message) for row in kept} == {("shortfall", reversal.PROBLEMS["shortfall"])}
        assert all(row.mana_debited is None and row.reversal_run_id is None for row in kept)

    def test_a_write_off_is_on_the_record_to_the_unit(self) -> None:
        back = open_run(RunKind.ROLLBACK)
        done = reverse(back, [self.poor, self.rich, self.even, self.broke], write_off=True)
        assert (done.rolled_back, done.mana, done.shortfall) == (4, 2250, 40)
        rows = UserMigration.objects.filter(run=self.run).order_by("user_id")
        assert [(row.mana_debited, row.shortfall, row.reversal_run_id) for row in rows] == [
            (1200, 30, back.pk), (1000, 0, back.pk), (50, 0, back.pk), (0, 10, back.pk),
        ]  # fmt: skip

    def test_an_opening_balance_that_is_named_has_no_shortfall(self) -> None:
        MigrationRun.objects.filter(pk=self.run.pk).update(kind=RunKind.IMPORT)
        back = open_run(RunKind.ROLLBACK)
        assert reverse(back, [self.poor], selected=True).skips == {"opening_balance": 1}
        kept = UserMigration.objects.get(run=back)
        assert (kept.shortfall, kept.error_message) == (None, reversal.PROBLEMS["opening_balance"])

    def test_those_still_to_be_taken_back_are_planned_and_found_in_their_range(self) -> None:
        back = open_run(RunKind.ROLLBACK)
        terms = ReversalTerms(run=back.pk)
        everybody = [str(key) for key in (self.poor, self.rich, self.even, self.broke)]
        first, last = everybody[0], everybody[-1]
        assert reversal.rollback_keys(connection, terms, first=first, last=last) == everybody
        assert reversal.rollback_keys(connection, terms, first=everybody[1], last=everybody[2]) == everybody[1:3]
        reverse(back, [self.rich])
        reverse(back, [self.broke])
        left = [everybody[0], everybody[2]]
        assert reversal.rollback_keys(connection, terms, first=first, last=last) == left
        cut = reversal.plan_rollback(connection, terms, after="", size=1, limit=5)
        assert [(part.first, part.last) for part in cut] == [(key, key) for key in left]
        other = ReversalTerms(run=back.pk, target_run=self.run.pk + 99)
        assert reversal.rollback_keys(connection, other, first=first, last=last) == []

    def test_bounds_of_time_narrow_what_is_planned(self) -> None:
        created = UserMigration.objects.get(pk=self.record(self.poor)).created_at
        tick = timedelta(milliseconds=1)
        for bounds, found in (
            ({"since": created}, 4), ({"since": created + tick}, 0), ({"until": created}, 0),
            ({"until": created + tick}, 4), ({"since": created, "until": created + tick}, 4),
        ):  # fmt: skip
            terms = ReversalTerms(run=0, **bounds)
            assert reversal.forecast(connection, terms).selected == found
            cut = reversal.plan_rollback(connection, terms, after="", size=9, limit=1)
            assert [part.first for part in cut] == [str(self.poor)] * (found > 0)
