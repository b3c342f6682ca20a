"""What a site's own triggers and rules do to the rows of a batch is noticed before its transaction commits.

For each table that a batch writes and each kind of work: a row dropped, changed, and doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, connection

from mana_migration.engine import conversion, driver, reversal
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.failures import NotKeptError
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.models import MigrationRun
from mana_migration.states import RunKind
from tests.mana_migration.engine.one_batch import RATES, in_transaction, open_run, plan
from tests.mana_migration.engine.one_batch import convert as convert_now
from tests.mana_migration.running import balanced, migrate, people, records, wallet
from tests.support.commands import run_command
from tests.support.oracle import assert_nothing_changes

pytestmark = pytest.mark.django_db(transaction=True)

LIMITS = Limits(lock_ms=1_000, statement_ms=60_000)

WALLETS, ENTRIES = "wishes_wallet", "wishes_manaentry"
RECORDS, BATCHES = "mana_migration_usermigration", "mana_migration_migrationbatch"

#: Each write of each kind of work: table, event, the column that a site's trigger changes.
WRITES = {
    "migration": (
        (WALLETS, "UPDATE", "mana"),
        (ENTRIES, "INSERT", "amount"),
        (RECORDS, "INSERT", "mana_credited"),
        (BATCHES, "UPDATE", "migrated"),
    ),
    "rollback": (
        (WALLETS, "UPDATE", "mana"),
        (ENTRIES, "INSERT", "amount"),
        (RECORDS, "UPDATE", "mana_debited"),
        (BATCHES, "UPDATE", "rolled_back"),
    ),
    "rollback without records": ((RECORDS, "DELETE", ""),),
}
CASES = [(kind, *write) for kind, writes in WRITES.items() for write in writes]
IDS = [f"{kind}: {event} {table}" for kind, table, event, _ in CASES]
CHANGED = [case for case in CASES if case[3]]
CHANGED_IDS = [f"{kind}: {event} {table}" for kind, table, event, _ in CHANGED]


@contextmanager
def attached(name: str, table: str, *statements: str) -> Iterator[None]:
    """Attach something of the site's own for a block."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            on = f" ON {table}" if connection.vendor == "postgresql" else ""
            cursor.execute(f"DROP {'RULE' if 'RULE' in statements[-1] else 'TRIGGER'} IF EXISTS {name}{on}")
            if connection.vendor == "postgresql":
                cursor.execute("DROP FUNCTION IF EXISTS sites() CASCADE")


def trigger(table: str, event: str, body: str, *, when: str = "", timing: str = "BEFORE") -> list[str]:
    """Return the statements that create a PostgreSQL trigger."""
    return [
        f"CREATE OR REPLACE FUNCTION sites() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        f"CREATE TRIGGER sites {timing} {event} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION sites()",
    ]


def guilty(table: str, event: str, key: Any) -> str:
    """Return the condition of the row that is tampered with: one user's, or any batch's end."""
    row = "OLD" if event == "DELETE" else "NEW"
    literal = key if isinstance(key, int) else f"'{key}'"  # SQLite compares without casts
    return f"{row}.status = 'done'" if table == BATCHES else f"{row}.user_id = {literal}"


class Work:
    """A batch of six users that is to be handled."""

    def __init__(self, kind: str) -> None:
        self.keys = people(6)
        if kind == "migration":
            self.run = open_run()
        else:
            convert_now(open_run(), self.keys)
            self.run = open_run(RunKind.ROLLBACK, preserve_logs=kind == "rollback")
        self._kind = kind
        batch = plan(self.run, self.keys)
        self._task = Task(batch.pk, batch.first_user, batch.last_user, "host:1")

    def do(self) -> Handled | None:
        """Handle the batch as a worker does, which tries a statement again that a rule made impossible."""
        while True:
            try:
                return in_transaction(self._once)
            except DatabaseError as error:
                if driver.sqlstate(error) != "0A000":
                    raise

    def _once(self) -> Handled | None:
        if self._kind == "migration":
            terms = ConversionTerms(run=self.run.pk, rates=RATES)
            return conversion.convert(connection, terms, self._task, LIMITS)
        back = ReversalTerms(run=self.run.pk, preserve_logs=self._kind == "rollback")
        return reversal.reverse(connection, back, self._task, LIMITS)

    def goes_through(self) -> None:
        """Assert that the batch is handled when nothing is attached any more."""
        with balanced():
            assert self.do() is not None
        assert {wallet(key)[4] for key in self.keys} == {self._kind == "migration"}


def refused(work: Work) -> str:
    """Assert that the batch fails and leaves nothing behind; return why."""
    with assert_nothing_changes(), pytest.raises(DatabaseError) as caught:
        work.do()
    return str(caught.value)


@pytest.mark.postgres
@pytest.mark.parametrize(("kind", "table", "event", "column"), CASES, ids=IDS)
def test_a_row_that_a_trigger_drops_fails_the_batch(kind: str, table: str, event: str, column: str) -> None:
    work = Work(kind)
    when = f"WHEN ({guilty(table, event, work.keys[2])})"
    with attached("sites", table, *trigger(table, event, "RETURN NULL;", when=when)):
        assert "did not keep" in refused(work)
    work.goes_through()


@pytest.mark.postgres
@pytest.mark.parametrize(("kind", "table", "event", "column"), CHANGED, ids=CHANGED_IDS)
def test_a_row_that_a_trigger_changes_fails_the_batch(kind: str, table: str, event: str, column: str) -> None:
    work = Work(kind)
    body = f"NEW.{column} := NEW.{column} + 1; RETURN NEW;"
    when = f"WHEN ({guilty(table, event, work.keys[2])})"
    with attached("sites", table, *trigger(table, event, body, when=when)):
        refused(work)  # where a constraint does not refuse it anyway
    work.goes_through()


#: What a trigger does once more, behind each write of a migration.
AGAIN = {
    WALLETS: ("UPDATE", f"UPDATE {WALLETS} SET mana = mana + 1 WHERE user_id = NEW.user_id"),
    ENTRIES: (
        "INSERT",
        f"INSERT INTO {ENTRIES} (user_id, amount, balance_after, kind, reference, created_at) VALUES "
        "(NEW.user_id, NEW.amount, NEW.balance_after, 'adjustment', NEW.reference || ' again', now())",
    ),
    "an entry's wallet": ("INSERT", f"UPDATE {WALLETS} SET mana = mana + NEW.amount WHERE user_id = NEW.user_id"),
}


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["migration", "rollback"])
@pytest.mark.parametrize("again", AGAIN)
def test_a_row_that_a_trigger_writes_once_more_fails_the_batch(kind: str, again: str) -> None:
    work = Work(kind)
    event, statement = AGAIN[again]
    table = again if again in (WALLETS, ENTRIES) else ENTRIES
    body = f"IF pg_trigger_depth() < 2 THEN {statement}; END IF; RETURN NULL;"
    when = f"WHEN ({guilty(table, event, work.keys[2])})"
    with attached("sites", table, *trigger(table, event, body, when=when, timing="AFTER")):
        refused(work)
    work.goes_through()


@pytest.mark.postgres
@pytest.mark.parametrize(("kind", "table", "event", "column"), CASES, ids=IDS)
@pytest.mark.parametrize("whole", [True, False], ids=["every row", "one row"])
def test_a_row_that_a_rule_drops_fails_the_batch(kind: str, table: str, event: str, column: str, whole: bool) -> None:
    work = Work(kind)
    condition = "" if whole else f"WHERE {guilty(table, event, work.keys[2])}"
    with attached("sites", table, f"CREATE RULE sites AS ON {event} TO {table} {condition} DO INSTEAD NOTHING"):
        refused(work)
    work.goes_through()


@pytest.mark.sqlite
@pytest.mark.parametrize(("kind", "table", "event", "column"), CASES, ids=IDS)
def test_a_row_that_a_trigger_of_sqlite_drops_fails_the_batch(kind: str, table: str, event: str, column: str) -> None:
    work = Work(kind)
    when = guilty(table, event, work.keys[2])
    create = f"CREATE TRIGGER sites BEFORE {event} ON {table} WHEN {when} BEGIN SELECT RAISE(IGNORE); END"
    with attached("sites", table, create):
        assert "did not keep" in refused(work)
    work.goes_through()


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", ["migration", "rollback"])
@pytest.mark.parametrize("again", AGAIN)
def test_a_row_that_a_trigger_of_sqlite_writes_once_more_fails_the_batch(kind: str, again: str) -> None:
    work = Work(kind)
    event, statement = AGAIN[again]
    table = again if again in (WALLETS, ENTRIES) else ENTRIES
    when = guilty(table, event, work.keys[2])
    when += " AND NEW.mana <> OLD.mana + 1" if table == WALLETS else " AND NEW.kind <> 'adjustment'"
    statement = statement.replace("now()", "'2026-01-01 00:00:00'")
    create = f"CREATE TRIGGER sites AFTER {event} ON {table} WHEN {when} BEGIN {statement}; END"
    with attached("sites", table, create):
        refused(work)
    work.goes_through()


@pytest.mark.postgres
def test_a_trigger_that_only_watches_costs_no_user() -> None:
    work = Work("migration")
    with attached("sites", WALLETS, *trigger(WALLETS, "UPDATE", "RETURN NEW;")):
        work.goes_through()


@pytest.mark.postgres
def test_a_trigger_that_is_attached_while_a_run_works_is_noticed_by_the_next_batch() -> None:
    first = Work("migration")
    first.goes_through()
    second, keys = first.run, people(4)
    when = f"WHEN (NEW.user_id = '{keys[1]}')"
    trap = attached("sites", WALLETS, *trigger(WALLETS, "UPDATE", "RETURN NULL;", when=when))
    with trap, pytest.raises(NotKeptError):
        convert_now(second, keys)
    assert MigrationRun.objects.get(pk=second.pk).status == "running"


def dropping(table: str, event: str, condition: str) -> list[str]:
    """Return the statements that make the database drop rows in silence."""
    if connection.vendor == "postgresql":
        return trigger(table, event, "RETURN NULL;", when=f"WHEN ({condition})")
    return [f"CREATE TRIGGER sites BEFORE {event} ON {table} WHEN {condition} BEGIN SELECT RAISE(IGNORE); END"]


def test_a_run_leaves_the_one_user_whose_wallet_is_not_written_and_converts_the_others() -> None:
    keys = people(12)
    with balanced(), attached("sites", WALLETS, *dropping(WALLETS, "UPDATE", guilty(WALLETS, "UPDATE", keys[5]))):
        done = migrate("--batch-size", 5, "--error-threshold", 50, code=3)
    assert (done["users"]["migrated"], done["errors"]) == (11, {"not_kept": 1})
    assert records(keys[5]) == [("failed", "not_kept")]
    assert not wallet(keys[5])[4]


@pytest.mark.parametrize("table", [RECORDS, BATCHES])
def test_a_run_whose_own_rows_are_dropped_stops_and_stays_open(table: str) -> None:
    keys = people(12)
    condition = guilty(RECORDS, "INSERT", keys[5]) if table == RECORDS else "NEW.status = 'planned'"
    with balanced(), attached("sites", table, *dropping(table, "INSERT", condition)):
        result = run_command("migrate_users", "--batch-size", "5", "--delay", "0")
    assert (result.code, "did not keep" in result.err) == (1, True)
    assert MigrationRun.objects.get().status == "running"
    with balanced():
        migrate("--batch-size", 5)
    assert all(wallet(key)[4] for key in keys)
