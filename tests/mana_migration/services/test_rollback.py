"""Rolling back: which runs are closed by it, what is told, what is frozen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from django.db import connection, transaction

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.domain.results import BatchResult
from mana_migration.errors import NothingToRollBackError, RunConflictError, RunNotFoundError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import dry_run, operation, runs
from mana_migration.services.context import Actor, RunContext, StopFlag
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from tests.factories import WalletFactory
from tests.mana_migration.running import balanced, people, records, status, wallet
from tests.support.oracle import assert_nothing_changes
from wishes import guards, services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

OLGA = Actor("olga", "db-1")


def convert(**values: Any) -> int:
    run = operation.execute(
        Migration(MigrationOptions(controls=Controls(delay=0.0), **values)), RunContext(actor=OLGA)
    ).run
    assert run is not None
    return run


def back(**values: Any) -> Any:
    told = {name: values.pop(name) for name in ("progress", "expecting", "notice", "stop") if name in values}
    controls = Controls(batch_size=values.pop("batch_size", 50), delay=0.0)
    return operation.execute(Rollback(RollbackOptions(controls=controls, **values)), RunContext(actor=OLGA, **told))


def test_the_selection_is_frozen_at_the_start() -> None:
    people(6)
    convert()
    run = Rollback(RollbackOptions(everything=True)).open(RunContext(actor=OLGA))
    until = datetime.fromisoformat(run.options["until"])
    newest = UserMigration.objects.order_by("-created_at").values_list("created_at", flat=True)[0]
    assert newest < until
    UserMigration.objects.all()  # a conversion dated after the start is none of its business
    with balanced():
        done = operation.work_on_run(run.pk, RunContext(actor=OLGA))
    assert done.totals.rolled_back == 6


@pytest.mark.parametrize("preserve_logs", [True, False])
def test_a_rollback_ends_although_a_wallet_has_lost_its_flag_and_lists_the_user(preserve_logs: bool) -> None:
    keys, stop, batches = people(10), StopFlag(), list[int]()
    convert()
    with transaction.atomic(), guards.announce_reversal(connection):
        Wallet.objects.filter(pk=keys[3]).update(migrated_at=None)

    def count(result: BatchResult) -> None:
        batches.append(result.batch)
        if len(batches) > 20:
            stop.request()

    done = back(everything=True, preserve_logs=preserve_logs, stop=stop, progress=count)
    assert (done.status, len(batches)) == ("completed", 1)
    assert (done.totals.rolled_back, dict(done.totals.skips)) == (9, {"migration_inconsistency": 1})
    assert records(keys[3])[-1] == ("skipped", "migration_inconsistency")
    assert wallet(keys[3]) == (0, 0, 0, 1230, False)


def test_progress_and_the_expected_number_are_told() -> None:
    people(15)
    convert()
    expected: list[int] = []
    sizes: list[int] = []
    with balanced():
        back(
            everything=True, batch_size=5, expecting=expected.append,
            progress=lambda result: sizes.append(result.totals.rolled_back),
        )  # fmt: skip
    assert (expected, sizes) == ([15], [5, 5, 5])


def test_an_interrupted_rollback_is_gone_on_with() -> None:
    keys = people(15)
    first = convert()
    stop = StopFlag()
    with balanced():
        done = back(everything=True, batch_size=5, stop=stop, progress=lambda _: stop.request(2))
        assert (done.status, done.totals.rolled_back, status(first)) == ("running", 5, "completed")
        again = back(everything=True, batch_size=5)
    assert (again.run, again.status, again.totals.rolled_back) == (done.run, "completed", 15)
    assert status(first) == "rolled_back"
    assert not any(wallet(key)[4] for key in keys)


def test_the_open_migration_is_stopped_and_that_is_told() -> None:
    people(3)
    convert()
    people(3)
    opened = Migration(MigrationOptions()).open(RunContext(actor=OLGA))
    said: list[str] = []
    back(everything=True, notice=said.append)
    assert said[0] == f"run {opened.pk} was open: it is stopped, since a mass rollback begins"
    assert status(opened.pk) == "stopped"


def test_the_open_migration_itself_can_be_taken_back() -> None:
    keys = people(15)
    stop = StopFlag()
    options = MigrationOptions(controls=Controls(batch_size=5, delay=0.0))
    opened = operation.execute(
        Migration(options), RunContext(actor=OLGA, stop=stop, progress=lambda _: stop.request(2))
    )
    assert opened.run is not None
    with balanced():
        done = back(run=opened.run)
    assert done.totals.rolled_back == 5
    assert status(opened.run) == "rolled_back"
    assert not any(wallet(key)[4] for key in keys)


def test_runs_that_converted_nobody_are_not_marked() -> None:
    WalletFactory(green=-1)
    nobody = convert(skip_invalid=True)
    people(2)
    somebody = convert(skip_invalid=True)
    back(everything=True)
    assert (status(nobody), status(somebody)) == ("completed", "rolled_back")


def test_a_run_with_shortfalls_stays_until_the_last_is_written_off() -> None:
    keys = people(3)
    first = convert()
    services.spend_mana(keys[0], 1, reference="order")
    with balanced():
        assert back(run=first).totals.skips == {"shortfall": 1}
        assert status(first) == "completed"
        assert back(run=first, on_shortfall="write-off").totals.shortfall == 1
    assert status(first) == "rolled_back"


def test_an_unknown_or_wrong_target_is_refused() -> None:
    people(2)
    first = convert()
    done = back(run=first)
    with assert_nothing_changes():
        with pytest.raises(RunNotFoundError, match="there is no run 99"):
            back(run=99)
        with pytest.raises(RunConflictError, match="is a rollback"):
            back(run=done.run)
        with pytest.raises(NothingToRollBackError, match=f"no user is migrated by run {first}"):
            back(run=first)


def test_a_forecast_reads_only_and_tells_the_same() -> None:
    keys = people(4)
    convert()
    services.spend_mana(keys[0], 500, reference="order")
    with assert_nothing_changes():
        told = dry_run.forecast_rollback(RollbackOptions(users=tuple(map(str, keys[:2]))))
        everything = dry_run.forecast_rollback(RollbackOptions(everything=True))
    assert (told.totals.rolled_back, told.totals.skips, told.stops_run) == (1, {"shortfall": 1}, None)
    assert (everything.totals.rolled_back, [row[2] for row in everything.shortfalls]) == (3, [500])


def test_an_emergency_does_not_wait_between_batches() -> None:
    people(15)
    convert()
    run = Rollback(
        RollbackOptions(everything=True, emergency=True, controls=Controls(batch_size=5, delay=3600.0))
    ).open(RunContext(actor=OLGA))
    with balanced():
        done = operation.work_on_run(run.pk, RunContext(actor=OLGA))
    assert done.status == "completed"


def test_a_stopped_rollback_keeps_what_it_did_and_another_does_the_rest() -> None:
    people(15)
    convert()

    def stop(result: Any) -> None:
        if MigrationRun.objects.get(pk=result.run).status == "running":
            runs.stop_run(result.run, actor=OLGA, reason="enough")

    with balanced():
        done = back(everything=True, batch_size=5, progress=stop)
        assert (done.status, done.totals.rolled_back) == ("stopped", 5)
        assert back(everything=True).totals.rolled_back == 10
