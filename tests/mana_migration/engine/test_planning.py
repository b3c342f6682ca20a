"""Cutting users into batches: by number, in the keys' order, none left out and none twice."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from mana_migration.engine import planning, reversal
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.planning import Slice
from mana_migration.models import UserMigration
from mana_migration.states import RunKind, UserStatus
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import RATES, convert, open_run
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def people(number: int) -> list[Any]:
    """Create users and return their keys in order."""
    return sorted(found.pk for found in make_wallets([(1, 0, 0)] * number))


def cut(keys: list[Any], size: int) -> list[Slice]:
    """Return the slices that these keys should be cut into."""
    parts = [keys[place : place + size] for place in range(0, len(keys), size)]
    return [Slice(str(part[0]), str(part[-1]), len(part)) for part in parts]


def plan(*, after: str = "", size: int, limit: int, run: int = 0, **terms: Any) -> list[Slice]:
    """Plan a migration."""
    return planning.plan_migration(
        connection, ConversionTerms(run=run, rates=RATES, **terms), after=after, size=size, limit=limit
    )


@pytest.mark.parametrize(("size", "limit"), [(1, 7), (2, 7), (3, 7), (7, 7), (8, 100), (3, 5), (4, 4)])
def test_users_are_cut_by_number(size: int, limit: int) -> None:
    keys = people(7)
    assert plan(size=size, limit=limit) == cut(keys[:limit], size)


def test_it_goes_on_behind_the_last_user_planned() -> None:
    keys = people(10)
    found: list[Slice] = []
    while more := plan(after=found[-1].last if found else "", size=2, limit=4):
        found += more
    assert found == cut(keys, 2)


def test_keys_are_ordered_as_numbers() -> None:
    keys = people(120)  # as text, 100 would come before 99
    assert [part.first for part in plan(size=10, limit=1_000)] == [str(key) for key in keys[::10]]


def test_users_who_are_done_are_not_planned_and_leave_no_gaps_in_size() -> None:
    keys = people(9)
    run = open_run()
    Wallet.objects.filter(pk__in=keys[1:4]).update(green=0, migrated_at="2026-01-01T00:00:00Z")
    UserMigration.objects.create(user_id=keys[5], run=run, batch_id=0, status=UserStatus.FAILED)
    left = [key for place, key in enumerate(keys) if place not in (1, 2, 3, 5)]
    assert plan(size=2, limit=100, run=run.pk) == cut(left, 2)
    assert planning.migration_keys(
        connection, ConversionTerms(run=run.pk, rates=RATES), first=str(keys[0]), last=str(keys[6])
    ) == [str(key) for key in left if key <= keys[6]]


def test_nobody_is_planned_where_nobody_is_left() -> None:
    assert plan(size=5, limit=10) == []


def test_a_rollback_plans_live_conversions_only() -> None:
    keys = people(6)
    run = open_run()
    for key in keys[:5]:
        convert(run, [key])
    UserMigration.objects.filter(user_id=keys[2]).update(status=UserStatus.ROLLED_BACK)
    back = open_run(RunKind.ROLLBACK)
    left = [keys[0], keys[1], keys[3], keys[4]]
    terms = reversal.ReversalTerms(run=back.pk, target_run=run.pk)
    assert reversal.plan_rollback(connection, terms, after="", size=3, limit=100) == cut(left, 3)
    assert reversal.rollback_keys(connection, terms, first=str(keys[0]), last=str(keys[5])) == list(map(str, left))


class TestAnySizes(TestCase):
    """Slices against list slicing."""

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 40))
    def test_any_number_of_users_is_cut_completely(self, users: int, size: int, limit: int) -> None:
        keys = people(users)
        assert plan(size=size, limit=limit) == cut(keys[:limit], size)
