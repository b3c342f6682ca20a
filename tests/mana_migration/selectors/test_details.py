"""Every user of a run is streamed once, page by page, on whatever key users have."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.db import connection
from django.db.models import Q
from django.test.utils import CaptureQueriesContext

from mana_migration.models import MigrationRun, UserMigration
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


def test_a_run_has_its_own_records_between_those_of_others() -> None:
    keys = keys_of(make_wallets([(1, 0, 0)] * 12))
    first = migrate("--limit", 3)["run"]
    named = migrate("--user-id", f"pk:{keys[9]}", "--user-id", f"pk:{keys[11]}")["run"]
    second = migrate("--limit", 4)["run"]
    one_back = roll_back("--user-id", f"pk:{keys[11]}")["run"]
    others_back = roll_back("--all")["run"]
    last = migrate()["run"]
    for run, users in ((first, 3), (named, 2), (second, 4), (one_back, 1), (others_back, 8), (last, 12)):
        expected = UserMigration.objects.filter(Q(run=run) | Q(reversal_run=run)).order_by("pk")
        assert [line.record for line in details_of(run)] == [record.pk for record in expected]
        assert len(expected) == users


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
