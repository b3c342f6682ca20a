"""Bad input and unfit databases: one clear line, the right exit code, no traceback, nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import load_command_class
from django.db import connection

from mana_migration import guards
from mana_migration.management import arguments
from mana_migration.models import MigrationRun
from tests.factories import UserFactory
from tests.mana_migration.running import migrate, people, refusal
from tests.support.commands import run_command, run_manage
from tests.support.oracle import assert_nothing_changes
from tests.support.processes import as_ordinary_user
from wishes import guards as wishes_guards

pytestmark = pytest.mark.django_db

WORKING = ("migrate_users", "rollback_migration")
ALL = (*WORKING, "validate_migration", "monitor_migration", "import_balances")


@pytest.fixture
def site() -> list[Any]:
    """Users, some of whom are migrated."""
    keys = people(4)
    migrate("--limit", "2")
    return keys


# --- Values -----------------------------------------------------------------------------------------------------------

BAD_NUMBERS = ("0", "-5", "abc", "1.5", "", " ", "1e3", "0x10", "1_0.0", "٣.")
BAD_DATES = (
    "2025-13-45", "2025-02-30", "yesterday", "0001-01-01", "1999-12-31", "2999-01-01", "", "25", "2025-01-01T25:00",
    "2025-01-01 10:00:00+99:00", "9999-12-31T23:59:59-12:00",
)  # fmt: skip

VALUES = [
    *(("migrate_users", "--batch-size", value) for value in (*BAD_NUMBERS, str(10**9), "100001", "AUTO")),
    *(("migrate_users", "--limit", value) for value in (*BAD_NUMBERS, str(2**63), "9" * 5000)),
    *(
        ("migrate_users", "--error-threshold", value)
        for value in ("101", "-1", "nan", "inf", "-inf", "abc", "", "100.01")
    ),
    *(("migrate_users", "--delay", value) for value in ("-1", "nan", "inf", "abc", "", "3601")),
    *(("migrate_users", "--cohort", value) for value in ("0", "0%", "101%", "-1%", "0.001%", "abc", "", "nan", "%")),
    *(("migrate_users", "--user-id", value) for value in ("", "   ")),
    *(("work_migration", "--interval", value) for value in ("0", "-5", "nan", "inf", "1e300", "abc", "")),
    *(("rollback_migration", "--since", value) for value in BAD_DATES),
    *(("rollback_migration", "--run", value) for value in BAD_NUMBERS),
    *(("rollback_migration", "--all", "--batch-size", value) for value in (*BAD_NUMBERS, str(10**9))),
    ("rollback_migration", "--all", "--on-shortfall", "forgive"),
    ("rollback_migration", "--user-id", ""),
    *((command, "--reason", value) for command in WORKING for value in ("\udcff", "a\ud800", "\0")),
]


@pytest.mark.once
@pytest.mark.parametrize("argv", VALUES, ids=lambda argv: " ".join(argv)[:60])
def test_a_bad_value_is_one_line_and_exit_code_2(argv: tuple[str, ...]) -> None:
    with assert_nothing_changes():
        message = refusal(run_command(*argv), code=2)
    assert f"argument {argv[-2]}" in message
    assert "--help" in message


@pytest.mark.parametrize("form", [(), ("--format", "json")], ids=["text", "json"])
@pytest.mark.parametrize("command", WORKING)
@pytest.mark.parametrize(
    "value", ["nobody", "999999999", "pk:999999999", "username:nobody", "99999999999999999999999", "\x00"]
)
def test_an_unknown_user_is_one_line_and_exit_code_1(
    site: list[Any], command: str, value: str, form: tuple[str, ...]
) -> None:
    with assert_nothing_changes():
        message = refusal(run_command(command, "--user-id", value, *form))
    assert "no such user" in message


@pytest.mark.parametrize("command", WORKING)
def test_a_value_that_fits_two_users_is_refused_with_both_named(site: list[Any], command: str) -> None:
    UserFactory(username=str(site[0]))
    with assert_nothing_changes():
        message = refusal(run_command(command, "--user-id", site[0]), code=2)
    assert f"pk:{site[0]}" in message
    assert f"username:{site[0]}" in message


@pytest.mark.once
@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize(
    "option",
    [("--nonsense",), ("--log-level", "chatty"), ("--format", "xml"), ("--database", "elsewhere"), ("--no-inp",),
     ("--data", "default"), ("--form", "json"), ("-x",), ("surplus", "words")],
    ids=" ".join,
)  # fmt: skip
def test_unknown_options_and_abbreviations_are_bad_usage(command: str, option: tuple[str, ...]) -> None:
    with assert_nothing_changes():
        refusal(run_command(command, *option), code=2)


@pytest.mark.once
@pytest.mark.parametrize("option", ["--dry", "--user", "--batch", "--valid", "--roll", "--auto"])
def test_an_abbreviation_never_starts_a_migration(site: list[Any], option: str) -> None:
    with assert_nothing_changes():
        refusal(run_command("migrate_users", option), code=2)


def test_names_of_settings_may_be_written_with_dashes() -> None:
    assert arguments.setting("error-threshold= 5 ") == ("error_threshold", "5")


# --- The log folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("migrate_users",), ("migrate_users", "--dry-run"), ("rollback_migration", "--all")]
)
def test_an_unwritable_log_folder_is_named_before_anything_is_done(
    site: list[Any], command: tuple[str, ...], tmp_path: Path, settings: Any
) -> None:
    (tmp_path / "file").write_text("")
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "file" / "logs"
    with assert_nothing_changes():
        message = refusal(run_command(*command))
    assert str(tmp_path / "file" / "logs") in message
    assert "MANA_MIGRATION_LOG_DIR" in message


def test_a_log_folder_without_permission_is_named(tmp_path: Path, settings: Any) -> None:
    settings.MANA_MIGRATION_LOG_DIR = tmp_path
    tmp_path.chmod(0o500)
    load_command_class("mana_migration", "migrate_users")  # an ordinary user may not read root's Python either
    with as_ordinary_user():
        result = run_command("migrate_users")
    assert str(tmp_path) in refusal(result)


# --- The database -----------------------------------------------------------------------------------------------------


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


UNFIT: dict[str, tuple[Callable[[], None], str]] = {
    "a schema migration is not applied": (
        lambda: execute(
            "DELETE FROM django_migrations WHERE app = 'mana_migration' AND name = "
            "(SELECT MAX(name) FROM django_migrations WHERE app = 'mana_migration')"
        ),
        ", which this code needs; nothing was done.",
    ),
    "none is applied": (
        lambda: execute("DELETE FROM django_migrations WHERE app IN ('wishes', 'mana_migration')"),
        "has no tables of this project yet; run: python manage.py migrate",
    ),
    "a table is missing": (
        lambda: execute("DROP TABLE mana_migration_integrityfix"),
        "lacks the tables mana_migration_integrityfix",
    ),
    "the ledger's guard is missing": (
        lambda: execute(
            "DROP TRIGGER wishes_wallet_no_stale_write"
            + (" ON wishes_wallet" if connection.vendor == "postgresql" else "")
        ),
        "does not refuse what it must, because of: wishes_wallet_no_stale_write (missing); "
        "install it again with: python manage.py install_guards",
    ),
    "all guards are missing": (
        lambda: (wishes_guards.uninstall(connection), guards.uninstall(connection))[0],
        "mana_migration_usermigration_final",
    ),
}


@pytest.mark.parametrize(
    "argv",
    [("migrate_users",), ("migrate_users", "--dry-run"), ("migrate_users", "--user-id", "{0}"),
     ("rollback_migration", "--all", "--no-input"), ("rollback_migration", "--user-id", "{0}")],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("how", UNFIT)
def test_an_unfit_database_is_refused_with_the_cure(site: list[Any], how: str, argv: tuple[str, ...]) -> None:
    spoil, words = UNFIT[how]
    spoil()
    with assert_nothing_changes():
        message = refusal(run_command(*(word.format(f"pk:{site[0]}") for word in argv)))
    assert words in message


def test_missing_guards_are_installed_by_the_command_that_the_refusal_names(site: list[Any]) -> None:
    UNFIT["the ledger's guard is missing"][0]()
    refusal(run_command("migrate_users"))
    assert run_command("install_guards").code == 0
    assert run_command("migrate_users").code == 0


@pytest.mark.postgres
def test_a_disabled_guard_counts_as_missing(site: list[Any]) -> None:
    execute("ALTER TABLE wishes_manaentry DISABLE TRIGGER wishes_manaentry_no_change")
    assert "wishes_manaentry_no_change" in refusal(run_command("migrate_users"))


@pytest.mark.parametrize("argv", [("migrate_users", "--pause"), ("migrate_users", "--set", "delay=1")], ids=" ".join)
def test_control_of_an_unfit_database_is_one_line_too(argv: tuple[str, ...]) -> None:
    execute("ALTER TABLE mana_migration_migrationrun RENAME TO gone")
    refusal(run_command(*argv))


@pytest.mark.parametrize("command", ["migrate_users", "rollback_migration --all --no-input", "migrate_users --pause",
                                     "migrate_users --dry-run", "migrate_users --user-id 1"])  # fmt: skip
def test_an_unreachable_database_is_one_line(command: str, tmp_path: Path) -> None:
    url = (
        f"sqlite:///{tmp_path}/missing/site.sqlite3"
        if connection.vendor == "sqlite"
        else "postgres://mana:hunter2@127.0.0.1:1/mana"
    )
    message = refusal(run_manage(*command.split(), env={"DATABASE_URL": url}))
    assert "hunter2" not in message


@pytest.mark.sqlite
def test_an_empty_database_is_told_to_migrate(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/empty.sqlite3"
    assert "run: python manage.py migrate" in refusal(run_manage("migrate_users", env={"DATABASE_URL": url}))


@pytest.mark.django_db(transaction=True)
def test_a_read_only_database_takes_dry_runs_and_nothing_else() -> None:
    keys = people(3)
    migrate("--limit", "1")
    read_only = {"DJANGO_SETTINGS_MODULE": "tests.support.read_only_site"}
    with assert_nothing_changes():
        for argv in (
            ("migrate_users",),
            ("migrate_users", "--user-id", f"pk:{keys[2]}"),
            ("rollback_migration", "--all", "--no-input"),
        ):
            message = refusal(run_manage(*argv, env=read_only))
            assert "read-only" in message or "readonly" in message
        told = run_manage("migrate_users", "--dry-run", "--format", "json", env=read_only)
        assert told.code == 0, told.err
        assert json.loads(told.out)["users"]["selected"] == 2
    assert MigrationRun.objects.count() == 1


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_bad_input_of_a_real_process_is_one_line_as_well() -> None:
    with assert_nothing_changes():
        assert "batch size '0'" in refusal(run_manage("migrate_users", "--batch-size", "0"), code=2)
        assert "2025-13-45" in refusal(run_manage("rollback_migration", "--since", "2025-13-45"), code=2)
        assert "GREEN_RATE" in refusal(run_manage("migrate_users", env={"GREEN_RATE": "ten"}))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("migrate_users", "--rehearse", "-1"), "'-1': give a whole number from 0"),
        (("migrate_users", "--limit", "0"), "'0': give a whole number from 1"),
        (("migrate_users", "--limit", str(2**63)), f"give a whole number from 1 to {2**63 - 1}"),
    ],
)
def test_the_range_of_a_number_is_said_as_it_is(argv: tuple[str, ...], says: str) -> None:
    done = run_manage(*argv)
    assert done.code == 2
    assert f"{says} (--help" in done.err
