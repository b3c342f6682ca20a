"""The database roles of scripts/database_roles.sql: what each may do, and what each is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest

from tests.support.commands import run_manage
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.postgres]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "database_roles.sql"
LEDGER = "wishes_manaentry"

ENTRY = (
    "INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at) "
    "VALUES (1, 10, 10, 'earn', 'test', now())"
)
REFUSED_TO_ALL = {
    "change an entry": f"UPDATE {LEDGER} SET amount = 1",
    "delete an entry": f"DELETE FROM {LEDGER}",
    "empty the ledger": f"TRUNCATE {LEDGER}",
    "upsert an entry": f"{ENTRY} ON CONFLICT (reference) DO UPDATE SET amount = 1",
    "lock an entry": f"SELECT 1 FROM {LEDGER} FOR UPDATE",
    "switch a guard off": f"ALTER TABLE {LEDGER} DISABLE TRIGGER ALL",
    "drop a guard": f"DROP TRIGGER {LEDGER}_no_change ON {LEDGER}",
    "get around the guards": "SET session_replication_role = replica",
    "delete a wallet": "DELETE FROM wishes_wallet",
    "empty the wallets": "TRUNCATE wishes_wallet CASCADE",
    "delete a run": "DELETE FROM mana_migration_migrationrun",
    "change an event": "UPDATE mana_migration_runevent SET message = ''",
    "drop a table": "DROP TABLE mana_migration_runevent",
}
REFUSED_TO_ONE = {
    "mana_app": {"delete a record": "DELETE FROM mana_migration_usermigration"},
    "mana_migrator": {
        "change a user": "UPDATE auth_user SET is_superuser = true",
        "read a session": "SELECT * FROM django_session",
    },
    "mana_auditor": {
        "add an entry": ENTRY,
        "change a wallet": "UPDATE wishes_wallet SET mana = 5",
        "read a user": "SELECT * FROM auth_user",
        "write a record": "UPDATE mana_migration_usermigration SET status = 'rolled_back'",
    },
}


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Return the address of a database with the schema and the roles."""
    with Postgres() as server:
        url = server.url("postgres")
        assert run_manage("migrate", "--verbosity", "0", env={"DATABASE_URL": url}).code == 0
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
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
    pytest.param(role, sql, id=f"{role} may not {what}")
    for role, own in REFUSED_TO_ONE.items()
    for what, sql in (REFUSED_TO_ALL | own).items()
]


@pytest.mark.parametrize(("role", "sql"), REFUSALS)
def test_is_refused_for_want_of_the_right(site: str, role: str, sql: str) -> None:
    connection = psycopg2.connect(as_role(site, role))
    try:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection.cursor() as cursor:
            cursor.execute(sql)
    finally:
        connection.close()


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
    auditor = psycopg2.connect(as_role(site, "mana_auditor"))
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
