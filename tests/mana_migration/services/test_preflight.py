"""Is the database fit?  Each lack is told with its cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import OperationalError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from mana_migration import guards
from mana_migration.errors import DatabaseUnavailableError, PreflightError
from mana_migration.models import (
    Checklist,
    Closing,
    DirectWrite,
    IntegrityFix,
    MigrationRun,
    Rehearsal,
    ReportFile,
    RunRequest,
)
from mana_migration.services import preflight
from mana_migration.services.context import RunContext
from mana_migration.states import RunKind
from tests.support import economy as economies
from tests.support.oracle import assert_nothing_changes
from wishes import guards as wishes_guards
from wishes.guards import Guard
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

GUARDS = [*wishes_guards.statements(connection.vendor), *guards.statements(connection.vendor)]


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
    names = {guard.name for guard in GUARDS if guard.name}
    for name in names:
        assert f"{name} (missing)" in str(caught.value)
    assert set(preflight.install_missing_guards()) == names
    assert preflight.install_missing_guards() == []
    preflight.check()


@pytest.mark.postgres
@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard.name], ids=lambda guard: guard.name)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("ALTER TABLE {table} DISABLE TRIGGER {name}", "disabled"),
        ("ALTER TABLE {table} ENABLE REPLICA TRIGGER {name}", "fires on replicas only"),
        (
            "DROP TRIGGER {name} ON {table}; CREATE TRIGGER {name} BEFORE INSERT ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION wishes_refuse('no')",
            "changed",
        ),
        (
            "DROP TRIGGER {name} ON {table}; CREATE TABLE other (LIKE {table}); CREATE TRIGGER {name} "
            "BEFORE DELETE ON other FOR EACH ROW EXECUTE FUNCTION wishes_refuse('no')",
            "missing",
        ),
        (
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "its function {function} was changed",
        ),
        (
            "CREATE SCHEMA elsewhere; ALTER TABLE {table} SET SCHEMA elsewhere; "
            "CREATE TABLE {table} (LIKE elsewhere.{table} INCLUDING ALL)",
            "missing",
        ),
    ],
    ids=["disabled", "replica", "changed", "elsewhere", "function", "schema"],
)
def test_a_guard_that_is_not_what_it_claims_is_named_and_repaired(guard: Guard, damage: str, words: str) -> None:
    terms = {
        "name": guard.name,
        "table": guard.table,
        "function": guard.sql.split("EXECUTE FUNCTION ")[1].split("(")[0],
    }
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    execute(damage.format(**terms))
    with pytest.raises(PreflightError) as caught:
        preflight.check()
    assert f"{guard.name} ({words.format(**terms)})" in str(caught.value)
    assert guard.name in preflight.install_missing_guards()
    preflight.check()


@pytest.mark.sqlite
@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard.name], ids=lambda guard: guard.name)
@pytest.mark.parametrize("damage", ["changed", "elsewhere"])
def test_a_trigger_of_sqlite_that_is_not_what_it_claims_is_named_and_repaired(guard: Guard, damage: str) -> None:
    execute(f"DROP TRIGGER {guard.name}")
    execute("CREATE TABLE other (id integer)")
    table = guard.table if damage == "changed" else "other"
    execute(f"CREATE TRIGGER {guard.name} BEFORE DELETE ON {table} BEGIN SELECT 1; END")
    words = "changed" if damage == "changed" else f"on other instead of {guard.table}"
    with pytest.raises(PreflightError) as caught:
        preflight.check()
    assert f"{guard.name} ({words})" in str(caught.value)
    assert preflight.install_missing_guards() == [guard.name]
    preflight.check()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("setting", "value"), [("session_replication_role", "replica"), (wishes_guards.ANNOUNCEMENT, "on")]
)
def test_a_setting_that_lifts_the_guards_is_named_and_is_not_installed_away(setting: str, value: str) -> None:
    execute(f"SET {setting} = '{value}'")
    try:
        with pytest.raises(PreflightError, match=setting):
            preflight.check(read_only=True)
        with pytest.raises(PreflightError, match=f"not in force: {setting}"):
            preflight.install_missing_guards()
    finally:
        execute(f"RESET {setting}")


@pytest.mark.sqlite
def test_an_announcement_that_was_left_behind_is_named_and_removed() -> None:
    execute(f"INSERT INTO wishes_guard VALUES ('{wishes_guards.ANNOUNCEMENT}')")
    with pytest.raises(PreflightError, match=r"wishes_guard \(holds an announcement"):
        preflight.check(read_only=True)
    assert preflight.install_missing_guards() == ["wishes_guard"]
    preflight.check()


def rules() -> list[tuple[str, str]]:
    """Return (table, constraint of the model) of all that carry a name."""
    return [
        (model._meta.db_table, constraint.name)
        for app in preflight.APPS
        for model in apps.get_app_config(app).get_models()
        for constraint in model._meta.constraints
    ]


@pytest.mark.postgres
@pytest.mark.parametrize(("table", "name"), rules(), ids=lambda value: value)
@pytest.mark.parametrize("damage", ["dropped", "weakened"])
def test_a_constraint_that_is_missing_or_weaker_is_named_and_repaired(table: str, name: str, damage: str) -> None:
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    execute(f"DROP INDEX IF EXISTS {name}")
    if damage == "weakened":
        execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (true)")
    with pytest.raises(PreflightError, match=name):
        preflight.check(read_only=True)
    assert preflight.install_missing_guards() == [name]
    preflight.check()


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("ALTER TABLE wishes_manaentry DROP CONSTRAINT wishes_manaentry_reference_key", "unique key of {0}.reference"),
        ("ALTER TABLE wishes_manaentry ALTER COLUMN reference DROP NOT NULL", "NOT NULL of {0}.reference"),
        ("ALTER TABLE wishes_manaentry DROP CONSTRAINT wishes_manaentry_pkey", "unique key of {0}.id"),
    ],
)
def test_a_key_of_the_ledger_that_is_missing_is_named_and_repaired(damage: str, named: str) -> None:
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    execute(damage)
    name = named.format("wishes_manaentry")
    with pytest.raises(PreflightError, match=name):
        preflight.check(read_only=True)
    assert preflight.install_missing_guards() == [name]
    preflight.check()


@pytest.mark.postgres
def test_a_table_that_was_copied_and_renamed_is_found_out_and_repaired(django_user_model: Any) -> None:
    Wallet.objects.create(user=django_user_model.objects.create(username="someone"), red=3)
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    execute("ALTER TABLE wishes_wallet RENAME TO w_old")
    execute("CREATE TABLE wishes_wallet (LIKE w_old INCLUDING ALL)")
    execute("INSERT INTO wishes_wallet SELECT * FROM w_old")
    with pytest.raises(PreflightError, match=r"wishes_wallet_no_stale_write \(missing"):
        preflight.check()
    assert {"foreign key of wishes_wallet.user_id", "wishes_wallet_no_stale_write"} <= set(
        preflight.install_missing_guards()
    )
    preflight.check()


@pytest.mark.postgres
def test_a_constraint_that_rows_break_is_not_installed_and_the_rows_are_the_reason(django_user_model: Any) -> None:
    execute("ALTER TABLE wishes_wallet DROP CONSTRAINT wishes_wallet_mana_not_negative")
    Wallet.objects.create(user=django_user_model.objects.create(username="someone"), mana=-1)
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    refused = pytest.raises(PreflightError, match=r"cannot be installed: .*wishes_wallet_mana_not_negative")
    with refused, transaction.atomic():
        preflight.install_missing_guards()


def on_a_file_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Continue on a copy of the database, whose tables may be made anew."""
    # not a copy of the file: to close it would drop the locks of every other connection that this process has to it
    own = str(folder / "own.sqlite3")
    execute(f"VACUUM INTO '{own}'")
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "NAME", own)


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_on_sqlite_guards_stay_in_force_where_rows_break_what_is_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_user_model: Any
) -> None:
    on_a_file_of_its_own(tmp_path, monkeypatch)
    Wallet.objects.create(user=django_user_model.objects.create(username="someone"), green=1)
    execute("PRAGMA foreign_keys = OFF")
    execute("UPDATE wishes_wallet SET user_id = user_id + 1")
    execute("DROP INDEX mana_migration_one_live_record")
    with pytest.raises(PreflightError, match=r"cannot be installed: .*foreign key"):
        preflight.install_missing_guards()
    with pytest.raises(PreflightError, match=r"because of: mana_migration_one_live_record;"):
        preflight.check()
    connection.close()


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("table", preflight._models(), ids=lambda model: model._meta.db_table)
def test_a_table_of_sqlite_without_its_constraints_is_found_out_and_repaired(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_file_of_its_own(tmp_path, monkeypatch)
    name, constraints = table._meta.db_table, {constraint.name for constraint in table._meta.constraints}
    execute(f"ALTER TABLE {name} RENAME TO w_old")
    execute(f"CREATE TABLE {name} AS SELECT * FROM w_old")
    with pytest.raises(PreflightError) as caught:
        preflight.check(read_only=True)
    for constraint in constraints:
        assert constraint in str(caught.value)
    assert constraints <= set(preflight.install_missing_guards())
    preflight.check()
    connection.close()


TABLES = preflight._tables()
OURS = [table for table in TABLES if table.startswith(("wishes_", "mana_migration_"))]


@pytest.mark.postgres
@pytest.mark.parametrize("table", TABLES)
def test_rows_that_are_hidden_from_this_role_are_refused_on_every_table(table: str) -> None:
    execute("CREATE ROLE reader IN ROLE pg_read_all_data, pg_write_all_data")
    execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    preflight.check(read_only=True)  # a superuser sees every row all the same
    execute("SET LOCAL ROLE reader")
    for check in (lambda: preflight.check(read_only=True), preflight.check, preflight.check_visible):
        with pytest.raises(PreflightError, match=f"row-level security can hide rows of {table} from"):
            check()


@pytest.mark.parametrize("table", OURS)
def test_a_view_in_the_place_of_a_table_is_refused(table: str) -> None:
    if connection.vendor == "postgresql":
        execute("SET CONSTRAINTS ALL IMMEDIATE")
    execute(f"ALTER TABLE {table} RENAME TO behind")
    execute(f"CREATE VIEW {table} AS SELECT * FROM behind")
    for check in (preflight.check, preflight.check_visible, preflight.install_missing_guards):
        with pytest.raises(PreflightError, match=f"has a view in the place of {table}:"):
            check()


@pytest.mark.parametrize("table", OURS)
def test_triggers_and_rules_of_the_site_are_named(table: str) -> None:
    assert preflight.warnings() == []
    if connection.vendor == "postgresql":
        execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        execute(f"CREATE TRIGGER of_the_site AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION f()")
        execute(f"CREATE RULE a_rule AS ON DELETE TO {table} DO INSTEAD NOTHING")
        assert [line.split(" is not")[0] for line in preflight.warnings()] == [
            f"rule a_rule on {table}",
            f"trigger of_the_site on {table}",
        ]
    else:
        execute(f"CREATE TRIGGER of_the_site AFTER UPDATE ON {table} BEGIN SELECT 1; END")
        assert [line.split(" is not")[0] for line in preflight.warnings()] == [f"trigger of_the_site on {table}"]


@pytest.mark.postgres
@pytest.mark.parametrize(
    "table", [model._meta.db_table for model in preflight._models() if model._meta.pk.remote_field is None]
)
def test_a_sequence_that_is_behind_its_table_is_refused_with_its_cure(table: str) -> None:
    economy = economies.live_through()
    assert economy
    IntegrityFix.objects.create(check_id="negative_balance", user_id=1, before={}, after={})
    Checklist.objects.create(go=True, items=[])
    Closing.objects.create(closed=True)
    Rehearsal.objects.create(result={})
    DirectWrite.objects.create(columns="green")
    ReportFile.objects.create(run=MigrationRun.objects.latest())
    RunRequest.objects.create(kind=RunKind.MIGRATION)
    preflight.check()
    execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1, false)")
    preflight.check(read_only=True)
    with pytest.raises(PreflightError) as caught:
        preflight.check()
    execute(str(caught.value).split("Run with psql: ")[1].split("; then")[0])
    preflight.check()


@pytest.mark.postgres
def test_a_read_only_transaction_takes_no_run_but_a_look() -> None:
    execute("SET LOCAL transaction_read_only = on")
    with pytest.raises(DatabaseUnavailableError, match="is read-only; point DATABASE_URL at the primary"):
        preflight.check()
    preflight.check(read_only=True)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("recovers", [True, False])
def test_a_server_that_takes_no_writes_is_waited_for_as_long_as_the_setting_says(settings: Any, recovers: bool) -> None:
    settings.MANA_MIGRATION_READ_ONLY_WAIT = 60 if recovers else 1
    name = connection.settings_dict["NAME"]
    said: list[str] = []

    def notice(sentence: str) -> None:
        said.append(sentence)
        if recovers:
            execute("SET default_transaction_read_only = off")
            execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')

    execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    connection.close()
    try:
        preflight.await_writes(RunContext(notice=notice))
        if recovers:
            preflight.check()
        else:
            with pytest.raises(DatabaseUnavailableError, match="is read-only"):
                preflight.check()
        (sentence,) = said
        assert sentence.startswith("the database takes no writes: waiting for it")
    finally:
        execute("SET default_transaction_read_only = off")
        execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        connection.close()


def test_a_database_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("could not connect to server\nIs it running?")

    monkeypatch.setattr(connection, "ensure_connection", fail)
    with pytest.raises(DatabaseUnavailableError) as caught:
        preflight.check()
    assert "could not connect to server;" in str(caught.value)
    assert "\n" not in str(caught.value)
