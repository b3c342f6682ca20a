"""Violations of every rule, planted into an economy past all guards: what the oracle and the checks must see."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import connection

from mana_migration import guards
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from tests.support.economy import Economy
from wishes import guards as wishes_guards
from wishes.models import ManaEntry, Wallet

CONSTRAINTS = (
    ("wishes_wallet", "wishes_wallet_mana_not_negative"),
    ("wishes_wallet", "wishes_wallet_migrated_has_no_wishes"),
    ("wishes_manaentry", "wishes_manaentry_balance_not_negative"),
    ("wishes_manaentry", "wishes_manaentry_balance_covers_credit"),
    ("mana_migration_migrationbatch", "mana_migration_batch_no_gap"),
    ("mana_migration_usermigration", "mana_migration_one_record_per_run"),
)
INDEXES = ("mana_migration_one_live_record", "mana_migration_one_open_run")


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


def rearm() -> None:
    """Check constraints again: on SQLite a pragma, which outlives the transaction, had turned them off."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = OFF")


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

# The checks of validate_migration that must see what is planted; the others are seen by the rule's namesake below.
SEEN_BY = {
    "wishes appear on an unmigrated wallet": "unbooked_change",
    "wishes vanish from an unmigrated wallet": "unbooked_change",
    "an unmigrated wallet is deleted": "unbooked_change",
    "a record says more mana": "conversion_mismatch",
    "mana is paid out without an entry": "ledger_mismatch",
    "what was written off changes": "value_not_conserved",
    "a reversal by a migration": "value_not_conserved",
    "a rollback gave back other wishes": "value_not_conserved",
    "a rollback debited other mana": "value_not_conserved",
    "a rolled-back record is deleted": "value_not_conserved",
    "a batch counts a conversion too many": "value_not_conserved",
    "a batch says other wishes": "value_not_conserved",
    "a batch says other mana": "value_not_conserved",
    "the other half of a forgotten pair is deleted": "orphaned_mana",
    "a forgotten pair pays out": "orphaned_mana",
    "mana is negative": "negative_mana",
    "a balance was negative": "negative_mana",
    "two live records": "migration_inconsistency",
    "two open runs": "run_incomplete",
    "a user has two records of one run": "run_incomplete",
    "a reference is there twice": "ledger_mismatch",
    "a conversion beside a conversion": "value_not_conserved",
}
SEEN_BY_RULE = {
    2: "conversion_mismatch",
    3: "ledger_mismatch",
    4: "migration_inconsistency",
    5: "missing_entry",
    6: "conversion_mismatch",
    7: "late_wishes",
    8: "run_incomplete",
}

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
