"""The database roles of scripts/database_roles.sql: what each may do, and what each is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import run_manage
from tests.support.driver import psycopg
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.postgres]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "database_roles.sql"
LEDGER = "wishes_manaentry"

ENTRY = (
    "INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at) "
    "VALUES (1, 10, 10, 'earn', 'test', now())"
)
REFUSED_TO_ALL = {
    "upsert an entry": f"{ENTRY} ON CONFLICT (reference) DO UPDATE SET amount = 1",
    "lock an entry": f"SELECT 1 FROM {LEDGER} FOR UPDATE",
    "switch a guard off": f"ALTER TABLE {LEDGER} DISABLE TRIGGER ALL",
    "drop a guard": f"DROP TRIGGER {LEDGER}_no_change ON {LEDGER}",
    "get around the guards": "SET session_replication_role = replica",
    "drop a table": "DROP TABLE mana_migration_runevent",
}
ROLES = ("mana_app", "mana_migrator", "mana_auditor")
PRIVILEGES = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "t": "TRUNCATE", "x": "REFERENCES"}

#: What each role may do with each table, as the script says: r read, a add, w change, d delete.
MATRIX = {
    "wishes_wallet":                 {"mana_app": "raw", "mana_migrator": "raw", "mana_auditor": "r"},
    "wishes_manaentry":              {"mana_app": "ra", "mana_migrator": "ra", "mana_auditor": "r"},
    "wishes_wishentry":              {"mana_app": "ra", "mana_migrator": "ra", "mana_auditor": "r"},
    "wishes_guard":                  {"mana_app": "r", "mana_migrator": "ra", "mana_auditor": "r"},
    "mana_migration_migrationrun":   {"mana_app": "raw", "mana_migrator": "raw", "mana_auditor": "r"},
    "mana_migration_migrationbatch": {"mana_app": "raw", "mana_migrator": "raw", "mana_auditor": "r"},
    "mana_migration_usermigration":  {"mana_app": "raw", "mana_migrator": "rawd", "mana_auditor": "r"},
    "mana_migration_runevent":       {"mana_app": "ra", "mana_migrator": "ra", "mana_auditor": "r"},
    "mana_migration_integrityfix":   {"mana_app": "r", "mana_migrator": "raw", "mana_auditor": "r"},
    "mana_migration_checklist":      {"mana_app": "r", "mana_migrator": "raw", "mana_auditor": "r"},
    "mana_migration_rehearsal":      {"mana_app": "r", "mana_migrator": "ra", "mana_auditor": "r"},
    "mana_migration_closing":        {"mana_app": "r", "mana_migrator": "ra", "mana_auditor": "r"},
    "mana_migration_reportfile":     {"mana_app": "rawd", "mana_migrator": "rawd", "mana_auditor": "r"},
    "mana_migration_runrequest":    {"mana_app": "raw", "mana_migrator": "raw", "mana_auditor": "r"},
    "mana_migration_directwrite":    {"mana_app": "r", "mana_migrator": "r", "mana_auditor": "r"},
    "django_migrations":             {"mana_app": "r", "mana_migrator": "r", "mana_auditor": "r"},
    "auth_user":                     {"mana_app": "rawd", "mana_migrator": "ra", "mana_auditor": ""},
    "django_session":                {"mana_app": "rawd", "mana_migrator": "", "mana_auditor": ""},
}  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Return the address of a database with the schema and the roles."""
    with Postgres() as server:
        url = server.url("postgres")
        assert run_manage("migrate", "--verbosity", "0", env={"DATABASE_URL": url}).code == 0
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            script = SCRIPT.read_text()
            cursor.execute(script)
            cursor.execute(script)  # twice is as good as once
            cursor.execute("ALTER ROLE mana_app LOGIN; ALTER ROLE mana_migrator LOGIN; ALTER ROLE mana_auditor LOGIN")
        connection.close()
        yield url


def as_role(url: str, role: str) -> str:
    """Return the same address for another role."""
    return url.replace("//postgres@", f"//{role}@")


REFUSALS = [
    pytest.param(role, sql, id=f"{role} may not {what}") for role in ROLES for what, sql in REFUSED_TO_ALL.items()
]


@pytest.mark.parametrize(("role", "sql"), REFUSALS)
def test_is_refused_for_want_of_the_right(site: str, role: str, sql: str) -> None:
    connection = psycopg.connect(as_role(site, role))
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.cursor() as cursor:
            cursor.execute(sql)
    finally:
        connection.close()


@pytest.mark.parametrize("table", MATRIX)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_the_table_says_and_no_more(site: str, role: str, table: str) -> None:
    with psycopg.connect(site) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT letter FROM unnest(%s, %s) AS p(letter, name) WHERE has_table_privilege(%s, %s, name)",
            [list(PRIVILEGES), list(PRIVILEGES.values()), role, table],
        )
        allowed = "".join(letter for (letter,) in cursor.fetchall())
    connection.close()
    assert allowed == MATRIX[table][role]


def test_the_table_names_every_table_of_this_project(site: str) -> None:
    with psycopg.connect(site) as connection, connection.cursor() as cursor:
        cursor.execute(r"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(wishes|mana_migration)_'")
        found = {name for (name,) in cursor.fetchall()}
        assert found == {name for name in MATRIX if name.startswith(("wishes_", "mana_migration_"))}
    connection.close()


@pytest.mark.parametrize(("role", "allowed"), [("mana_app", False), ("mana_migrator", True)])
def test_the_announcement_of_a_reversal_counts_for_the_migrator_alone(site: str, role: str, allowed: bool) -> None:
    connection = psycopg.connect(site)
    with connection.cursor() as cursor:
        cursor.execute(
            "SET LOCAL session_replication_role = replica; INSERT INTO wishes_wallet (user_id, migrated_at) "
            "VALUES (1000, now()); SET LOCAL session_replication_role = origin"
        )
        cursor.execute(f"SET LOCAL ROLE {role}; SET LOCAL wishes.reversal = 'on'")
        reverse = "UPDATE wishes_wallet SET migrated_at = NULL WHERE user_id = 1000"
        if allowed:
            cursor.execute(reverse)
            assert cursor.rowcount == 1
        else:
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="migrated to mana"):
                cursor.execute(reverse)
    connection.rollback()
    connection.close()


@pytest.mark.parametrize("command", [["rollback_migration", "--all", "--no-input"], ["migrate_users", "--no-input"]])
def test_a_role_that_may_not_reverse_is_refused_before_anything_is_done(site: str, command: list[str]) -> None:
    result = run_manage(*command, env=os.environ | {"DATABASE_URL": as_role(site, "mana_app")})
    assert result.code == 1, result
    assert "the database role mana_app may not reverse conversions; nothing was changed" in result.err


def test_the_commands_work_as_the_migrator_and_the_auditor_sees_the_result(site: str, tmp_path: Path) -> None:
    export = tmp_path / "export.csv"
    export.write_text(
        "id,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed\nu1,3,2,1,0,\n"
    )
    environment = os.environ | {"DATABASE_URL": as_role(site, "mana_migrator")}
    for command in (
        ["import_balances", str(export)],
        ["migrate_users", "--no-input"],
        ["validate_migration"],
        ["rollback_migration", "--all", "--no-input", "--no-preserve-logs"],
        ["migrate_users", "--no-input"],
    ):
        result = run_manage(*command, env=environment)
        assert result.code == 0, f"{command}: {result.out}{result.err}"
    environment["DATABASE_URL"] = as_role(site, "mana_auditor")
    for command in (["validate_migration"], ["monitor_migration", "--report"], ["migrate_users", "--dry-run"]):
        result = run_manage(*command, env=environment)
        assert result.code == 0, f"{command}: {result.out}{result.err}"
    auditor = psycopg.connect(as_role(site, "mana_auditor"))
    with auditor, auditor.cursor() as cursor:
        cursor.execute(
            "SELECT w.mana, count(e.id) FROM wishes_wallet w JOIN wishes_manaentry e USING (user_id) GROUP BY 1"
        )
        assert cursor.fetchall() == [(1230, 3)]
    auditor.close()


def test_the_site_earns_and_spends_as_the_app(site: str) -> None:
    code = (
        "from django.contrib.auth.models import User; from wishes import services; "
        "u = User.objects.create(username='shopper'); "
        "services.earn_wishes(u, 'green', 5, reference='a'); services.earn_mana(u, 20, reference='b'); "
        "services.spend_mana(u, 7, reference='c'); print(services.read_balance(u).mana)"
    )
    result = run_manage(
        "shell", "--verbosity", "0", "-c", code, env=os.environ | {"DATABASE_URL": as_role(site, "mana_app")}
    )
    assert result.code == 0, result.err
    assert result.out.strip().endswith("13")
