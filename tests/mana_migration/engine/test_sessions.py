"""The names of sessions, as PostgreSQL lists them."""

import pytest
from django.db import connection

from mana_migration.engine import sessions

pytestmark = pytest.mark.django_db(transaction=True)


def name_of_session() -> str:
    """Return what the server calls this session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        return str(cursor.fetchone()[0])


@pytest.mark.postgres
def test_an_open_session_has_the_name_during_the_block_and_its_own_again_after_it() -> None:
    before = name_of_session()
    with sessions.named("migrate run 7, worker 2"):
        assert name_of_session() == "mana_migration: migrate run 7, worker 2"
        with sessions.named("check of run 7"):
            assert name_of_session() == "mana_migration: check of run 7"
        assert name_of_session() == "mana_migration: migrate run 7, worker 2"
    assert name_of_session() == before


@pytest.mark.postgres
def test_a_session_that_is_opened_within_the_block_has_the_name() -> None:
    connection.close()
    with sessions.named("watch"):
        assert name_of_session() == "mana_migration: watch"


@pytest.mark.postgres
def test_a_lost_session_is_no_error_and_the_next_one_has_the_name() -> None:
    with sessions.named("monitor"):
        name_of_session()
        connection.connection.close()
        with sessions.named("watch"):
            connection.close()
            assert name_of_session() == "mana_migration: watch"


@pytest.mark.sqlite
def test_sqlite_has_no_names() -> None:
    with sessions.named("watch"), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
