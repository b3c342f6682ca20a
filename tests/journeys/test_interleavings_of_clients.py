"""Every order of the steps of two clients of the wallets, or of a client and the migration, on PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest
from django.db import transaction

from mana_migration.engine import totals
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import runs
from tests.support import oracle
from tests.support.scene import MIGRATE, SOMEBODY, SPEND, Scene
from tests.support.stepping import Stage, orders, stage
from wishes import services
from wishes.errors import ReferenceConflictError
from wishes.models import ManaEntry, Wallet

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

ONE, OTHER = "one", "other"
TWO_CLIENTS = list(orders({ONE: 3, OTHER: 3}))

Steps = Generator[None, None, Any]


def earn(user: Any, amount: int, reference: str) -> Steps:
    with transaction.atomic():
        services.lock_wallets(user)
        yield
        receipt = services.earn_mana(user, amount, reference=reference)
        yield
    return receipt


def results(on: Stage) -> list[Any]:
    return [on.actors[name].result or on.actors[name].error for name in (ONE, OTHER)]


def test_two_retries_of_one_operation_book_it_once() -> None:
    scene = Scene(len(TWO_CLIENTS))
    before = oracle.endowment()
    with stage(ONE, OTHER) as on:
        for user, order in zip(scene.users, TWO_CLIENTS, strict=True):
            on.walk(order, {name: lambda u=user: earn(u, 7, f"quest:{u}") for name in (ONE, OTHER)})
            assert sorted(receipt.repeated for receipt in results(on)) == [False, True]
            assert {receipt.balance_after for receipt in results(on)} == {107}
        assert on.postponed
    oracle.assert_books_balance(expected=before)


def test_one_reference_never_serves_two_users() -> None:
    scene = Scene(2 * len(TWO_CLIENTS))
    with stage(ONE, OTHER) as on:
        for number, order in enumerate(TWO_CLIENTS):
            pair = dict(zip((ONE, OTHER), scene.users[2 * number :], strict=False))
            scripts: Mapping[str, Callable[[], Steps]] = {
                name: lambda u=user, n=number: earn(u, 7, f"coupon:{n}") for name, user in pair.items()
            }
            on.walk(order, scripts)
            kinds = Counter(type(result) for result in results(on))
            assert kinds == {services.Receipt: 1, ReferenceConflictError: 1}
            assert ManaEntry.objects.filter(reference=f"coupon:{number}").count() == 1
    oracle.assert_books_balance()


def test_two_first_touches_create_one_wallet_and_lose_nothing(django_user_model: Any) -> None:
    with stage(ONE, OTHER) as on:
        for number, order in enumerate(TWO_CLIENTS):
            user = django_user_model.objects.create(username=f"new-{number}").pk
            on.walk(order, {name: lambda u=user, n=name: earn(u, 7, f"{n}:{u}") for name in (ONE, OTHER)})
            assert sorted(receipt.balance_after for receipt in results(on)) == [7, 14]
            assert Wallet.objects.get(pk=user).mana == 14
        assert on.postponed
    oracle.assert_books_balance()


def test_two_rollbacks_of_one_user_take_one_conversion_back() -> None:
    scene = Scene(len(TWO_CLIENTS), migrated=True)
    before = oracle.endowment()
    with stage(ONE, OTHER) as on:
        for user, order in zip(scene.users, TWO_CLIENTS, strict=True):
            on.walk(order, {name: lambda u=user: scene.roll_back(u) for name in (ONE, OTHER)})
            assert sorted(rolled_back for rolled_back, _ in results(on)) == [0, 1]
            assert services.read_balance(user) == services.Balance(user=user, red=2, mana=100, wishes_worth=2000)
    oracle.assert_books_balance(expected=before)


class TestConvertOnTouch:
    @pytest.fixture(autouse=True)
    def switched_on(self, settings: Any) -> None:
        settings.MANA_MIGRATION_CONVERT_ON_TOUCH = True

    def test_a_batch_and_a_touch_convert_a_user_once(self) -> None:
        steps = {MIGRATE: 4, SPEND: 3}
        walked = list(orders(steps))
        scene = Scene(len(walked))
        before = oracle.endowment()
        with stage(*steps) as on:
            for user, order in zip(scene.users, walked, strict=True):
                scene.act(on, user, order, {name: scene.scripts(user)[name] for name in steps})
                assert on.actors[SPEND].result == ("mana", -2000), (order, on.actors[SPEND].error)
                assert services.read_balance(user) == services.Balance(user=user, mana=100, migrated=True)
                assert UserMigration.objects.filter(user_id=user).count() == 1
            assert on.postponed
        oracle.assert_books_balance(expected=before)
        assert totals.run_totals(MigrationRun.objects.get(pk=scene.run.pk), "default").migrated == len(walked)

    def test_nobody_waits_for_a_run_that_is_being_stopped(self) -> None:
        steps = {"stop": 2, SPEND: 3}
        walked = list(orders(steps))

        def stop(scene: Scene) -> Steps:
            with transaction.atomic():
                runs.stop_run(scene.run.pk, actor=SOMEBODY, reason="enough")
                yield

        users = iter((scene := Scene(len(walked))).users)
        before = oracle.endowment()
        currencies: Counter[str] = Counter()
        with stage(*steps) as on:
            for order in walked:
                user = next(users)
                on.walk(order, {"stop": lambda: stop(scene), SPEND: lambda u=user: scene.spend(u)})
                assert on.actors["stop"].error is None
                currencies[on.actors[SPEND].result[0]] += 1
                scene.run = scene.open_run()
        assert not on.waited[SPEND]
        assert set(currencies) == {"mana", "red"}, "some were converted before the run ended, some were too late"
        oracle.assert_books_balance(expected=before)
