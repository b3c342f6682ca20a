"""What must agree between the batches, the records and the ledger of runs: figures for which no other sum will do."""

from typing import Any

import pytest

from mana_migration.domain.validation import Finding
from mana_migration.engine.integrity.runs import RunSums, incomplete, not_conserved
from mana_migration.engine.integrity.value import LedgerSums

RATES = {"green": 10, "blue": 100, "red": 1000}
GOOD = {"green": 5, "blue": 3, "red": 2, "mana": 2350, "migrated": 900, "selected": 900}


def migration(run: int = 1, **changes: Any) -> RunSums:
    """Return a completed migration that agrees with itself: 600 users are still converted, 300 were taken back."""
    values: dict[str, Any] = {
        "kind": "migration", "status": "completed", "finished": True, "rates": RATES, "forgetful": False,
        "batches": dict.fromkeys(("rolled_back", "skipped", "failed", "unrecorded", "shortfall"), 0) | GOOD,
        "records": dict.fromkeys(("skipped", "failed"), 0) | GOOD | {"migrated": 600, "rolled_back": 300},
        "reversed": dict.fromkeys(("users", "green", "blue", "red", "mana", "shortfall"), 0),
        "credited": 2350,
    }  # fmt: skip
    return RunSums(run, **_merged(values, changes))


def rollback(run: int = 2, **changes: Any) -> RunSums:
    """Return a completed rollback of 3 users that agrees with itself; 7 mana were written off."""
    taken = {"green": 1, "blue": 1, "red": 1, "mana": 1103, "shortfall": 7}
    values: dict[str, Any] = {
        "kind": "rollback", "status": "completed", "finished": True, "rates": None, "forgetful": False,
        "batches": dict.fromkeys(("migrated", "skipped", "failed", "unrecorded"), 0)
        | taken | {"rolled_back": 3, "selected": 3},
        "records": dict.fromkeys(("migrated", "rolled_back", "skipped", "failed", "mana"), 0),
        "reversed": taken | {"users": 3},
        "debited": 1103,
    }  # fmt: skip
    return RunSums(run, **_merged(values, changes))


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | {
        name: values[name] | change if isinstance(values.get(name), dict) and name != "rates" else change
        for name, change in changes.items()
    }


def told(found: list[Finding]) -> list[tuple[int | None, str, dict[str, Any]]]:
    return [(finding.run, finding.reason, dict(finding.figures)) for finding in found]


# --- Nobody forgotten -------------------------------------------------------------------------------------------------


def test_runs_that_account_for_everybody_are_complete() -> None:
    assert told(list(incomplete([migration(), rollback(), migration(3, status="running", finished=False)]))) == []


def test_every_open_run_but_the_first_is_told_of_with_the_first() -> None:
    runs = [migration(1), migration(5, status="running"), rollback(6, status="paused"), migration(7, status="checking")]
    assert told(list(incomplete(runs))) == [
        (6, "open beside another open run", {"other_run": 5}),
        (7, "open beside another open run", {"other_run": 5}),
    ]


@pytest.mark.parametrize("status", ["running", "paused", "checking", "stopped", "failed", "rolled_back"])
def test_only_a_completed_run_may_have_no_batch_left_and_needs_an_end(status: str) -> None:
    assert told(list(incomplete([migration(status=status, planned=4, finished=False)]))) == []
    assert told(list(incomplete([migration(planned=4, finished=False)]))) == [
        (1, "completed although batches are left to do", {"batches_left": 4}),
        (1, "completed without a moment when it was", {}),
    ]
    assert [reason for _, reason, _ in told(list(incomplete([migration(planned=4)])))] == [
        "completed although batches are left to do"
    ]


@pytest.mark.parametrize("selected", [29, 31])
def test_outcomes_add_up_to_the_users_selected(selected: int) -> None:
    batches = {"migrated": 9, "rolled_back": 9, "skipped": 9, "failed": 3}
    records = {"skipped": 9, "failed": 3}
    assert told(list(incomplete([migration(batches=batches | {"selected": 30}, records=records)]))) == []
    assert told(list(incomplete([migration(batches=batches | {"selected": selected}, records=records)]))) == [
        (1, "outcomes do not add up", {"selected": selected, "accounted": 30})
    ]


@pytest.mark.parametrize("recorded", [500, 700])
def test_who_is_skipped_or_failed_has_a_record_but_for_users_without_a_wallet(recorded: int) -> None:
    batches = {"skipped": 900, "unrecorded": 300, "failed": 600, "selected": 2400}
    assert told(list(incomplete([migration(batches=batches, records={"skipped": 600, "failed": 600})]))) == []
    assert told(list(incomplete([migration(batches=batches, records={"skipped": recorded, "failed": 600})]))) == [
        (1, "batches and records count other users as skipped", {"batches": 600, "records": recorded})
    ]
    assert told(list(incomplete([migration(batches=batches, records={"skipped": 600, "failed": recorded})]))) == [
        (1, "batches and records count other users as failed", {"batches": 600, "records": recorded})
    ]


# --- The sums of one run ----------------------------------------------------------------------------------------------


def of_one(run: RunSums, *, forgetful: bool = False) -> list[tuple[int | None, str, dict[str, Any]]]:
    return told(list(not_conserved({run.run: run}, forgetful=forgetful, booked=None)))


def test_runs_that_agree_are_conserved() -> None:
    assert of_one(migration()) == of_one(rollback()) == of_one(migration(kind="import", credited=0)) == []


@pytest.mark.parametrize("mana", [2349, 2351])
def test_what_a_migration_credited_is_the_same_in_batches_records_and_ledger(mana: int) -> None:
    assert of_one(migration(batches={"mana": mana})) == [
        (1, "the batches' wishes are not worth the batches' mana", {"worth": 2350, "mana": mana}),
        (1, "the ledger's conversions are not the batches' mana", {"ledger": 2350, "batches": mana}),
        (1, "records and batches converted different mana", {"records": 2350, "batches": mana}),
    ]
    assert of_one(migration(credited=mana)) == [
        (1, "the ledger's conversions are not the batches' mana", {"ledger": mana, "batches": 2350})
    ]
    assert of_one(migration(records={"mana": mana})) == [
        (1, "records and batches converted different mana", {"records": mana, "batches": 2350})
    ]


@pytest.mark.parametrize("colour", ["green", "blue", "red"])
@pytest.mark.parametrize("number", [1, 8])
def test_each_colour_is_the_same_in_batches_and_records(colour: str, number: int) -> None:
    assert of_one(migration(records={colour: number})) == [
        (1, f"records and batches converted different {colour} wishes", {"records": number, "batches": GOOD[colour]})
    ]


def test_wishes_are_worth_nothing_known_without_rates() -> None:
    assert of_one(migration(rates=None)) == [
        (1, "the batches' wishes are not worth the batches' mana", {"worth": None, "mana": 2350})
    ]


@pytest.mark.parametrize(("recorded", "forgetful"), [(500, False), (700, False), (700, True)])
def test_records_and_batches_count_the_same_conversions(recorded: int, forgetful: bool) -> None:
    """Records that a rollback has deleted may be fewer, and never more."""
    assert of_one(migration(records={"migrated": recorded}), forgetful=forgetful) == [
        (1, "records and batches count different conversions", {"records": recorded + 300, "batches": 900})
    ]


def test_where_records_were_deleted_batches_and_ledger_are_left_to_compare() -> None:
    fewer = {"migrated": 500, "green": 0, "blue": 0, "red": 0, "mana": 0}
    assert of_one(migration(records=fewer), forgetful=True) == []
    assert of_one(migration(records=fewer, credited=0), forgetful=True) == [
        (1, "the ledger's conversions are not the batches' mana", {"ledger": 0, "batches": 2350})
    ]
    assert [reason for _, reason, _ in of_one(migration(records={"mana": 1}), forgetful=True)] == [
        "records and batches converted different mana"
    ]


@pytest.mark.parametrize("number", [0, 9999])
@pytest.mark.parametrize("name", ["users", "green", "blue", "red", "mana", "shortfall"])
def test_what_a_rollback_took_back_is_the_same_in_batches_and_records(name: str, number: int) -> None:
    counted = rollback().batches["rolled_back" if name == "users" else name]
    assert of_one(rollback(reversed={name: number})) == [
        (2, f"records and batches took back different {name}", {"records": number, "batches": counted})
    ]


@pytest.mark.parametrize("debited", [1102, 1104])
def test_what_a_rollback_debited_is_in_the_ledger(debited: int) -> None:
    assert of_one(rollback(debited=debited)) == [
        (2, "the ledger's reversals are not the batches' mana", {"ledger": debited, "batches": 1103})
    ]
    assert of_one(rollback(debited=debited, forgetful=True)) == []


# --- All runs together ------------------------------------------------------------------------------------------------


def all_together(*runs: RunSums, converted: int, taken_back: int) -> list[tuple[int | None, str, dict[str, Any]]]:
    booked = LedgerSums({}, {"conversion": converted, "reversal": -taken_back, "earn": 40}, 0)
    return told(list(not_conserved({run.run: run for run in runs}, forgetful=True, booked=booked)))


# A rollback of 4 users that deleted its records of 2: 400 mana of a migration that credited 2350; 350 were written off.
FORGOTTEN = {
    "forgetful": True,
    "batches": {"rolled_back": 4, "mana": 50, "shortfall": 350, "green": 0, "blue": 4, "red": 0},
    "reversed": {"users": 2} | dict.fromkeys(("green", "blue", "red", "mana", "shortfall"), 0),
    "debited": 0,
}
REST = {"migrated": 598, "mana": 1950, "blue": -1}


def test_conversions_less_reversals_are_on_records_or_written_off() -> None:
    runs = migration(records=REST), rollback(), rollback(3, **FORGOTTEN)
    assert all_together(*runs, converted=2350, taken_back=1153) == []
    without = migration(), rollback()
    assert all_together(*without, converted=2350, taken_back=1103) == []


@pytest.mark.parametrize("off", [-1, 1])
def test_the_whole_ledger_says_what_the_batches_of_all_runs_say(off: int) -> None:
    runs = migration(records=REST), rollback(), rollback(3, **FORGOTTEN), migration(4)
    live, kept_off = 1950 - 1103 + 2350, 350
    assert all_together(*runs, converted=4700, taken_back=1153 + off) == [
        (None, "the ledger's reversals are not the mana of the rollbacks' batches",
         {"ledger": 1153 + off, "batches": 1153}),
        (None, "what the ledger converted and took back is neither on records nor written off",
         {"ledger": 3547 - off, "records": live, "written_off": kept_off}),
    ]  # fmt: skip
    assert all_together(*runs, converted=4700 + off, taken_back=1153) == [
        (None, "the ledger's conversions are not the mana of the migrations' batches",
         {"ledger": 4700 + off, "batches": 4700}),
        (None, "what the ledger converted and took back is neither on records nor written off",
         {"ledger": 3547 + off, "records": live, "written_off": kept_off}),
    ]  # fmt: skip


def test_an_import_converts_nothing_and_its_records_count() -> None:
    brought = migration(4, kind="import", credited=0, batches={"mana": 7}, records={"mana": 0})
    assert all_together(migration(), brought, converted=2350, taken_back=0) == []
    lacking = migration(4, kind="import", credited=0, batches={"mana": 0}, records={"mana": 0, "migrated": 596})
    assert all_together(migration(), lacking, converted=2350, taken_back=0) == [
        (None, "records of conversions are missing that no rollback has deleted", {"users": 4})
    ]


@pytest.mark.parametrize(
    ("deleted", "users", "reason"),
    [
        (7, 5, "records of conversions are missing that no rollback has deleted"),
        (3, 1, "records of conversions are missing that no rollback has deleted"),
        (1, -1, "there are more records of conversions than batches counted"),
    ],
)
def test_records_are_missing_only_of_users_whom_a_rollback_took_back(deleted: int, users: int, reason: str) -> None:
    runs = migration(records=REST | {"migrated": 600 - deleted}), rollback(), rollback(3, **FORGOTTEN)
    found = all_together(*runs, converted=2350, taken_back=1153)
    assert (None, reason, {"users": users}) in found
    assert sum("records of conversions" in reason for _, reason, _ in found) == 1
