"""What ``--show-sql`` prints writes the same rows as the run that it is about."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.models import MigrationRun
from mana_migration.services import statements
from tests.factories import make_wallets
from tests.mana_migration.running import migrate, roll_back
from tests.support.commands import run_command
from tests.support.databases import address, own_database
from tests.support.oracle import assert_nothing_changes
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

Rows = dict[str, list[tuple[Any, ...]]]

#: What must be the same, whoever sent the statements; moments and the worker differ.
COMPARED = {
    "wallets": "SELECT user_id, green, blue, red, mana, migrated_at IS NULL FROM wishes_wallet ORDER BY 1",
    "entries": "SELECT user_id, amount, balance_after, kind, reference FROM wishes_manaentry ORDER BY id",
    "records": (
        "SELECT user_id, run_id, batch_id, status, green, blue, red, mana_before, mana_credited, error_class, "
        "error_message, mark, reversal_run_id, mana_debited, shortfall, reversal_mark "
        "FROM mana_migration_usermigration ORDER BY run_id, user_id"
    ),
    "batches": (
        "SELECT run_id, first_user, last_user, planned, status, selected, migrated, rolled_back, failed, skipped, "
        "green, blue, red, mana, shortfall, errors, skips, digest FROM mana_migration_migrationbatch ORDER BY id"
    ),
}


def rows(at: BaseDatabaseWrapper | None = None) -> Rows:
    """Return what is compared."""
    found = {}
    with (at or connections["default"]).cursor() as cursor:
        for name, query in COMPARED.items():
            cursor.execute(query)
            found[name] = cursor.fetchall()
    return found


@contextmanager
def on_a_copy(script: str, folder: Path) -> Iterator[Rows]:
    """Run a script on a copy of the database, with psql where that is PostgreSQL, and yield what it wrote."""
    if connection.vendor == "sqlite":
        with transaction.atomic():
            # Django's own functions are needed, which the sqlite3 shell has not
            text = re.sub(r"^(BEGIN|COMMIT);$|^--.*$", "", script, flags=re.MULTILINE)
            with connection.cursor() as cursor:
                for statement in re.split(r";$", text, flags=re.MULTILINE):
                    cursor.execute(statement)
            found = rows()
            transaction.set_rollback(True)
        yield found
        return
    with own_database(folder, copy=True) as settings:
        psql = [shutil.which("psql") or "psql", address(settings), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(psql, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        other = connection.copy()
        other.settings_dict = {**other.settings_dict, "NAME": settings["NAME"]}
        try:
            found = rows(other)
        finally:
            other.close()
        yield found


def use_next_numbers() -> None:
    """Let the next run and batch have the numbers that follow those in the tables, as in a database without gaps."""
    tables = ("mana_migration_migrationrun", "mana_migration_migrationbatch")
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}")
            (newest,) = cursor.fetchone()
            if connection.vendor == "sqlite":
                cursor.execute("UPDATE sqlite_sequence SET seq = %s WHERE name = %s", [newest, table])
            else:
                cursor.execute(f"SELECT setval(pg_get_serial_sequence(%s, 'id'), {newest + 1}, false)", [table])


@pytest.fixture
def keys() -> list[Any]:
    """Return the keys of users of every kind: rich, empty, broken."""
    balances = [(3, 2, 1), (0, 0, 0), (-1, 2, 3), (5, 0, 0), (0, 0, 9)]
    found = [wallet.pk for wallet in make_wallets(balances)]
    use_next_numbers()
    return found


@pytest.mark.usefixtures("keys")
def test_a_migration_writes_what_was_printed(tmp_path: Path) -> None:
    asked = MigrationOptions(skip_invalid=True, controls=Controls(batch_size=50))
    with assert_nothing_changes():
        script = statements.migration_script(asked, "default")
    with on_a_copy(script, tmp_path) as printed:
        assert migrate("--skip-invalid", code=3)["users"]["migrated"] == 4
        assert rows() == printed


def test_a_selected_user_is_converted_as_was_printed(keys: list[Any], tmp_path: Path) -> None:
    script = statements.migration_script(MigrationOptions(users=(str(keys[0]),)), "default")
    with on_a_copy(script, tmp_path) as printed:
        migrate("--user-id", f"pk:{keys[0]}")
        assert rows() == printed


@pytest.mark.parametrize("preserve_logs", [True, False])
def test_a_rollback_writes_what_was_printed(keys: list[Any], tmp_path: Path, preserve_logs: bool) -> None:
    migrate("--skip-invalid", code=3)
    services.spend_mana(keys[0], 30, reference="shop")
    use_next_numbers()
    asked = RollbackOptions(everything=True, preserve_logs=preserve_logs)
    with assert_nothing_changes():
        script = statements.rollback_script(asked, "default")
    with on_a_copy(script, tmp_path) as printed:
        assert (
            roll_back("--all", *([] if preserve_logs else ["--no-preserve-logs"]), code=3)["users"]["rolled_back"] == 3
        )
        assert rows() == printed


def test_the_commands_print_it_and_write_nothing(keys: list[Any]) -> None:
    with assert_nothing_changes():
        shown = run_command("migrate_users", "--show-sql", "--batch-size", "2")
        back = run_command("rollback_migration", "--all", "--show-sql")
    assert (shown.code, back.code) == (0, 0)
    assert f"BETWEEN {keys[0]} AND {keys[1]}" in shown.out.replace("'", "")
    assert all(line.startswith("-- ") for line in shown.out.splitlines()[:4])
    assert "-- No user is left to handle." in back.out
    assert not MigrationRun.objects.exists()
    assert Wallet.objects.filter(migrated_at=None).count() == len(keys)


def test_what_has_no_meaning_beside_it_is_refused() -> None:
    assert run_command("migrate_users", "--show-sql", "--dry-run").code == 2
