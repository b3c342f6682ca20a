"""The oracle sees every kind of violation, and none in what the product does."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, transaction

from mana_migration import guards
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, UserMigration
from mana_migration.states import UserStatus
from tests.factories import WalletFactory
from tests.support.economy import Economy, live_through
from tests.support.oracle import (
    RULES,
    assert_books_balance,
    assert_everyone_is_accounted_for,
    assert_nothing_changes,
    endowment,
    violations,
)
from wishes import guards as wishes_guards
from wishes.models import ManaEntry, Wallet
from wishes.services import earn_mana

pytestmark = pytest.mark.django_db

CONSTRAINTS = (
    ("wishes_wallet", "wishes_wallet_mana_not_negative"),
    ("wishes_wallet", "wishes_wallet_migrated_has_no_wishes"),
    ("wishes_manaentry", "wishes_manaentry_balance_not_negative"),
    ("wishes_manaentry", "wishes_manaentry_balance_covers_credit"),
    ("mana_migration_migrationbatch", "mana_migration_batch_no_gap"),
    ("mana_migration_usermigration", "mana_migration_one_record_per_run"),
)
INDEXES = ("mana_migration_one_live_record", "mana_migration_one_open_run")


@pytest.fixture
def economy() -> Economy:
    """Return an economy in which everything has happened, in a database that refuses nothing any more."""
    economy = live_through()
    disarm()
    return economy


def disarm() -> None:
    """Take the guards and constraints away, until the test's transaction is rolled back."""
    wishes_guards.uninstall(connection)
    guards.uninstall(connection)
    with connection.cursor() as cursor:
        for index in INDEXES:
            cursor.execute(f"DROP INDEX {index}")
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA ignore_check_constraints = ON")
        else:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what was deferred stands in the way of ALTER TABLE
            for table, name in CONSTRAINTS:
                cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
            cursor.execute("ALTER TABLE wishes_manaentry DROP CONSTRAINT wishes_manaentry_reference_key")


@pytest.fixture(autouse=True)
def rearm() -> Any:
    """Check constraints again; a pragma outlives the transaction."""
    yield
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = OFF")


def test_nothing_that_the_product_does_breaks_a_rule() -> None:
    seen: list[Any] = []

    def check(economy: Economy) -> None:
        if economy.keys.keys() >= {"imported"}:
            seen.append(endowment())
        assert_books_balance(expected=seen[0])

    live_through(after_each=check)
    assert len(seen) > 20


def test_the_economy_holds_what_the_rules_speak_of(economy: Economy) -> None:
    """Otherwise the test above would prove little."""
    statuses = set(UserMigration.objects.values_list("status", flat=True))
    assert statuses == set(UserStatus.values)
    assert set(ManaEntry.objects.values_list("kind", flat=True)) >= {
        "conversion",
        "reversal",
        "earn",
        "spend",
        "opening",
    }
    assert UserMigration.objects.filter(mana_debited=0, shortfall__gt=0).exists()
    assert UserMigration.objects.filter(mana_debited__gt=0, shortfall__gt=0).exists()
    assert not UserMigration.objects.filter(user_id=economy.key("forgotten")).exists()
    assert ManaEntry.objects.filter(user_id=economy.key("forgotten")).count() == 2
    assert IntegrityFix.objects.exists()


def entry(economy: Economy, name: str, kind: str) -> Any:
    """Return a query of a user's entries of a kind."""
    return ManaEntry.objects.filter(user_id=economy.key(name), kind=kind)


def wallet(economy: Economy, name: str) -> Any:
    """Return a query of a user's wallet."""
    return Wallet.objects.filter(pk=economy.key(name))


def record(economy: Economy, name: str, **conditions: Any) -> Any:
    """Return a query of the latest of a user's records."""
    return UserMigration.objects.filter(pk=economy.record(name, **conditions).pk)


def add_entry(economy: Economy, name: str, amount: int, kind: str, reference: str) -> None:
    """Book something past the services."""
    mana = economy.wallet(name).mana
    ManaEntry.objects.create(
        user_id=economy.key(name), amount=amount, balance_after=mana + amount, kind=kind, reference=reference
    )
    wallet(economy, name).update(mana=mana + amount)


def duplicate(query: Any, **changes: Any) -> None:
    """Copy a row."""
    row = query.get()
    row.pk = None
    for name, value in changes.items():
        setattr(row, name, value)
    row.save(force_insert=True)


def other_run(economy: Economy) -> MigrationRun:
    """Return a new migration run without batches."""
    return MigrationRun.objects.create(
        kind="migration", status="stopped", rates={"green": 10, "blue": 100, "red": 1000}, actor="x", host="x"
    )


def move(economy: Economy, giver: str, taker: str) -> None:
    """Move mana from one wallet to another."""
    wallet(economy, giver).update(mana=economy.wallet(giver).mana - 5)
    wallet(economy, taker).update(mana=economy.wallet(taker).mana + 5)


def batch_of(economy: Economy, name: str, **conditions: Any) -> Any:
    """Return a query of the batch of the latest of a user's records."""
    return MigrationBatch.objects.filter(pk=economy.record(name, **conditions).batch_id)


def rollback_batch(economy: Economy, name: str) -> Any:
    """Return a query of the batches of the rollback that took a user back."""
    return MigrationBatch.objects.filter(run=economy.record(name, status="rolled_back").reversal_run_id, rolled_back=1)


Plant = Callable[[Economy], Any]

# At least two for each rule; the number is the rule that must be among those broken.
PLANTED: list[tuple[int, str, Plant]] = [
    (1, "wishes appear on an unmigrated wallet", lambda e: wallet(e, "back").update(green=1)),
    (1, "wishes vanish from an unmigrated wallet", lambda e: wallet(e, "late").update(red=0)),
    (1, "an unmigrated wallet is deleted", lambda e: wallet(e, "skipped").delete()),
    (1, "mana is paid out without an entry", lambda e: wallet(e, "still").update(mana=10**9)),
    (2, "a record says more mana", lambda e: record(e, "still").update(mana_credited=1231)),
    (2, "a record says other wishes", lambda e: record(e, "still").update(green=4)),
    (2, "the rates of a run change", lambda e: MigrationRun.objects.filter(pk=e.record("still").run_id).update(
        rates={"green": 11, "blue": 100, "red": 1000})),
    (2, "the rates of a run are lost",
     lambda e: MigrationRun.objects.filter(pk=e.record("still").run_id).update(rates={})),
    (2, "a failed user was credited", lambda e: record(e, "failed", status="failed").update(mana_credited=1)),
    (2, "a sum beyond 64 bits", lambda e: record(e, "still").update(red=2**63 - 1)),
    (3, "a wallet holds more than its entries say", lambda e: wallet(e, "still").update(mana=1231)),
    (3, "mana moves between wallets", lambda e: move(e, "still", "active")),
    (3, "an entry is deleted", lambda e: entry(e, "active", "spend").first().delete()),
    (3, "an entry's amount is changed", lambda e: entry(e, "active", "earn").update(amount=41)),
    (3, "an entry's balance is changed", lambda e: entry(e, "still", "conversion").update(balance_after=1229)),
    (3, "an entry in the middle is changed with its balance",
     lambda e: entry(e, "active", "conversion").update(balance_after=1)),
    (3, "an entry of a user without a wallet", lambda e: wallet(e, "broke").delete()),
    (4, "the flag is lost", lambda e: wallet(e, "still").update(migrated_at=None)),
    (4, "a flag is set by hand", lambda e: wallet(e, "broke").update(
        migrated_at=e.wallet("still").migrated_at, green=0, blue=0, red=0)),
    (4, "a live record is deleted", lambda e: record(e, "still").delete()),
    (4, "a record comes back to life", lambda e: record(e, "back", status="rolled_back").update(status="migrated")),
    (4, "a user has two live records", lambda e: duplicate(record(e, "still"), run=other_run(e))),
    (5, "a conversion's entry is deleted", lambda e: entry(e, "still", "conversion").delete()),
    (5, "a conversion's entry has another amount", lambda e: entry(e, "still", "conversion").update(
        amount=1229, balance_after=1229)),
    (5, "a conversion's entry belongs to somebody else",
     lambda e: entry(e, "still", "conversion").update(user_id=e.key("active"))),
    (5, "a conversion's entry names another run",
     lambda e: entry(e, "still", "conversion").update(reference="conversion:999:1")),
    (5, "a conversion worth nothing has an entry",
     lambda e: add_entry(e, "empty", 1, "conversion", f"conversion:{e.record('empty').run_id}:{e.key('empty')}")),
    (5, "a failed user has a conversion's entry",
     lambda e: add_entry(e, "failed", 1, "conversion", f"conversion:{e.record('failed').run_id}:{e.key('failed')}")),
    (5, "a conversion without a record",
     lambda e: add_entry(e, "late", 7, "conversion", f"conversion:999:{e.key('late')}")),
    (5, "a reversal's entry is deleted", lambda e: entry(e, "back", "reversal").delete()),
    (5, "a reversal's entry has another amount", lambda e: entry(e, "back", "reversal").update(
        amount=-399, balance_after=1)),
    (5, "a live conversion has a reversal's entry", lambda e: add_entry(
        e, "still", -1230, "reversal", f"reversal:{e.record('still').run_id}:{e.key('still')}")),
    (5, "a reversal that debited nothing has an entry", lambda e: add_entry(
        e, "broke", -1, "reversal", f"reversal:{e.record('broke').run_id}:{e.key('broke')}")),
    (5, "a reversal without a conversion",
     lambda e: add_entry(e, "still", -3, "reversal", f"reversal:999:{e.key('still')}")),
    (5, "half of a forgotten pair is deleted", lambda e: entry(e, "forgotten", "conversion").delete()),
    (5, "the other half of a forgotten pair is deleted", lambda e: entry(e, "forgotten", "reversal").delete()),
    (5, "a forgotten pair pays out", lambda e: entry(e, "forgotten", "reversal").update(amount=-1, balance_after=769)),
    (5, "a forgotten pair takes more than it gave",
     lambda e: entry(e, "forgotten", "reversal").update(amount=-771, balance_after=0)),
    (5, "a record is gone although no rollback deletes records",
     lambda e: [MigrationRun.objects.filter(kind="rollback").update(options={"preserve_logs": True})]),
    (5, "what was written off changes", lambda e: rollback_batch(e, "poorer").update(shortfall=301)),
    (5, "the record of an import is deleted", lambda e: record(e, "imported").delete()),
    (5, "an opening balance under another's name",
     lambda e: entry(e, "imported", "opening").update(reference="opening:999")),
    (6, "a reversal says another debit", lambda e: record(e, "back").update(mana_debited=399)),
    (6, "a reversal hides a shortfall", lambda e: record(e, "poorer").update(shortfall=0)),
    (6, "a reversal invents a shortfall", lambda e: record(e, "back").update(shortfall=1)),
    (6, "a reversal without a rollback", lambda e: record(e, "back").update(reversal_run=None)),
    (6, "a reversal by a migration", lambda e: record(e, "back").update(reversal_run=e.record("still").run)),
    (6, "a reversal without a moment", lambda e: record(e, "back").update(reversed_at=None)),
    (6, "a live record with a debit", lambda e: record(e, "still").update(mana_debited=5)),
    (6, "a live record with a shortfall", lambda e: record(e, "still").update(shortfall=5)),
    (6, "a rollback gave back other wishes", lambda e: rollback_batch(e, "back").update(blue=5)),
    (6, "a rollback debited other mana", lambda e: rollback_batch(e, "back").update(mana=399)),
    (7, "mana is negative", lambda e: wallet(e, "empty").update(mana=-1)),
    (7, "a balance was negative", lambda e: entry(e, "active", "earn").update(balance_after=-1)),
    (7, "wishes on a migrated wallet", lambda e: wallet(e, "still").update(green=1)),
    (7, "negative wishes on a migrated wallet", lambda e: wallet(e, "still").update(red=-1)),
    (8, "a batch has a gap", lambda e: batch_of(e, "still").update(selected=99)),
    (8, "a batch counts a conversion too many", lambda e: batch_of(e, "still").update(
        selected=batch_of(e, "still").get().selected + 1, migrated=batch_of(e, "still").get().migrated + 1)),
    (8, "a completed run has a batch left", lambda e: MigrationBatch.objects.create(
        run=e.record("still").run, first_user="1", last_user="2", planned=2)),
    (8, "a completed run has no end",
     lambda e: MigrationRun.objects.filter(pk=e.record("still").run_id).update(finished_at=None)),
    (8, "a failed user's record is deleted", lambda e: record(e, "failed", status="failed").delete()),
    (8, "a skipped user's record is deleted", lambda e: record(e, "skipped", status="skipped").delete()),
    (6, "a rolled-back record is deleted", lambda e: record(e, "back", status="rolled_back").delete()),
    (8, "a batch says other wishes", lambda e: batch_of(e, "still").update(green=1)),
    (8, "a batch says other mana", lambda e: batch_of(e, "still").update(mana=1)),
    (9, "two live records", lambda e: duplicate(record(e, "imported"), run=other_run(e))),
    (9, "a conversion beside a conversion", lambda e: add_entry(
        e, "still", 1230, "conversion", f"conversion:{other_run(e).pk}:{e.key('still')}")),
    (9, "two open runs", lambda e: [
        MigrationRun.objects.filter(pk=other_run(e).pk).update(status=status) for status in ("running", "paused")]),
]  # fmt: skip
if settings.DATABASES["default"]["ENGINE"].endswith("postgresql"):  # constraints that cannot be dropped on SQLite
    PLANTED += [
        (9, "a user has two records of one run", lambda e: duplicate(record(e, "failed", status="failed"))),
        (5, "a reference is there twice", lambda e: duplicate(entry(e, "still", "conversion"))),
    ]


def test_every_planted_violation_is_seen_and_every_query_sees_one(economy: Economy, subtests: Any) -> None:
    before = endowment()
    assert not violations(expected=before)
    blind = {name for _, name, _ in RULES}
    for rule, name, plant in PLANTED:
        with subtests.test(name), transaction.atomic():
            plant(economy)
            found = violations(expected=before)
            blind -= {violation.name for violation in found}
            transaction.set_rollback(True)
            assert rule in {violation.rule for violation in found}
    assert not violations(expected=before)
    if connection.vendor == "sqlite":  # has constraints that cannot be dropped
        blind -= {"a user has several records of one run", "an entry's reference is not unique"}
    assert not blind, "a query that nothing can break proves nothing"


def test_each_rule_is_planted_against_twice() -> None:
    for rule in range(1, 10):
        assert sum(planted == rule for planted, _, _ in PLANTED) >= 2, rule


def test_violations_are_told_with_their_figures(economy: Economy) -> None:
    wallet(economy, "still").update(mana=1)
    with pytest.raises(AssertionError, match=rf"rule 3, a wallet's mana .*\({economy.key('still')}, 1, "):
        assert_books_balance()


def test_unbacked_mana_of_dirty_legacy_data_can_be_allowed_for() -> None:
    orphan = WalletFactory(mana=77)
    assert {found.rule for found in violations()} == {3}
    assert_books_balance(orphans=[orphan.pk])
    earn_mana(orphan.pk, 3, reference="x")
    assert_books_balance(orphans=[orphan.pk])


def test_wishes_lost_with_one_user_and_won_by_another_are_seen(economy: Economy) -> None:
    """Ten green are worth one blue: the sum alone would not tell."""
    before = endowment()
    wallet(economy, "late").update(green=economy.wallet("late").green + 10, blue=economy.wallet("late").blue - 1)
    assert {found.name for found in violations(expected=before)} == {
        "green was lost or created",
        "blue was lost or created",
    }


def test_somebody_left_out_is_seen(economy: Economy) -> None:
    run = economy.record("still").run_id
    with pytest.raises(AssertionError, match="left out"):
        assert_everyone_is_accounted_for(run)


def test_any_change_of_any_table_is_seen() -> None:
    user = WalletFactory()
    with assert_nothing_changes():
        Wallet.objects.filter(pk=user.pk).update(green=3)  # as it was
    with pytest.raises(AssertionError, match="wishes_wallet"), assert_nothing_changes():
        Wallet.objects.filter(pk=user.pk).update(green=4)
    with pytest.raises(AssertionError, match="auth_user"), assert_nothing_changes():
        WalletFactory()
