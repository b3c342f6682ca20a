"""The reversal of a batch: exactly what was credited, exactly the wishes back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from mana_migration.domain.results import Totals
from mana_migration.engine import reversal
from mana_migration.engine.failures import Failure, kind_of
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.states import RunKind
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import convert, open_run, reverse
from tests.mana_migration.running import balanced, entries, records, wallet
from wishes import services
from wishes.models import ManaEntry
from wishes.rates import BIGINT_MAX

pytestmark = pytest.mark.django_db


def migrated(*balances: tuple[int, ...]) -> list[Any]:
    """Create users, convert them one by one in one run, and return their keys."""
    keys = [found.pk for found in make_wallets(balances)]
    run = open_run()
    for key in keys:
        assert convert(run, [key]).migrated == 1
    return keys


def rollback() -> MigrationRun:
    """Open a rollback."""
    return open_run(RunKind.ROLLBACK)


def test_a_reversal_debits_what_was_credited_and_gives_the_wishes_back() -> None:
    (key,) = migrated((3, 2, 1))
    run = rollback()
    with balanced():
        done = reverse(run, [key])
    assert done == Totals(selected=1, rolled_back=1, green=3, blue=2, red=1, mana=1230)
    assert wallet(key) == (3, 2, 1, 0, False)
    assert entries(key) == [("conversion", 1230, 1230), ("reversal", -1230, 0)]
    record = UserMigration.objects.get(user_id=key)
    assert (record.status, record.reversal_run_id, record.mana_debited, record.shortfall) == (
        "rolled_back",
        run.pk,
        1230,
        0,
    )
    assert record.reversed_at is not None
    assert ManaEntry.objects.get(kind="reversal").reference == f"reversal:{record.run_id}:{key}"


def test_what_was_earned_meanwhile_stays_and_wishes_are_added() -> None:
    (key,) = migrated((3, 2, 1))
    services.earn_mana(key, 70, reference="quest")
    with balanced():
        reverse(rollback(), [key])
    assert wallet(key) == (3, 2, 1, 70, False)


def test_a_user_who_spent_the_mana_is_skipped_with_what_is_lacking() -> None:
    spender, other = migrated((3, 2, 1), (1, 0, 0))
    services.spend_mana(spender, 30, reference="shop")
    with balanced():
        done = reverse(rollback(), [spender, other])
    expected = Totals(selected=2, rolled_back=1, skipped=1, green=1, mana=10)
    expected.skips["shortfall"] = 1
    assert done == expected
    assert wallet(spender) == (0, 0, 0, 1200, True)
    assert records(spender) == [("migrated", ""), ("skipped", "shortfall")]
    kept = UserMigration.objects.get(user_id=spender, status="skipped")
    assert (kept.shortfall, kept.mana_before, kept.error_message) == (30, 1200, reversal.PROBLEMS["shortfall"])


def test_a_write_off_debits_what_is_there_and_books_the_rest_as_shortfall() -> None:
    spender, broke, rich = migrated((3, 2, 1), (1, 0, 0), (1, 0, 0))
    services.spend_mana(spender, 30, reference="shop")
    services.spend_mana(broke, 10, reference="shop too")
    with balanced():
        done = reverse(rollback(), [spender, broke, rich], write_off=True)
    assert (done.rolled_back, done.mana, done.shortfall) == (3, 1210, 40)
    assert [wallet(key) for key in (spender, broke, rich)] == [
        (3, 2, 1, 0, False),
        (1, 0, 0, 0, False),
        (1, 0, 0, 0, False),
    ]
    # of what was spent the ledger says that it was written off, and then debited
    booked = {key: [(kind, amount) for kind, amount, _ in entries(key)[2:]] for key in (spender, broke)}
    assert booked == {
        spender: [("reversal", -1200), ("adjustment", 30), ("adjustment", -30)],
        broke: [("adjustment", 10), ("adjustment", -10)],
    }
    run = UserMigration.objects.get(user=broke).run_id
    assert list(ManaEntry.objects.filter(user=broke).order_by("pk").values_list("reference", flat=True))[2:] == [
        f"adjustment:shortfall:{run}:{broke}:written_off",
        f"adjustment:shortfall:{run}:{broke}:debited",
    ]


def test_a_conversion_worth_nothing_is_taken_back_without_an_entry() -> None:
    (key,) = migrated((0, 0, 0))
    with balanced():
        assert reverse(rollback(), [key]) == Totals(selected=1, rolled_back=1)
    assert entries(key) == []
    assert wallet(key) == (0, 0, 0, 0, False)


def test_records_can_be_deleted_with_the_reversal() -> None:
    keys = migrated((3, 2, 1), (1, 0, 0))
    services.spend_mana(keys[0], 30, reference="shop")
    run = open_run(RunKind.ROLLBACK, preserve_logs=False)
    with balanced():
        assert reverse(run, keys, preserve_logs=False).rolled_back == 1
    assert records(keys[1]) == []
    assert records(keys[0]) == [("migrated", ""), ("skipped", "shortfall")]
    assert [kind for kind, _, _ in entries(keys[1])] == ["conversion", "reversal"]


def test_a_second_batch_over_the_same_users_finds_nobody() -> None:
    keys = migrated((1, 0, 0), (0, 1, 0), (0, 0, 0))
    services.spend_mana(keys[0], 1, reference="shop")
    run = rollback()
    with balanced():
        assert reverse(run, keys).selected == 3
        assert reverse(run, keys) == Totals()
        assert reverse(rollback(), keys).skipped == 1


def test_a_user_taken_back_can_be_converted_and_taken_back_again() -> None:
    (key,) = migrated((3, 2, 1))
    with balanced():
        for _ in range(3):
            assert reverse(rollback(), [key]).rolled_back == 1
            assert convert(open_run(), [key]).migrated == 1
    assert [kind for kind, _, _ in entries(key)] == ["conversion", "reversal"] * 3 + ["conversion"]


def test_only_the_conversions_of_one_run_are_taken_back_where_that_was_asked_for() -> None:
    (first,) = migrated((1, 0, 0))
    (second,) = migrated((1, 0, 0))
    target = UserMigration.objects.get(user_id=second).run_id
    with balanced():
        assert reverse(rollback(), [first, second], target_run=target).selected == 1
    assert (wallet(first)[4], wallet(second)[4]) == (True, False)


def test_since_is_the_first_moment_and_until_the_last_but_one() -> None:
    (key,) = migrated((1, 0, 0))
    created = UserMigration.objects.get(user_id=key).created_at
    tick = timedelta(milliseconds=1)
    with balanced():
        assert reverse(rollback(), [key], since=created + tick).selected == 0
        assert reverse(rollback(), [key], until=created).selected == 0
        assert reverse(rollback(), [key], since=created, until=created + tick).selected == 1


def test_who_was_converted_by_the_old_system_is_answered_for_only_when_named() -> None:
    (key,) = migrated((1, 0, 0))
    MigrationRun.objects.filter(records__user_id=key).update(kind=RunKind.IMPORT)
    assert reverse(rollback(), [key]).selected == 0
    assert reverse(rollback(), [key], selected=True).skips == {"opening_balance": 1}
    assert wallet(key)[4]


@pytest.mark.parametrize("wishes", [(BIGINT_MAX // 10, 0, 0), (0, BIGINT_MAX // 100, 0), (0, 0, BIGINT_MAX // 1000)])
def test_the_largest_conversion_is_taken_back_exactly(wishes: tuple[int, int, int]) -> None:
    (key,) = migrated(wishes)
    with balanced():
        reverse(rollback(), [key])
    assert wallet(key) == (*wishes, 0, False)


def test_sums_beyond_bigint_fail_as_a_whole_so_that_the_batch_can_be_split() -> None:
    keys = migrated((BIGINT_MAX // 10, 0, 0), (BIGINT_MAX // 10, 0, 0))
    run = rollback()
    with balanced():
        with pytest.raises(DatabaseError) as caught:
            reverse(run, keys)
        assert kind_of(caught.value) is Failure.DATA
        assert all(reverse(run, [key]).rolled_back == 1 for key in keys)


@pytest.mark.django_db(transaction=True)
def test_the_guard_is_back_after_the_reversal() -> None:
    taken, kept = migrated((1, 0, 0), (1, 0, 0))
    reverse(rollback(), [taken])
    with pytest.raises(DatabaseError, match=r"use wishes\.services"), connection.cursor() as cursor:
        cursor.execute(f"UPDATE wishes_wallet SET migrated_at = NULL WHERE user_id = {kept}")


def test_the_forecast_is_what_the_reversal_does() -> None:
    keys = migrated((3, 2, 1), (1, 0, 0), (BIGINT_MAX // 10, 0, 0), (BIGINT_MAX // 10, 0, 0))
    services.spend_mana(keys[0], 30, reference="shop")
    run = rollback()
    terms = reversal.ReversalTerms(run=run.pk, since=timezone.now() - timedelta(hours=1))
    told = reversal.forecast(connection, terms)
    lacking = reversal.shortfalls(connection, terms, limit=5)
    done = Totals()
    for key in keys:
        done.add(reverse(run, [key], since=terms.since))
    assert told == done
    assert [row[1:] for row in lacking] == [(1230, 30)]
