"""The conversion of a batch: exact for every balance, nothing for those who cannot be converted."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connection
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from mana_migration.domain.results import Totals
from mana_migration.engine import conversion
from mana_migration.engine.failures import Failure, kind_of
from mana_migration.models import UserMigration
from mana_migration.states import UserStatus
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import RATES, convert, open_run
from tests.mana_migration.running import balanced, entries, records, wallet
from wishes.models import ManaEntry, Wallet
from wishes.rates import BIGINT_MAX, Rates

pytestmark = pytest.mark.django_db

LIMIT = BIGINT_MAX


def opened(*balances: tuple[int, ...]) -> list[Any]:
    """Create users with these balances, mana backed by an entry, and return their keys."""
    keys = []
    for found, balance in zip(make_wallets(balances), balances, strict=True):
        keys.append(found.pk)
        mana = (*balance, 0)[3]
        if mana:
            ManaEntry.objects.create(
                user_id=found.pk, amount=mana, balance_after=mana, kind="earn", reference=f"opened:{found.pk}"
            )
    return keys


def test_a_conversion_writes_the_record_the_entry_and_the_wallet() -> None:
    (key,) = opened((3, 2, 1, 50))
    run = open_run()
    with balanced():
        done = convert(run, [key])
    assert done == Totals(selected=1, migrated=1, green=3, blue=2, red=1, mana=1230)
    assert wallet(key) == (0, 0, 0, 1280, True)
    assert entries(key) == [("earn", 50, 50), ("conversion", 1230, 1280)]
    record = UserMigration.objects.get(user_id=key)
    assert (record.run_id, record.status, record.mana_before, record.mana_credited) == (run.pk, "migrated", 50, 1230)
    assert (record.green, record.blue, record.red) == (3, 2, 1)
    assert (record.error_class, record.error_message) == ("", "")
    assert ManaEntry.objects.get(kind="conversion").reference == f"conversion:{run.pk}:{key}"


def test_a_user_with_nothing_is_migrated_without_an_entry() -> None:
    (key,) = opened((0, 0, 0, 7))
    with balanced():
        assert convert(open_run(), [key]) == Totals(selected=1, migrated=1)
    assert wallet(key) == (0, 0, 0, 7, True)
    assert entries(key) == [("earn", 7, 7)]
    assert records(key) == [("migrated", "")]


def test_one_user_is_converted_as_a_thousand_are() -> None:
    keys = opened(*[(number % 7, number % 5, number % 3) for number in range(1_000)])
    with balanced():
        done = convert(open_run(), keys)
    assert (done.selected, done.migrated) == (1_000, 1_000)
    assert (
        done.mana
        == RATES.worth(done.green, done.blue, done.red)
        == sum(RATES.worth(number % 7, number % 5, number % 3) for number in range(1_000))
    )
    assert not Wallet.objects.filter(migrated_at=None).exists()


def test_users_outside_the_batch_are_left_alone() -> None:
    keys = opened(*[(1, 0, 0)] * 5)
    with balanced():
        assert convert(open_run(), keys[1:4]).migrated == 3
    assert [wallet(key)[4] for key in keys] == [False, True, True, True, False]


def test_a_second_batch_over_the_same_users_finds_nobody() -> None:
    keys = opened((1, 0, 0), (0, 1, 0))
    run = open_run()
    with balanced():
        convert(run, keys)
        assert convert(run, keys) == Totals()
        assert convert(open_run(), keys) == Totals()
    assert ManaEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("balance", "problem"),
    [
        ((-1, 0, 0), "negative_balance"),
        ((5, -1, 0), "negative_balance"),
        ((5, 5, -LIMIT - 1), "negative_balance"),
        ((LIMIT // 10 + 1, 0, 0), "overflow"),
        ((0, LIMIT // 100 + 1, 0), "overflow"),
        ((0, 0, LIMIT // 1000 + 1), "overflow"),
        ((0, 0, 1, LIMIT - 999), "overflow"),
        ((LIMIT, LIMIT, LIMIT, LIMIT), "overflow"),
    ],
)
def test_a_user_who_cannot_be_converted_fails_alone(balance: tuple[int, ...], problem: str) -> None:
    good, bad, better = opened((1, 0, 0), balance, (2, 0, 0))
    before = wallet(bad)
    with balanced():
        done = convert(open_run(), [good, bad, better])
    expected = Totals(selected=3, migrated=2, failed=1, green=3, mana=30)
    expected.errors[problem] = 1
    assert done == expected
    assert wallet(bad) == before
    record = UserMigration.objects.get(user_id=bad)
    assert (record.status, record.error_class, record.mana_credited) == ("failed", problem, 0)
    assert (record.green, record.blue, record.red, record.mana_before) == before[:4]
    assert record.error_message == conversion.PROBLEMS[problem]


@pytest.mark.parametrize(
    "balance",
    [
        (LIMIT // 10, 0, 0, LIMIT % 10),
        (0, LIMIT // 100, 0, LIMIT % 100),
        (0, 0, LIMIT // 1000, LIMIT % 1000),
        (0, 0, 1, LIMIT - 1000),
        (0, 0, 0, LIMIT),
    ],
)
def test_a_wallet_may_reach_the_limit_exactly(balance: tuple[int, ...]) -> None:
    (key,) = opened(balance)
    with balanced():
        assert convert(open_run(), [key]).migrated == 1
    assert wallet(key) == (0, 0, 0, LIMIT, True)


def test_users_who_cannot_be_converted_are_skipped_where_that_was_asked_for() -> None:
    keys = opened((-1, 0, 0), (1, 0, 0), (LIMIT, 0, 0))
    with balanced():
        done = convert(open_run(), keys, skip_invalid=True)
    assert (done.selected, done.migrated, done.skipped, done.failed) == (3, 1, 2, 0)
    assert done.skips == {"negative_balance": 1, "overflow": 1}
    assert [records(key) for key in keys] == [
        [("skipped", "negative_balance")],
        [("migrated", "")],
        [("skipped", "overflow")],
    ]


@pytest.mark.parametrize("terms", [{"skip_invalid": True}, {"per_user": True}])
def test_a_closer_look_finds_mana_that_no_entry_backs(terms: dict[str, bool]) -> None:
    found, backed = make_wallets([(1, 0, 0, 5)])[0].pk, opened((1, 0, 0, 5))[0]
    done = convert(open_run(), [found, backed], **terms)
    assert (done.errors + done.skips) == {"orphaned_mana": 1}
    assert done.migrated == 1
    assert wallet(found) == (1, 0, 0, 5, False)


def test_a_closer_look_finds_a_live_record_of_an_unmigrated_wallet() -> None:
    (key,) = opened((1, 0, 0))
    older = open_run()
    UserMigration.objects.create(user_id=key, run=older, batch_id=0, status=UserStatus.MIGRATED)
    done = convert(open_run(), [key], per_user=True)
    assert done.errors == {"migration_inconsistency": 1}


def test_sums_beyond_bigint_fail_as_a_whole_so_that_the_batch_can_be_split() -> None:
    keys = opened((LIMIT // 10, 0, 0), (LIMIT // 10, 0, 0))
    run = open_run()
    with balanced():
        with pytest.raises(DatabaseError) as caught:
            convert(run, keys)
        assert kind_of(caught.value) is Failure.DATA
        assert not UserMigration.objects.exists()
        assert all(convert(run, [key]).mana == LIMIT // 10 * 10 for key in keys)


def test_a_user_whom_the_run_has_dealt_with_is_left_alone() -> None:
    dealt, free = opened((1, 0, 0), (1, 0, 0))
    run = open_run()
    with balanced():
        UserMigration.objects.create(
            user_id=dealt, run=run, batch_id=0, status=UserStatus.SKIPPED, error_class="rolled_back_during_run"
        )
        assert convert(run, [dealt, free]).selected == 1
        UserMigration.objects.filter(status=UserStatus.SKIPPED).delete()
    assert not wallet(dealt)[4]


def test_only_users_who_failed_before_are_retried_where_that_was_asked_for() -> None:
    failed, fresh = opened((-1, 0, 0), (1, 0, 0))
    convert(open_run(), [failed])
    Wallet.objects.filter(pk=failed).update(green=1)
    with balanced():
        assert convert(open_run(), [failed, fresh], retry_failed=True).selected == 1
    assert (wallet(failed)[4], wallet(fresh)[4]) == (True, False)


def test_a_cohort_is_the_same_share_of_users_every_time() -> None:
    keys = opened(*[(1, 0, 0)] * 400)
    first, second = open_run(), None
    with balanced():
        chosen = convert(first, keys, cohort=2_500).selected
        second = open_run()
        assert convert(second, keys, cohort=2_500).selected == 0
        rest = convert(second, keys, cohort=10_000).selected
    assert 50 < chosen < 150
    assert chosen + rest == 400


def test_other_rates_are_those_of_the_run() -> None:
    (key,) = opened((3, 2, 1))
    rates = Rates(1, 2, 10**9)
    convert(open_run(rates=rates), [key], rates=rates)
    assert wallet(key)[3] == 3 + 4 + 10**9


def test_the_forecast_is_what_the_conversion_does() -> None:
    keys = opened((3, 2, 1), (-1, 0, 0), (LIMIT, 0, 0), (0, 0, 0), (LIMIT // 10, 0, 0), (LIMIT // 10, 0, 0))
    run = open_run()
    told = conversion.forecast(connection, conversion.ConversionTerms(run=run.pk, rates=RATES))
    done = Totals()
    for key in keys:
        done.add(convert(run, [key]))
    assert told == done
    assert told.green == 3 + 2 * (LIMIT // 10)


amounts = st.one_of(
    st.integers(-LIMIT - 1, LIMIT),
    st.integers(-3, 50),
    st.sampled_from([0, LIMIT // 10, LIMIT // 100, LIMIT // 1000, LIMIT // 4, LIMIT // 40, LIMIT]).flatmap(
        lambda limit: st.integers(limit - 2, min(limit + 2, LIMIT))
    ),
)
mana = amounts.filter(lambda amount: amount >= 0)


class TestAnyBalance(TestCase):
    """The engine against three lines of Python, on balances of any size."""

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(amounts, amounts, amounts, mana), min_size=1, max_size=4))
    def test_any_balance_is_converted_exactly_or_left_alone(self, balances: list[tuple[int, int, int, int]]) -> None:
        run, keys = open_run(), opened(*balances)
        with balanced():
            for key, balance in zip(keys, balances, strict=True):
                *wishes, before = balance
                worth = RATES.worth(*wishes)
                done = convert(run, [key])
                if min(wishes) < 0:
                    assert (done.errors, wallet(key)) == ({"negative_balance": 1}, (*balance, False))
                elif worth + before > LIMIT:
                    assert (done.errors, wallet(key)) == ({"overflow": 1}, (*balance, False))
                else:
                    assert (done.mana, wallet(key)) == (worth, (0, 0, 0, worth + before, True))
