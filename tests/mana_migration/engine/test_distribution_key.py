"""Tables of users can be distributed by user: every statement of a worker reaches their rows by the user's key.

What a worker sends while it converts and takes back is read, and PostgreSQL itself is asked how it would execute it:
each time a table of users is looked at, a condition on its ``user_id`` must be part of the plan.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlparse
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.options import WRITE_OFF, Controls, MigrationOptions, RollbackOptions
from mana_migration.engine import dialect
from mana_migration.services import migration, operation, rollback, runs
from mana_migration.services.context import Actor, RunContext, StopFlag
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.services.worker.loop import Worker
from mana_migration.states import RunStatus
from tests.mana_migration.running import balanced, cure, people, plant, planted
from wishes import services
from wishes.models import Wallet

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

SOMEBODY = Actor("somebody", "here")
CONTROLS = Controls(batch_size=4, delay=0.0)

#: Distributed by user; all other tables of the migration are small and the same for everybody.
OF_USERS = ("wishes_wallet", "wishes_manaentry", "wishes_wishentry", "mana_migration_usermigration")

_CHANGES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")
_WALKS = re.compile(r"ORDER BY w\.user_id LIMIT \d+")
_CONDITIONS = ("Index Cond", "Recheck Cond", "Filter", "Join Filter", "Merge Cond", "Hash Cond")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each message hold its statement's text."""
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
    yield
    connection.close()


def statements(work: Callable[[], Any]) -> list[str]:
    """Do something and return the statements about users that it sent."""
    with CaptureQueriesContext(connection) as seen:
        work()
    single = [part for query in seen.captured_queries for part in sqlparse.split(query["sql"])]
    return [part for part in single if re.search("|".join(OF_USERS), part)]


def looks(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each look at a table of users in a plan: the table, and the conditions on its rows."""
    if plan.get("Relation Name") in OF_USERS and plan["Node Type"] != "ModifyTable":
        yield plan["Relation Name"], " ".join(str(plan.get(name, "")) for name in _CONDITIONS)
    for part in plan.get("Plans", ()):
        yield from looks(part)


def unkeyed(statement: str) -> list[str]:
    """Return the tables of users that a statement looks at without a condition on the user's key."""
    with connection.cursor() as cursor:
        cursor.execute(f"BEGIN; {dialect.settings_sql(dialect.KEYED_PLANS)}")
        cursor.execute(f"EXPLAIN (FORMAT JSON, VERBOSE) {statement.replace('%', '%%')}", [])
        ((plans,),) = cursor.fetchall()
        cursor.execute("ROLLBACK")
    return [table for table, conditions in looks(plans[0]["Plan"]) if "user_id" not in conditions]


def assert_keyed(sent: list[str]) -> None:
    """Fail for each statement that does not reach users by their keys; a read may walk along the keys instead."""
    assert any(_CHANGES.search(statement) for statement in sent), "nothing was written"
    for statement in sent:
        if _WALKS.search(statement) and not _CHANGES.search(statement):
            continue  # the planning: the next users in the order of their keys
        assert not unkeyed(statement), statement


def work_on(run: int, work: Any) -> None:
    """Do all batches of a run, with the splitting of those that fail."""
    Worker(run, work, RunContext(stop=StopFlag())).run()


def test_a_statement_without_the_key_is_found() -> None:
    assert unkeyed("UPDATE wishes_wallet SET mana = 0 WHERE migrated_at IS NULL") == ["wishes_wallet"]
    assert unkeyed("SELECT COUNT(*) FROM wishes_wallet w JOIN wishes_manaentry e ON e.id = w.mana") != []
    assert unkeyed("UPDATE wishes_wallet SET mana = 0 WHERE user_id BETWEEN 1 AND 5") == []


@pytest.mark.parametrize(
    "options",
    [MigrationOptions(), MigrationOptions(skip_invalid=True), MigrationOptions(cohort=5_000, limit=8)],
    ids=["plain", "skip-invalid", "cohort"],
)
def test_a_conversion_reaches_users_by_key(options: MigrationOptions) -> None:
    keys = people(20)
    run = Migration(replace(options, controls=CONTROLS)).open(RunContext(actor=SOMEBODY))
    with balanced(), planted(keys[5:6]):  # a batch is split down to the guilty user
        sent = statements(lambda: work_on(run.pk, migration.MigrationWork(migration.terms_of(run), options.limit)))
    assert Wallet.objects.exclude(migrated_at=None).exists()
    assert_keyed(sent)


@pytest.mark.parametrize("others", [0, 200])
def test_one_look_at_all_records_is_never_thought_cheaper_than_one_at_each(others: int) -> None:
    """Whatever PostgreSQL believes of the tables' sizes when it plans, for the plan is kept while they grow."""
    if others:
        people(others)
        work = Migration(MigrationOptions(controls=CONTROLS)).open(RunContext(actor=SOMEBODY))
        work_on(work.pk, migration.MigrationWork(migration.terms_of(work), None))
        runs.change_status(work.pk, RunStatus.STOPPED, actor=SOMEBODY, using="default")
    people(8)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE wishes_wallet, mana_migration_usermigration, wishes_manaentry")
    run = Migration(MigrationOptions(skip_invalid=True, controls=CONTROLS)).open(RunContext(actor=SOMEBODY))
    assert_keyed(statements(lambda: work_on(run.pk, migration.MigrationWork(migration.terms_of(run), None))))


@pytest.mark.parametrize(
    "options",
    [
        RollbackOptions(everything=True),
        RollbackOptions(everything=True, on_shortfall=WRITE_OFF),
        RollbackOptions(everything=True, preserve_logs=False),
    ],
    ids=["skip", "write-off", "without-records"],
)
def test_a_reversal_reaches_users_by_key(options: RollbackOptions) -> None:
    keys = people(20)
    operation.execute(Migration(MigrationOptions(controls=CONTROLS)), RunContext(actor=SOMEBODY))
    services.spend_mana(keys[3], 1000, reference="order:1")
    run = Rollback(replace(options, controls=CONTROLS)).open(RunContext(actor=SOMEBODY))
    frozen = RollbackOptions.from_dict(run.options, run.controls)
    plant("UPDATE", f"NEW.user_id = {keys[9]}")  # a batch is split down to the guilty user, unless records are deleted
    with balanced(), contextlib.ExitStack() as stack:
        stack.callback(cure)
        sent = statements(lambda: work_on(run.pk, rollback.RollbackWork(rollback.terms_of(frozen, run.pk))))
    assert Wallet.objects.exclude(migrated_at=None).count() <= 2
    assert_keyed(sent)


def test_users_who_are_named_are_reached_by_key() -> None:
    keys = people(3)
    user = (str(keys[1]),)
    assert_keyed(
        statements(lambda: Migration(MigrationOptions(users=user)).handle_selected(RunContext(actor=SOMEBODY)))
    )
    assert_keyed(statements(lambda: Rollback(RollbackOptions(users=user)).handle_selected(RunContext(actor=SOMEBODY))))
