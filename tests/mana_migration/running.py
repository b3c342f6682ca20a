"""Runs as tests start them: commands with their JSON, books that must balance, users whom the database refuses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from mana_migration.engine import chain
from mana_migration.engine import users as user_keys
from mana_migration.models import MigrationRun, RunEvent, UserMigration
from tests.factories import make_wallets
from tests.support.commands import Result, run_command, run_manage
from tests.support.oracle import assert_books_balance, endowment
from wishes.models import ManaEntry, Wallet

RECORDS = "mana_migration_usermigration"


def told(result: Result, code: int = 0) -> dict[str, Any]:
    """Return the one JSON object on a command's stdout, whose exit code must be this one."""
    assert result.code == code, f"exit code {result.code}: {result.out}{result.err}"
    assert result.out.count("\n") == 1, f"not one line: {result.out}"
    found: dict[str, Any] = json.loads(result.out)
    return found


def migrate(*argv: object, code: int = 0) -> dict[str, Any]:
    """Run migrate_users in this process and return its JSON."""
    return told(run_command("migrate_users", "--format", "json", "--delay", "0", *argv), code)


def roll_back(*argv: object, code: int = 0) -> dict[str, Any]:
    """Run rollback_migration in this process and return its JSON."""
    return told(run_command("rollback_migration", "--format", "json", "--no-input", *argv), code)


def migrate_elsewhere(*argv: object, code: int = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run migrate_users as a process of its own and return its JSON."""
    return told(run_manage("migrate_users", "--format", "json", "--delay", "0", *argv, env=env), code)


def refusal(result: Result, code: int = 1) -> str:
    """Return the one line on stderr by which a command refused; stdout has the same where JSON was asked for."""
    assert result.code == code, result
    if result.out:
        error = json.loads(result.out)["error"]
        assert (error["exit_code"], f"CommandError: {error['message']}\n") == (code, result.err), result
    assert result.err.count("\n") == 1, f"not one line: {result.err}"
    assert "Traceback" not in result.err
    return result.err


@contextmanager
def balanced(*, orphans: Iterable[object] = ()) -> Iterator[None]:
    """Fail if the books or the chains do not hold after the block, or if it created or lost value."""
    before = endowment()
    yield
    assert_books_balance(expected=before, orphans=tuple(orphans))
    assert not chain.walk("default").breaks


def people(number: int, *, green: int = 3, blue: int = 2, red: int = 1) -> list[Any]:
    """Create users who are alike and return their primary keys in order."""
    return keys_of(make_wallets([(green, blue, red)] * number))


def town(number: int) -> list[Any]:
    """Create users who differ and return their primary keys in order."""
    return keys_of(make_wallets([(n % 7, n % 5, n % 3) for n in range(number)]))


def keys_of(wallets: Iterable[Wallet]) -> list[Any]:
    """Return the primary keys of users, in order."""
    return sorted(wallet.pk for wallet in wallets)


def wallet(key: Any) -> tuple[int, int, int, int, bool]:
    """Return green, blue, red, mana and whether the wallet is migrated."""
    found = Wallet.objects.get(pk=key)
    return found.green, found.blue, found.red, found.mana, found.migrated_at is not None


def converted() -> int:
    """Return how many wallets are migrated."""
    return Wallet.objects.exclude(migrated_at=None).count()


def entries(key: Any) -> list[tuple[str, int, int]]:
    """Return a user's ledger as (kind, amount, balance after), oldest first."""
    return list(ManaEntry.objects.filter(user_id=key).order_by("id").values_list("kind", "amount", "balance_after"))


def records(key: Any) -> list[tuple[str, str]]:
    """Return a user's records as (status, error class), oldest first."""
    found = UserMigration.objects.filter(user_id=key).order_by("id")
    return list(found.values_list("status", "error_class"))


def events(run: int) -> list[str]:
    """Return the kinds of a run's events, oldest first."""
    return list(RunEvent.objects.filter(run=run).order_by("id").values_list("kind", flat=True))


def status(run: int) -> str:
    """Return a run's status."""
    return MigrationRun.objects.get(pk=run).status


def refuse_records(keys: Iterable[Any], *, message: str = "planted", state: str = "23514") -> None:
    """Plant a failure: the database refuses the conversion records of these users, with this SQLSTATE on PostgreSQL."""
    plant("INSERT", f"NEW.status = 'migrated' AND NEW.user_id IN ({_literals(keys)})", message=message, state=state)


def plant(event: str, condition: str, *, message: str = "planted", state: str = "23514") -> None:
    """Let the database refuse an INSERT or UPDATE of records; nothing in the product may know of it."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                f"CREATE TRIGGER planted BEFORE {event} ON {RECORDS} WHEN {condition} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
            return
        cursor.execute(
            "CREATE OR REPLACE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = '{message}'; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER planted BEFORE {event} ON {RECORDS} FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION planted()"
        )


def cure() -> None:
    """Take the planted failure away."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER IF EXISTS planted" + (f" ON {RECORDS}" * (connection.vendor == "postgresql")))


@contextmanager
def planted(keys: Iterable[Any], **values: str) -> Iterator[None]:
    """Plant a failure for a block; for tests whose data is committed."""
    refuse_records(keys, **values)
    try:
        yield
    finally:
        cure()


def _literals(keys: Iterable[Any]) -> str:
    return ", ".join(f"'{key}'" if isinstance(key, str) else user_keys.to_text(key) for key in keys)
