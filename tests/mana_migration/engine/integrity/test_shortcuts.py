"""Shortcuts of the count, each where it would leave somebody out: the index is kept, and no rollback forgets.

What is counted is compared with what is told, user by user, in every way of looking.
"""

from collections import Counter
from typing import Any

import pytest
from django.db import connection, transaction

from mana_migration import guards
from mana_migration.domain.validation import POST, PRE
from mana_migration.engine.integrity import counting, ledger, records
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import validation
from tests.factories import UserFactory
from tests.support.economy import Economy
from tests.support.violations import PLANTED, add_entry, duplicate, entry, other_run, record, wallet
from wishes import guards as wishes_guards
from wishes.models import ManaEntry

pytestmark = pytest.mark.django_db


@pytest.fixture
def migrated() -> Economy:
    """Return an economy of which some are migrated and one was taken back; the guards are gone, the indexes are not."""
    economy = Economy()
    economy.bring_in()
    economy.migrate("still", "active", "returned", "back", "empty")
    economy.roll_back("back")
    wishes_guards.uninstall(connection)
    guards.uninstall(connection)
    return economy


def number(check: str, **options: Any) -> int:
    """Return how many findings of a check are counted, which must be as many as are told; of all checks."""
    told: Counter[str] = Counter()
    report = validation.validate(
        chains=False, all_hits=True, on_finding=lambda finding: told.update([finding.check]), **options
    )
    counted = {each.id: each.count for each in report.checks}
    assert told == Counter(counted)
    return counted[check]


@pytest.fixture(params=[1, 10**9], ids=["user by user", "everybody first"])
def looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a run in both ways."""
    monkeypatch.setattr(counting, "SMALL_RUN", request.param)


@pytest.mark.usefixtures("looked_at")
def test_flags_are_compared_with_records_where_as_many_are_lost_as_are_made_up(migrated: Economy) -> None:
    run = migrated.record("still").run_id
    when = migrated.wallet("still").migrated_at

    def numbers() -> list[int]:
        return [number("migration_inconsistency", **each) for each in ({"phase": PRE}, {}, {"run": run, "phase": POST})]

    assert numbers() == [0, 0, 0]
    wallet(migrated, "broke").update(migrated_at=when, green=0, blue=0, red=0)
    assert numbers() == [1, 1, 0]  # a flag more
    wallet(migrated, "still").update(migrated_at=None)
    assert numbers() == [2, 2, 1]  # as many as there are records
    wallet(migrated, "broke").update(migrated_at=None)
    assert numbers() == [1, 1, 1]  # a flag less
    wallet(migrated, "still").update(migrated_at=when)
    wallet(migrated, "back").update(migrated_at=when, green=0, blue=0, red=0)
    assert numbers() == [1, 1, 1]  # of a user of the run who was taken back
    rollback = migrated.record("back").reversal_run_id
    assert number("migration_inconsistency", run=rollback, phase=POST) == 1  # which has nobody else


@pytest.mark.parametrize("phase", [PRE, POST])
def test_sound_books_are_counted_without_looking_at_each_user(
    migrated: Economy, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (wishes_guards, guards):
        each.install(connection)
    migrated.migrate("failed")  # has a record without an entry
    for each in (wishes_guards, guards):
        each.uninstall(connection)
    for module, name in ((records, "count_inconsistencies"), (ledger, "count_missing_entries")):
        monkeypatch.setattr(module, name, lambda *arguments, name=name, **options: pytest.fail(name))
    counted = {check.id: check.count for check in validation.validate(phase=phase, chains=False).checks}
    assert not counted.get("missing_entry", 0)
    assert not counted["migration_inconsistency"]
    wallet(migrated, "still").update(migrated_at=None)
    with pytest.raises(pytest.fail.Exception, match="count_inconsistencies"):
        validation.validate(phase=phase, chains=False)


@pytest.mark.usefixtures("looked_at")
def test_whoever_was_taken_back_and_converted_again_is_no_inconsistency(migrated: Economy) -> None:
    for each in (wishes_guards, guards):
        each.install(connection)
    migrated.migrate("back")
    again = migrated.record("back", status="migrated").run_id
    for run in (migrated.record("still").run_id, again):
        assert number("migration_inconsistency", run=run, phase=POST) == 0
    assert number("migration_inconsistency") == number("migration_inconsistency", phase=PRE) == 0
    for each in (wishes_guards, guards):
        each.uninstall(connection)
    wallet(migrated, "back").update(migrated_at=None)
    assert number("migration_inconsistency", run=again, phase=POST) == 1


@pytest.mark.usefixtures("looked_at")
def test_lacking_conversions_reversals_and_openings_are_added_up(migrated: Economy) -> None:
    run = migrated.record("still").run_id

    def numbers() -> list[int]:
        return [number("missing_entry", **each) for each in ({}, {"phase": POST}, {"run": run, "phase": POST})]

    assert numbers() == [0, 0, 0]
    entry(migrated, "still", "conversion").update(amount=1229, balance_after=1229)
    assert numbers() == [1, 1, 1]
    entry(migrated, "imported", "opening").update(reference="opening:999")
    assert numbers() == [2, 2, 1]  # 1 + 1: neither 1 | 1 nor 1 ^ 1
    entry(migrated, "imported", "opening").update(reference=f"opening:{migrated.key('imported')}")
    entry(migrated, "back", "reversal").update(amount=-399, balance_after=1)
    assert numbers() == [2, 2, 2]
    entry(migrated, "active", "conversion").update(amount=1, balance_after=1)
    assert numbers() == [3, 3, 3]  # 2 + 1: not 2 << 1
    entry(migrated, "imported", "opening").update(reference="opening:999")
    assert numbers() == [4, 4, 3]
    entry(migrated, "returned", "conversion").delete()
    assert numbers() == [5, 5, 4]
    entry(migrated, "back", "reversal").delete()  # had another amount
    assert numbers() == [5, 5, 4]


@pytest.mark.usefixtures("looked_at")
def test_an_entry_without_a_record_is_missed_although_no_rollback_forgets(migrated: Economy) -> None:
    still = migrated.record("still")
    UserMigration.objects.filter(pk=still.pk).delete()
    assert number("missing_entry") == number("missing_entry", phase=POST) == 1
    assert number("missing_entry", run=still.run_id, phase=POST) == 1
    assert number("missing_entry", users=(str(migrated.key("still")),), phase=POST) == 1
    ManaEntry.objects.filter(user_id=migrated.key("still")).delete()
    assert number("missing_entry") == 0


def test_each_phase_takes_its_own_sums(migrated: Economy) -> None:
    run = migrated.record("still").run_id
    of_run = validation.validate(chains=False, run=run, phase=POST).totals
    assert "users" not in of_run
    assert "users" not in validation.validate(chains=False, phase=POST).totals
    assert validation.validate(chains=False, phase=PRE).totals["users"] == 15
    assert "value_before" not in validation.validate(chains=False, phase=PRE).totals


def test_a_named_user_without_a_wallet_is_counted_by_the_batch_and_has_no_record(migrated: Economy) -> None:
    for each in (wishes_guards, guards):
        each.install(connection)
    migrated.keys["nobody"] = UserFactory().pk
    run = migrated.migrate("late", "nobody").run
    assert number("run_incomplete") == number("run_incomplete", run=run, phase=POST) == 0
    guards.uninstall(connection)
    MigrationBatch.objects.filter(run=run, skipped=1).update(skips={})
    assert number("run_incomplete") == number("run_incomplete", run=run, phase=POST) == 1


def test_a_purchase_whose_reference_looks_like_a_conversion_is_none(economy: Economy) -> None:
    assert number("value_not_conserved") == 0
    add_entry(economy, "active", 7, "earn", f"conversion:{economy.record('active').run_id}:shop")
    assert number("value_not_conserved") == 0


def test_without_the_index_a_user_with_two_live_records_makes_up_for_no_flag(economy: Economy) -> None:
    duplicate(record(economy, "still"), run=other_run(economy))
    when = economy.wallet("still").migrated_at
    wallet(economy, "broke").update(migrated_at=when, green=0, blue=0, red=0)
    assert number("migration_inconsistency") == number("migration_inconsistency", phase=PRE) == 2


def test_a_reversal_that_says_no_debit_contradicts_itself(economy: Economy) -> None:
    record(economy, "back", status="rolled_back").update(mana_debited=None)
    assert number("conversion_mismatch") == 1


def test_sums_at_other_rates_are_not_compared(economy: Economy) -> None:
    wallet(economy, "back").update(green=1)
    assert number("unbooked_change") == 1
    MigrationRun.objects.filter(pk=economy.record("still").run_id).update(rates={"green": 11, "blue": 100, "red": 1000})
    assert number("unbooked_change") == 0


def test_entries_are_found_by_their_reference_where_users_have_many(
    economy: Economy, monkeypatch: pytest.MonkeyPatch, subtests: Any
) -> None:
    for _, name, plant in PLANTED:
        with subtests.test(name), transaction.atomic():
            plant(economy)
            found = []
            for few in (10**9, -1):
                monkeypatch.setattr(records, "REPEATED", few)
                found.append(
                    [(check.id, check.count) for check in validation.validate(phase=POST, chains=False).checks]
                )
            transaction.set_rollback(True)
            assert found[0] == found[1]
