"""Everything works through a real PgBouncer in transaction mode, whatever the site says of server-side cursors.

Two server connections serve all clients: whoever keeps something in a session soon meets another one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test.utils import CaptureQueriesContext

from mana_migration.engine import conversion, reversal
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.states import RunKind
from tests.journeys.test_end_to_end import write_export
from tests.mana_migration.engine.one_batch import RATES, in_transaction, open_run, plan
from tests.mana_migration.running import balanced, people
from tests.support.databases import own_database
from tests.support.oracle import (
    assert_books_balance,
    assert_everyone_is_accounted_for,
    assert_nothing_changes,
    endowment,
)
from tests.support.pgbouncer import PgBouncer
from tests.support.processes import FORK, doomed, manage, run
from tests.support.together import together
from wishes import services
from wishes.models import Wallet

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

LIMITS = Limits(lock_ms=1_000, statement_ms=60_000)


@pytest.fixture
def pooler(tmp_path: Path) -> Iterator[PgBouncer]:
    """Put a pooler between this test, with all its processes, and a database of the test's own."""
    settings = connections["default"].settings_dict
    with own_database(tmp_path, copy=True) as own, PgBouncer(own) as between, pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOST": str(between.folder), "PORT": str(between.port), "NAME": own["NAME"]}.items():
            patch.setitem(settings, name, value)
        yield between
        connections["default"].close()


@pytest.fixture(params=[True, False], ids=["no-server-side-cursors", "server-side-cursors"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Say in the settings, as a site behind a pooler should, that sessions are not its own; or forget to."""
    monkeypatch.setitem(connections["default"].settings_dict, "DISABLE_SERVER_SIDE_CURSORS", request.param)
    return bool(request.param)


@pytest.fixture
def several_in_a_message() -> Iterator[None]:
    """Let the processes that this one forks send batches together, few as they are."""
    with together():
        yield


# --- The commands -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("said", "several_in_a_message")
def test_a_legacy_export_becomes_mana_and_goes_back_through_a_pooler(pooler: PgBouncer, tmp_path: Path) -> None:
    export = tmp_path / "legacy.csv"
    write_export(export, 600)
    assert run("import_balances", export).code == 0
    before = endowment()
    with assert_nothing_changes():
        assert run("migrate_users", "--dry-run").code == 3
        assert run("validate_migration", "--pre-migration").code == 3

    start = FORK.Barrier(2)
    argv = ("migrate_users", "--auto-fix", "--batch-size", "50", "--delay", "0", "--format", "json")
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(manage(*argv, prepare=start.wait)) for _ in range(2)]  # type: ignore[arg-type]
        assert [process.end().code for process in both] == [0, 0]
    (opened,) = MigrationRun.objects.filter(kind="migration")
    assert (opened.status, opened.folded["totals"]["migrated"]) == ("completed", 588)
    assert_everyone_is_accounted_for(opened.pk)
    assert_books_balance(expected=before)

    seen = json.loads(run("monitor_migration", "--format", "json").out)
    assert seen["users"]["migrated"] == 588
    report = tmp_path / "users.csv"
    assert run("monitor_migration", "--report", "--export", "csv", "--output", report).code == 0
    assert len(report.read_text().splitlines()) > 588
    assert run("validate_migration").code == 0

    spender = Wallet.objects.filter(mana__gt=0, migrated_at__isnull=False, user__username="legacy-0010").get().pk
    services.spend_mana(spender, 1, reference="order:1")
    back = run("rollback_migration", "--run", opened.pk, "--batch-size", "50", "--no-input", "--format", "json")
    assert (back.code, json.loads(back.out)["users"]["rolled_back"]) == (3, 587)
    assert_books_balance(expected=before)
    found = run("validate_migration")  # what the run's auto-fix had repaired is as it was before the run
    assert (found.code, "12 error-level findings" in found.out) == (3, True)
    assert pooler.ask("SHOW POOLS")  # it was there all the time


@pytest.mark.usefixtures("said")
def test_what_is_killed_behind_a_pooler_is_gone_on_with(pooler: PgBouncer) -> None:
    people(120)
    before = endowment()
    argv = ("migrate_users", "--batch-size", "10", "--delay", "0", "--format", "json")
    with doomed("mana_migration.engine.conversion:convert", 5, *argv) as victim:
        assert victim.end().code == -9
    assert MigrationRun.objects.get().status == "running"
    assert run(*argv).code == 0
    assert MigrationRun.objects.get().folded["totals"]["migrated"] == 120
    assert_books_balance(expected=before)


def test_a_run_outlives_its_pooler(pooler: PgBouncer) -> None:
    people(200)
    before = endowment()
    with manage("migrate_users", "--batch-size", "5", "--delay", "0.02", "--format", "json") as running:
        running.until(lambda: MigrationBatch.objects.filter(status="done").exists())
        connections["default"].close()
        pooler.stop()
        pooler.start()
        assert running.told()["users"]["migrated"] == 200
    assert_books_balance(expected=before)


# --- Prepared statements ----------------------------------------------------------------------------------------------


#: What Django logs of a transaction itself.
TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK")


class Client:
    """A client of the pooler, with a connection of its own."""

    def __init__(self, run: MigrationRun) -> None:
        self.connection: BaseDatabaseWrapper = connections["default"].copy()
        self._run, self._terms = run, ConversionTerms(run=run.pk, rates=RATES)

    def convert(self, keys: list[Any]) -> list[str]:
        """Convert users in a batch of their own, and return what each message for it was."""
        batch = plan(self._run, keys)
        task = Task(batch.pk, batch.first_user, batch.last_user, "host:1")
        self.connection.ensure_connection()  # whose own questions are not of interest
        with CaptureQueriesContext(self.connection) as seen:
            handled = self.alone(lambda: conversion.convert(self.connection, self._terms, task, LIMITS))
        assert handled is not None
        assert handled.totals.migrated == len(keys)
        return [kind_of(query["sql"]) for query in seen.captured_queries if query["sql"] not in TRANSACTION]

    def alone(self, statement: Callable[[], Handled | None]) -> Handled | None:
        """Handle a batch in a transaction of its own on this client's connection."""
        usual = connections["default"]
        connections["default"] = self.connection
        try:
            return in_transaction(statement)
        finally:
            connections["default"] = usual

    def ask(self, question: str) -> Any:
        """Return the one value that a SELECT gives."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT {question}")
            return cursor.fetchone()[0]

    @contextlib.contextmanager
    def holding_a_session(self) -> Iterator[int]:
        """Keep one of the server's sessions from all others, by a transaction, and yield its number."""
        self.connection.set_autocommit(False)
        yield self.ask("pg_backend_pid()")
        self.connection.rollback()
        self.connection.set_autocommit(True)


def kind_of(message: str) -> str:
    """Say whether a message prepares its statement, takes it for known, or holds its text."""
    return "prepares" if "PREPARE mana_" in message else "knows" if "EXECUTE mana_" in message else "plain"


@pytest.fixture
def clients(pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Client]]:
    """Return a maker of clients who prepare, all of one run."""
    monkeypatch.setitem(connections["default"].settings_dict, "DISABLE_SERVER_SIDE_CURSORS", False)
    opened: list[Client] = []
    run = open_run()

    def client() -> Client:
        opened.append(Client(run))
        return opened[-1]

    yield client
    for each in opened:
        each.connection.close()


def test_a_statement_prepared_in_one_session_is_executed_in_another(clients: Callable[[], Client]) -> None:
    keys = people(10)
    with balanced():
        first, second, holder = clients(), clients(), clients()
        assert first.convert(keys[:2]) == ["prepares"]
        assert first.convert(keys[2:4]) == ["knows"]
        with holder.holding_a_session() as held:
            # the server that knew it is taken: the other one has never heard of it, and is taught
            assert first.convert(keys[4:6]) == ["knows", "prepares"]
            assert first.ask("pg_backend_pid()") != held
            # it was prepared there by somebody else
            assert second.convert(keys[6:8]) == ["prepares", "knows"]
        assert first.convert(keys[8:]) == ["knows"]
    assert Wallet.objects.exclude(migrated_at=None).count() == 10


def test_a_pooler_that_gives_another_session_each_time_is_sent_plain_text(
    clients: Callable[[], Client], pooler: PgBouncer
) -> None:
    keys = people(12)
    client = clients()
    said = []
    with balanced():
        for place in range(0, 12, 2):
            said.append(client.convert(keys[place : place + 2]))
            connections["default"].close()
            pooler.ask("RECONNECT")
    forgotten = ["knows", "prepares"]
    assert said == [["prepares"], forgotten, forgotten, ["knows", "plain"], ["plain"], ["plain"]]
    assert Wallet.objects.exclude(migrated_at=None).count() == 12


def test_a_batch_leaves_nothing_in_a_session_that_others_get_next(clients: Callable[[], Client]) -> None:
    names = ("lock_timeout", "statement_timeout", "jit", "enable_seqscan", "enable_hashjoin", "plan_cache_mode")
    settings = " || ' ' || ".join(f"current_setting('{name}')" for name in names)
    lifted = "COALESCE(current_setting('wishes.reversal', true), '')"
    keys = people(4)
    client, other, holder = clients(), clients(), clients()
    before = other.ask(settings)
    client.convert(keys[:2])
    with holder.holding_a_session() as held:
        client.convert(keys[2:])
        assert run_reversal(client, keys) == 4
        assert other.ask("pg_backend_pid()") != held
        for each in (other, holder):
            assert each.ask(settings) == before
            assert each.ask(lifted) == ""
            assert each.ask("COUNT(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def run_reversal(client: Client, keys: list[Any]) -> int:
    """Take the conversions of users back, and return of how many."""
    back = open_run(RunKind.ROLLBACK)
    batch = plan(back, keys)
    task = Task(batch.pk, batch.first_user, batch.last_user, "host:1")
    terms = reversal.ReversalTerms(run=back.pk)
    handled = client.alone(lambda: reversal.reverse(client.connection, terms, task, LIMITS))
    assert handled is not None
    return handled.totals.rolled_back


def test_four_processes_share_two_sessions(pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "DISABLE_SERVER_SIDE_CURSORS", False)
    people(300)
    before = endowment()
    start = FORK.Barrier(4)
    argv = ("migrate_users", "--batch-size", "5", "--delay", "0", "--format", "json")
    with contextlib.ExitStack() as stack:
        crew = [stack.enter_context(manage(*argv, prepare=start.wait)) for _ in range(4)]  # type: ignore[arg-type]
        ends = [process.end() for process in crew]
    assert {end.code for end in ends} == {0}, ends
    (opened,) = MigrationRun.objects.all()
    assert (opened.status, opened.folded["totals"]["migrated"]) == ("completed", 300)
    assert len(set(MigrationBatch.objects.filter(migrated__gt=0).values_list("worker", flat=True))) > 1
    assert_everyone_is_accounted_for(opened.pk)
    assert_books_balance(expected=before)
    (pool,) = [each for each in pooler.ask("SHOW POOLS") if each["database"].startswith("own_")]
    assert pool["sv_active"] + pool["sv_idle"] + pool["sv_used"] + pool["sv_tested"] <= 2
