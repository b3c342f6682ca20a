"""How PostgreSQL joins what the checks read, also where it knows nothing of tables that have just grown.

On such tables, which no test analyzes, it takes a run's users for a handful; a plan made for a handful reads a whole
table once for each of 60,000.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.domain.validation import BOTH, PRE, Finding
from mana_migration.engine import dialect
from mana_migration.engine.integrity import counting
from mana_migration.engine.integrity.scope import Scope
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.services import operation, validation
from mana_migration.services.context import RunContext
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from tests.mana_migration.running import people
from tests.support.economy import ACTOR
from wishes.rates import Rates

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]

GROWN = ("mana_migration_usermigration", "wishes_manaentry")
CONTROLS = Controls(batch_size=100, delay=0.0)


@pytest.fixture
def run() -> int:
    """Return a migration of everybody that was taken back, and another one of everybody after it."""
    people(300)
    with connection.cursor() as cursor:
        for table in GROWN:
            cursor.execute(f"ANALYZE {table}")  # empty
    operation.execute(Migration(MigrationOptions(controls=CONTROLS)), RunContext(actor=ACTOR))
    operation.execute(Rollback(RollbackOptions(everything=True, controls=CONTROLS)), RunContext(actor=ACTOR))
    done = operation.execute(Migration(MigrationOptions(controls=CONTROLS)), RunContext(actor=ACTOR))
    assert done.run is not None
    return done.run


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's nodes."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@contextmanager
def explained(*tables: str) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, str]]]]:
    """Yield the nodes of the plans of all queries of these tables within the block, and the planner's settings of each.

    Settings that are as usual are left out.
    """
    found: list[dict[str, Any]] = []
    settings: list[dict[str, str]] = []

    def explain(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if any(table in sql for table in tables):
            execute(f"EXPLAIN (FORMAT JSON, SETTINGS) {sql}", parameters, many, context)
            ((answer,),) = context["cursor"].fetchall()
            (told,) = json.loads(answer) if isinstance(answer, str) else answer
            found.extend(nodes(told["Plan"]))
            settings.append(told.get("Settings", {}))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        yield found, settings


def plans(run: int, *, small: bool) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Count the findings of a run, as one that is small or not; return what ``explained`` yields."""
    terms = WalletTerms(Rates(), large=10**9)
    with pytest.MonkeyPatch.context() as patch, transaction.atomic():
        patch.setattr(counting, "SMALL_RUN", 1 if small else 10**9)
        plan = counting.plan_count("default", connection, BOTH, Scope(run=run), terms)
        assert plan.whole is not small
        with explained(*GROWN) as (found, settings):
            counting.count(plan)
    assert len(found) > 10
    return found, settings


def all_off(settings: list[dict[str, str]], names: tuple[str, ...]) -> bool:
    """Say whether each query was planned without these."""
    return all(of_one.get(name) == "off" for of_one in settings for name in names)


def kinds(found: list[dict[str, Any]]) -> set[str]:
    """Return the kinds of nodes."""
    return {node["Node Type"] for node in found}


def reread(found: list[dict[str, Any]]) -> list[str]:
    """Return the tables that grew and that are read as a whole within a nested loop, or kept to be read again."""
    loops = [node for node in found if node["Node Type"] == "Nested Loop"]
    inner = [below for loop in loops for node in loop["Plans"][1:] for below in nodes(node)]
    return [
        node["Relation Name"] for node in inner if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWN
    ]


def test_whole_tables_are_never_joined_row_by_row(run: int) -> None:
    found, settings = plans(run, small=False)
    assert "Nested Loop" not in kinds(found)
    assert all_off(settings, ("enable_nestloop",))


def test_the_users_of_a_small_run_are_looked_up_by_their_keys(run: int) -> None:
    """With so few users PostgreSQL would do so by itself: that it is told to is what counts."""
    found, settings = plans(run, small=True)
    assert reread(found) == []
    assert all_off(settings, ("enable_seqscan", "enable_hashjoin", "enable_material"))


@pytest.mark.usefixtures("run")
def test_findings_are_listed_by_their_keys() -> None:
    told: list[Finding] = []
    with explained("wishes_wallet") as (_, settings):
        validation.validate(phase=PRE, listed=("already_migrated",), on_finding=told.append)
    assert {finding.check for finding in told} == {"already_migrated"}
    assert all_off(settings[-1:], ("enable_seqscan", "enable_hashjoin", "enable_material"))
    assert all_off(settings[:1], ("enable_nestloop",))  # counted before


def test_left_to_itself_postgresql_joins_row_by_row(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "JOINED_WHOLE", ("jit",))
    found, settings = plans(run, small=False)
    assert "Nested Loop" in kinds(found)
    assert not all_off(settings, ("enable_nestloop",))


def test_a_plan_that_reads_a_table_again_and_again_is_seen(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without = ("enable_indexscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
    monkeypatch.setattr(dialect, "JOINED_BY_KEY", without)
    found, _ = plans(run, small=True)
    assert reread(found)


def test_the_settings_end_with_their_block() -> None:
    names = (*dialect.JOINED_WHOLE, *dialect.JOINED_BY_KEY)

    def settings() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}")
            return list(cursor.fetchone())

    with transaction.atomic():
        before = settings()
        with dialect.joined(connection, names):
            assert settings() == ["off"] * len(names)
        assert settings() == before
