"""Convert on touch: a spender's own conversion, in the spending transaction, counted in the open run."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.engine import conversion, totals
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import migration, operation, runs, selected_users
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunKind, RunStatus
from tests.support import oracle
from wishes import services
from wishes.errors import InsufficientBalanceError
from wishes.models import Wallet
from wishes.rates import BIGINT_MAX

pytestmark = pytest.mark.django_db

SOMEBODY = Actor("somebody", "here")


@pytest.fixture(autouse=True)
def switched_on(settings: Any) -> None:
    settings.MANA_MIGRATION_CONVERT_ON_TOUCH = True


@pytest.fixture
def user(django_user_model: Any) -> Any:
    user = django_user_model.objects.create(username="someone")
    Wallet.objects.create(user=user, green=1, red=2)
    return user


def open_run(**options: Any) -> MigrationRun:
    return runs.create_run(
        using="default",
        kind=RunKind.MIGRATION,
        options=MigrationOptions(**options).as_dict(),
        rates={"green": 10, "blue": 100, "red": 1000},
        controls=Controls(),
        actor=SOMEBODY,
    )


@pytest.mark.parametrize("kind", ["wishes", "mana"])
def test_a_spender_is_converted_first_and_counted_in_the_open_run(user: Any, kind: str) -> None:
    run, before = open_run(), oracle.endowment()
    if kind == "wishes":
        receipt = services.spend_wishes(user, "red", 1, reference="order")
    else:
        receipt = services.spend_mana(user, 1000, reference="order")
    assert receipt == services.Receipt("order", "mana", -1000, 1010)
    record = UserMigration.objects.get(user=user)
    assert (record.run, record.status, record.green, record.red, record.mana_credited) == (run, "migrated", 1, 2, 2010)
    batch = MigrationBatch.objects.get()
    assert (batch.status, batch.migrated, batch.mana, batch.planned) == ("done", 1, 2010, 1)
    assert totals.run_totals(run, "default").migrated == 1
    oracle.assert_books_balance(expected=before)


def test_the_run_then_ends_as_if_a_batch_had_done_it(user: Any, django_user_model: Any) -> None:
    other = django_user_model.objects.create(username="other")
    Wallet.objects.create(user=other, blue=3)
    run = open_run()
    services.spend_wishes(user, "green", 1, reference="order")
    done = operation.work_on_run(run.pk, RunContext(actor=SOMEBODY))
    assert (done.status, done.totals.migrated, done.totals.mana) == ("completed", 2, 2310)
    oracle.assert_everyone_is_accounted_for(run.pk)


def test_reading_and_earning_convert_nobody(user: Any) -> None:
    open_run()
    services.read_balance(user)
    services.earn_wishes(user, "red", 1, reference="quest")
    assert not services.read_balance(user).migrated


def test_a_repeated_spend_converts_nobody(user: Any, settings: Any) -> None:
    settings.MANA_MIGRATION_CONVERT_ON_TOUCH = False
    services.spend_wishes(user, "red", 1, reference="order")
    settings.MANA_MIGRATION_CONVERT_ON_TOUCH = True
    open_run()
    assert services.spend_wishes(user, "red", 1, reference="order").repeated
    assert not services.read_balance(user).migrated


def test_a_spend_that_fails_takes_the_conversion_back(user: Any) -> None:
    open_run()
    with pytest.raises(InsufficientBalanceError, match="has 2010 mana and needs 3000"):
        services.spend_wishes(user, "red", 3, reference="order")
    assert services.read_balance(user) == services.Balance(user=user.pk, green=1, red=2, wishes_worth=2010)
    assert not MigrationBatch.objects.exists()


def test_the_callers_transaction_takes_the_conversion_back(user: Any) -> None:
    open_run()
    with pytest.raises(RuntimeError), transaction.atomic():
        services.spend_wishes(user, "red", 1, reference="order")
        raise RuntimeError
    assert not services.read_balance(user).migrated
    assert not UserMigration.objects.exists()


def leave_it_off(user: Any, settings: Any) -> None:
    settings.MANA_MIGRATION_CONVERT_ON_TOUCH = False
    open_run()


def open_none(user: Any, settings: Any) -> None:
    pass


def pause(user: Any, settings: Any) -> None:
    runs.pause_run(open_run().pk, actor=SOMEBODY, reason="lunch")


def stop(user: Any, settings: Any) -> None:
    runs.stop_run(open_run().pk, actor=SOMEBODY, reason="enough")


def migrate_a_few(user: Any, settings: Any) -> None:
    open_run(limit=10)


def have_the_user_failed_before(user: Any, settings: Any) -> None:
    run = open_run()
    Wallet.objects.filter(pk=user.pk).update(blue=-1)
    batch = MigrationBatch.objects.create(run=run, first_user=str(user.pk), last_user=str(user.pk), planned=1)
    conversion.convert(connection, migration.terms_of(run), selected_users.task_of(batch.pk, str(user.pk)))
    Wallet.objects.filter(pk=user.pk).update(blue=0)


def roll_the_user_back(user: Any, settings: Any) -> None:
    open_run()
    services.spend_wishes(user, "green", 1, reference="earlier")
    services.earn_mana(user, 10, reference="refund")
    operation.execute(Rollback(RollbackOptions(users=(str(user.pk),))), RunContext(actor=SOMEBODY))


def run_a_rollback(user: Any, settings: Any) -> None:
    runs.create_run(
        using="default",
        kind=RunKind.ROLLBACK,
        options=RollbackOptions(everything=True).as_dict(),
        rates={},
        controls=Controls(),
        actor=SOMEBODY,
    )


@pytest.mark.parametrize(
    "given",
    [
        leave_it_off,
        open_none,
        pause,
        stop,
        migrate_a_few,
        have_the_user_failed_before,
        roll_the_user_back,
        run_a_rollback,
    ],
)
def test_otherwise_the_user_spends_wishes(user: Any, settings: Any, given: Any) -> None:
    given(user, settings)
    records = UserMigration.objects.count()
    receipt = services.spend_wishes(user, "red", 1, reference="order")
    assert receipt == services.Receipt("order", "red", -1, 1)
    assert UserMigration.objects.count() == records


@pytest.mark.parametrize("balances", [{"blue": -1}, {"mana": BIGINT_MAX}])
@pytest.mark.parametrize("skip_invalid", [False, True])
def test_a_user_who_cannot_be_converted_goes_on_in_wishes_and_leaves_no_failure(
    user: Any, balances: dict[str, int], skip_invalid: bool
) -> None:
    run = open_run(skip_invalid=skip_invalid)
    Wallet.objects.filter(pk=user.pk).update(**balances)
    assert services.spend_wishes(user, "red", 1, reference="order").currency == "red"
    assert not UserMigration.objects.exists()
    assert not MigrationBatch.objects.exists()
    assert totals.run_totals(run, "default").failed == 0


def test_only_users_of_the_runs_share_are_converted(django_user_model: Any) -> None:
    open_run(cohort=5000)
    people = [django_user_model.objects.create(username=f"user{number}") for number in range(40)]
    for person in people:
        Wallet.objects.create(user=person, red=1)
    currencies = {
        person.pk: services.spend_wishes(person, "red", 1, reference=f"order:{person.pk}").currency for person in people
    }
    assert 5 < sum(currency == "mana" for currency in currencies.values()) < 35


def test_wishes_that_come_late_are_worth_what_the_users_own_run_paid(user: Any, settings: Any) -> None:
    run = open_run()
    services.spend_wishes(user, "green", 1, reference="order")
    runs.change_status(run.pk, RunStatus.STOPPED, actor=SOMEBODY, using="default")
    settings.WISHES_RATES = {"green": 1, "blue": 1, "red": 1}
    assert services.earn_wishes(user, "red", 1, reference="quest").amount == 1000
    assert services.spend_wishes(user, "blue", 1, reference="order:2").amount == -100
