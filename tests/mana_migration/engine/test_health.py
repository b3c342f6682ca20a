"""What the database says of itself."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, connections

from mana_migration.domain.pressure import Health
from mana_migration.engine.health import read_health
from tests.factories import WalletFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.sqlite
def test_sqlite_is_always_well() -> None:
    assert read_health(connection) == Health()


@pytest.mark.postgres
def test_an_idle_server_is_well() -> None:
    found = read_health(connection)
    assert (found.replication_lag, found.waiting_locks, found.archiving_fails) == (0.0, 0, False)


@pytest.mark.postgres
def test_sessions_that_wait_for_a_lock_are_counted() -> None:
    key = WalletFactory().pk
    query = f"SELECT 1 FROM wishes_wallet WHERE user_id = {key} FOR UPDATE"
    holder, *others = (connections["default"].copy() for _ in range(4))
    holder.set_autocommit(False)
    threads = []
    try:
        with holder.cursor() as cursor:
            cursor.execute(query)
        for other in others:
            other.ensure_connection()
            threads.append(threading.Thread(target=_execute, args=(other.connection, query)))
            threads[-1].start()
        found = read_health(connection)
        while found.waiting_locks < 3:  # until all of them have come to the lock
            found = read_health(connection)
        assert found.waiting_locks == 3
        assert found.active_sessions >= 3
    finally:
        holder.rollback()
        for thread in threads:
            thread.join()
        for one in (holder, *others):
            one.connection.close()
    assert read_health(connection).waiting_locks == 0


def _execute(session: object, query: str) -> None:
    with session.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(query)
