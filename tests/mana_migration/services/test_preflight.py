"""Is the database fit?  Each lack is told with its cure."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from mana_migration import guards
from mana_migration.errors import DatabaseUnavailableError, PreflightError
from mana_migration.services import preflight
from tests.support.oracle import assert_nothing_changes
from wishes import guards as wishes_guards

pytestmark = pytest.mark.django_db


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_fit_database_passes_and_is_not_changed(read_only: bool) -> None:
    with assert_nothing_changes():
        preflight.check(read_only=read_only)


def test_another_database_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "vendor", "oracle")
    with pytest.raises(PreflightError, match="works on PostgreSQL and SQLite only"):
        preflight.check()


def test_new_code_on_the_old_schema_says_what_is_to_be_done_and_in_which_order() -> None:
    recorder = MigrationRecorder(connection)
    (latest,) = MigrationLoader(connection).graph.leaf_nodes("mana_migration")
    recorder.record_unapplied(*latest)
    with pytest.raises(PreflightError) as caught:
        preflight.check(read_only=True)
    assert str(caught.value) == (
        f"database 'default' lacks the schema migrations mana_migration.{latest[1]}, which this code needs; nothing "
        "was done. End all processes that still work with the old code, then run: python manage.py migrate, then "
        "python manage.py install_guards, then the same command"
    )


def test_a_database_without_any_of_the_tables_is_said_to_be_new() -> None:
    recorder = MigrationRecorder(connection)
    for app, name in recorder.applied_migrations():
        if app in preflight.APPS:
            recorder.record_unapplied(app, name)
    with pytest.raises(PreflightError, match=r"has no tables of this project yet; run: python manage.py migrate$"):
        preflight.check(read_only=True)


def test_every_missing_table_is_named() -> None:
    execute("DROP TABLE mana_migration_integrityfix")
    execute("DROP TABLE mana_migration_runevent")
    with pytest.raises(PreflightError, match="lacks the tables mana_migration_integrityfix, mana_migration_runevent"):
        preflight.check()


def test_every_missing_guard_is_named_and_can_be_installed_again() -> None:
    wishes_guards.uninstall(connection)
    guards.uninstall(connection)
    with pytest.raises(PreflightError) as caught:
        preflight.check(read_only=True)
    names = {name for name, *_ in (*wishes_guards.statements(connection.vendor), *guards.statements(connection.vendor))}
    for name in filter(None, names):
        assert name in str(caught.value)
    assert set(preflight.install_missing_guards()) == set(filter(None, names))
    assert preflight.install_missing_guards() == []
    preflight.check()


@pytest.mark.postgres
def test_a_read_only_transaction_takes_no_run_but_a_look() -> None:
    execute("SET LOCAL transaction_read_only = on")
    with pytest.raises(DatabaseUnavailableError, match="is read-only; point DATABASE_URL at the primary"):
        preflight.check()
    preflight.check(read_only=True)


def test_a_database_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("could not connect to server\nIs it running?")

    monkeypatch.setattr(connection, "ensure_connection", fail)
    with pytest.raises(DatabaseUnavailableError) as caught:
        preflight.check()
    assert "could not connect to server;" in str(caught.value)
    assert "\n" not in str(caught.value)
