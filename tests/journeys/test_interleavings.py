"""Every order in which the small steps of a migration, a spend and a rollback of one user can happen, on PostgreSQL.

Whatever the order, the outcome must be that of some order of the whole operations one after the other, and all rules
must hold.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import permutations
from math import factorial, prod
from typing import Any

import pytest

from tests.support import oracle
from tests.support.scene import MIGRATE, ROLLBACK, SPEND, STEPS, Scene
from tests.support.stepping import orders, stage
from wishes import services
from wishes.models import Wallet

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]


def serial_orders(steps: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Return the orders in which one whole operation follows the other."""
    return [tuple(name for name in names for _ in range(steps[name])) for names in permutations(steps)]


def walk_all(steps: Mapping[str, int], walked: list[tuple[str, ...]], *, migrated: bool = False) -> tuple[int, int]:
    """Walk these orders; return how many different outcomes and how many postponed steps there were."""
    serial = serial_orders(steps)
    scene = Scene(len(serial) + len(walked), migrated=migrated)
    before = oracle.endowment()
    users = iter(scene.users)
    with stage(*steps) as on:

        def outcome(order: tuple[str, ...]) -> Any:
            user = next(users)
            scripts = {name: script for name, script in scene.scripts(user).items() if name in steps}
            return scene.act(on, user, order, scripts)

        allowed = {outcome(order) for order in serial}
        assert on.postponed == 0
        for order in walked:
            found = outcome(order)
            assert found in allowed, f"{order} ends with {found}, which no serial order does: {allowed}"
        postponed = on.postponed
    oracle.assert_books_balance(expected=before)
    return len(allowed), postponed


def test_there_are_as_many_orders_as_combinatorics_says() -> None:
    for steps in (STEPS, {MIGRATE: 4, SPEND: 3}, {SPEND: 3, ROLLBACK: 3}):
        found = set(orders(steps))
        assert len(found) == factorial(sum(steps.values())) // prod(map(factorial, steps.values()))
    assert len(set(orders(STEPS))) == 4200


@pytest.mark.parametrize(
    ("names", "migrated", "count", "different"),
    [
        ((MIGRATE, SPEND), False, 35, 2),
        ((MIGRATE, ROLLBACK), False, 35, 2),
        ((MIGRATE, ROLLBACK), True, 35, 1),  # a user rolled back during a run is not converted again by it
        ((SPEND, ROLLBACK), True, 20, 2),
    ],
)
def test_every_order_of_two_ends_like_one_after_the_other(
    names: tuple[str, ...], migrated: bool, count: int, different: int
) -> None:
    steps = {name: STEPS[name] for name in names}
    walked = list(orders(steps))
    assert len(walked) == count
    outcomes, postponed = walk_all(steps, walked, migrated=migrated)
    assert outcomes == different
    if SPEND in steps:
        assert postponed > 0  # somebody had to wait


@pytest.mark.parametrize("migrated", [False, True])
def test_a_sample_of_the_orders_of_three_ends_like_one_after_the_other(migrated: bool) -> None:
    walked = random.Random(4).sample(list(orders(STEPS)), 100)
    outcomes, postponed = walk_all(STEPS, walked, migrated=migrated)
    assert outcomes > 1
    assert postponed > 0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("migrated", [False, True])
def test_every_order_of_three_ends_like_one_after_the_other(migrated: bool) -> None:
    walked = list(orders(STEPS))
    assert len(walked) == 4200
    walk_all(STEPS, walked, migrated=migrated)


def test_without_the_lock_some_order_ends_like_no_serial_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_locked", Wallet.objects.using)
    steps = {MIGRATE: 4, SPEND: 3}
    with pytest.raises(AssertionError, match=r"which no serial order does|books do not balance"):
        walk_all(steps, list(orders(steps)))
