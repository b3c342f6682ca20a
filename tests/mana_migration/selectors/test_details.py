"""Every user of a run is streamed once, page by page, on whatever key users have."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.selectors import details
from mana_migration.selectors.details import RunDetails
from tests.factories import make_wallets
from tests.mana_migration.history import NOON, after, make_history, rewrite_records
from tests.mana_migration.running import keys_of, migrate, roll_back
from wishes import services

pytestmark = pytest.mark.django_db


def details_of(run: int) -> RunDetails:
    return RunDetails.of(MigrationRun.objects.get(pk=run), "default")


@pytest.mark.parametrize("page", [1, 2, 3, 7, 12, 13, 5_000])
def test_every_user_comes_once_whatever_the_size_of_a_page(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_history(3)
    history = make_history(12)
    make_history(3)
    monkeypatch.setattr(details, "PAGE", page)
    records = [line.record for line in details_of(history.run.pk)]
    assert records == [record.pk for record in history.records]


def test_they_can_be_streamed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = details_of(make_history(5).run.pk)
    assert list(found) == list(found)


def test_one_query_reads_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    found = details_of(make_history(12).run.pk)
    monkeypatch.setattr(details, "PAGE", 5)
    with CaptureQueriesContext(connection) as captured:
        stream = iter(found)
        next(stream)
        assert len(captured) == 1
        assert len(list(stream)) == 11
    assert len(captured) == 3


def test_a_rollback_lists_the_users_it_took_back_and_those_it_skipped() -> None:
    keys = keys_of(make_wallets([(1, 0, 0)] * 6))
    run = migrate()["run"]
    services.spend_mana(keys[2], 1, reference="bought")
    rollback = roll_back("--run", run, "--batch-size", 2, code=3)["run"]
    lines = list(details_of(rollback))
    assert [(line.status, line.run) for line in lines] == [("rolled_back", run)] * 5 + [("skipped", rollback)]
    assert [line.status for line in details_of(rollback).problems(10)] == ["skipped"]


def test_users_of_later_looks_are_not_left_out() -> None:
    history = make_history(12, batch_size=12)
    batch = MigrationBatch.objects.get(run=history.run)
    users = [user.pk for user in history.users]
    # a split batch ends where its first half ends; the second half, and a user who signed up late, have their own
    MigrationBatch.objects.filter(pk=batch.pk).update(first_user=str(users[3]), last_user=str(users[5]))
    for first, last in ((users[6], users[11]), (users[0], users[2])):
        MigrationBatch.objects.create(run=history.run, first_user=str(first), last_user=str(last), planned=1)
    assert len(list(details_of(history.run.pk))) == 12


def test_keys_of_different_lengths_are_compared_as_keys() -> None:
    history = make_history(4, batch_size=4)
    MigrationBatch.objects.filter(run=history.run).update(first_user="9", last_user="1000000000")
    MigrationBatch.objects.create(run=history.run, first_user="1", last_user="5", planned=1)
    assert details_of(history.run.pk).bounds == (1, 1_000_000_000)


@pytest.mark.parametrize("text", ["", "not a key"])
def test_batches_without_a_range_do_not_narrow_the_search(text: str) -> None:
    history = make_history(4)
    MigrationBatch.objects.create(run=history.run, first_user=text, last_user=text, planned=0)
    found = details_of(history.run.pk)
    assert found.bounds is None
    assert len(list(found)) == 4


def test_a_run_without_batches_has_no_users() -> None:
    run = MigrationRun.objects.create(kind="migration", status="completed").pk
    assert list(details_of(run)) == []


@pytest.mark.postgres
def test_the_database_copies_what_would_be_streamed() -> None:
    history = make_history(12)
    stream = io.BytesIO()
    assert details_of(history.run.pk).copy_csv(stream)
    copied: list[list[Any]] = list(csv.reader(io.StringIO(stream.getvalue().decode())))
    streamed = [["" if cell is None else str(cell) for cell in line] for line in details_of(history.run.pk)]
    assert copied == streamed


def test_the_order_is_that_of_the_records_whatever_the_keys_of_the_users() -> None:
    history = make_history(12)
    record = history.records[0]
    MigrationBatch.objects.filter(run=history.run).update(first_user="1", last_user="1000000000")
    rewrite_records(record.pk, user=10**9)
    assert [line.record for line in details_of(history.run.pk)] == [each.pk for each in history.records]


def test_since_keeps_those_who_were_handled_or_rolled_back_from_then_on() -> None:
    history = make_history(6)
    first, second, third, *_ = history.records
    rewrite_records(second.pk, created_at=after(100))
    rewrite_records(third.pk, reversed_at=after(100))
    since = RunDetails.of(history.run, "default", after(100))
    assert [line.record for line in since] == [second.pk, third.pk]
    assert [line.record for line in RunDetails.of(history.run, "default", after(101))] == []
    assert first.pk in [line.record for line in RunDetails.of(history.run, "default", NOON)]


def test_times_are_utc_to_the_second_and_what_is_not_there_is_none() -> None:
    history = make_history(5)
    line, *_, failed = RunDetails.of(history.run, "default")
    assert (line.handled_at, line.reversed_at) == ("2026-11-23T12:00:00+00:00", None)
    assert (line.error, line.message, line.reversal_run, line.shortfall) == (None, None, None, None)
    assert (failed.error, failed.message) == ("negative_balance", "a balance is negative")


@pytest.mark.sqlite
def test_sqlite_leaves_csv_to_us() -> None:
    stream = io.BytesIO()
    assert not details_of(make_history(3).run.pk).copy_csv(stream)
    assert stream.getvalue() == b""
