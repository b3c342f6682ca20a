"""A second session beside the first, on the moment that the first one sees; see Note [Beside]."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine.snapshot import beside, read_only_snapshot
from tests.mana_migration.running import people
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

SECOND = "beside"


def where() -> str:
    """Return the name of the thread that does the work."""
    return threading.current_thread().name


def answer(sql: str) -> Any:
    """Return the only value of a query, asked on the session of whoever calls."""
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def elsewhere(work: Callable[[], Any]) -> None:
    """Have something done and committed by a session of its own."""

    def do() -> None:
        work()
        connection.close()

    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


@pytest.mark.postgres
def test_the_second_session_sees_the_moment_of_the_first() -> None:
    people(3)
    own = answer("SELECT pg_backend_pid()")
    begin = threading.Event()

    def count() -> tuple[int, int]:
        begin.wait(10)
        return Wallet.objects.count(), answer("SELECT pg_backend_pid()")

    with read_only_snapshot("default"):
        assert Wallet.objects.count() == 3
        with beside("default", count) as found:
            elsewhere(lambda: people(2))
            begin.set()
            counted, session = found()
            assert counted == Wallet.objects.count() == 3
            assert session != own
    assert Wallet.objects.count() == 5


@pytest.mark.postgres
def test_the_second_session_cannot_write() -> None:
    people(1)
    with (
        read_only_snapshot("default"),
        beside("default", lambda: Wallet.objects.update(mana=1)) as found,
        pytest.raises(DatabaseError, match="read-only"),
    ):
        found()


@pytest.mark.postgres
def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> None:
        raise LookupError(where())

    with read_only_snapshot("default"), beside("default", fail) as found, pytest.raises(LookupError, match=SECOND):
        found()


@pytest.mark.postgres
def test_the_second_session_ends_with_the_block_whatever_it_does() -> None:
    begun = threading.Event()

    def sleep() -> None:
        begun.set()
        answer("SELECT pg_sleep(100)::text")

    def write() -> None:
        with read_only_snapshot("default"), beside("default", sleep):
            begun.wait(10)
            raise LookupError("the disk is full")

    with pytest.raises(LookupError, match="the disk is full"):
        write()
    assert SECOND not in {thread.name for thread in threading.enumerate()}
    assert answer("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 0


@pytest.mark.postgres
def test_where_no_session_is_left_the_first_one_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = BaseDatabaseWrapper.connect

    def refused(self: BaseDatabaseWrapper) -> None:
        if where() == SECOND:
            raise OperationalError("FATAL:  sorry, too many clients already")
        connect(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "connect", refused)
    with read_only_snapshot("default"), beside("default", where) as found:
        assert found() == "MainThread"


@pytest.mark.postgres
def test_what_is_not_committed_is_seen_by_the_first_session_alone_so_it_does_the_work() -> None:
    with transaction.atomic():
        people(2)
        with read_only_snapshot("default"), beside("default", lambda: (where(), Wallet.objects.count())) as found:
            assert found() == ("MainThread", 2)


def test_only_postgresql_has_a_second_session() -> None:
    with read_only_snapshot("default"), beside("default", where) as found:
        assert found() == (SECOND if connection.vendor == "postgresql" else "MainThread")
