"""What auto-fix may decide from one user's figures, and what it must leave."""

import pytest

from mana_migration.domain.repairs import (
    FIXABLE,
    NOTHING_WRONG,
    Balances,
    Flag,
    LedgerState,
    Left,
    LiveRecord,
    Repair,
    UserState,
    decide,
)

NOTHING = Balances(0, 0, 0, 0)
RECORD = LiveRecord(id=1, run=7, before=Balances(3, 2, 1, 40), credited=1230)
CONVERTED = LedgerState(total=1270, newest_balance=1270, newest_kind="conversion", open_conversions=((7, 1230),))


def unmigrated(wallet: Balances | None, ledger: LedgerState | None = None, *live: LiveRecord) -> UserState:
    return UserState(wallet, migrated=False, ledger=ledger or LedgerState(), live=live)


def migrated(wallet: Balances, ledger: LedgerState | None = None, *live: LiveRecord) -> UserState:
    return UserState(wallet, migrated=True, ledger=ledger or LedgerState(), live=live)


def repaired(check: str, state: UserState) -> tuple[Balances, Flag]:
    decision = decide(check, state)
    assert isinstance(decision, Repair)
    assert decision.before == state.wallet
    assert decision.reason
    return decision.after, decision.flag


def left(check: str, state: UserState) -> str:
    decision = decide(check, state)
    assert isinstance(decision, Left)
    assert decision is not NOTHING_WRONG
    return decision.reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Balances(-1, 2, 3, 4), Balances(0, 2, 3, 4)),
        (Balances(1, -2, 3, 4), Balances(1, 0, 3, 4)),
        (Balances(1, 2, -3, 4), Balances(1, 2, 0, 4)),
        (Balances(-1, -2, -3, 0), NOTHING),
        (Balances(-(2**63) + 1, 0, 0, 0), NOTHING),
    ],
)
def test_negative_wishes_become_0_and_nothing_else_changes(before: Balances, after: Balances) -> None:
    assert repaired("negative_balance", unmigrated(before)) == (after, Flag.KEEP)


def test_a_change_that_no_column_can_record_is_not_made() -> None:
    assert "BIGINT" in left("negative_balance", unmigrated(Balances(-(2**63), 0, 0, 0)))


@pytest.mark.parametrize("total", [0, 1, 76])
def test_unbacked_mana_is_written_off_to_what_the_ledger_backs(total: int) -> None:
    state = unmigrated(Balances(1, 2, 3, 77), LedgerState(total=total, newest_balance=total or None))
    assert repaired("orphaned_mana", state) == (Balances(1, 2, 3, total), Flag.KEEP)


def test_mana_is_never_paid_out() -> None:
    state = unmigrated(Balances(0, 0, 0, 40), LedgerState(total=100, newest_balance=100))
    assert "pay out" in left("orphaned_mana", state)


def test_mana_is_not_written_off_below_0() -> None:
    state = unmigrated(Balances(0, 0, 0, 400), LedgerState(total=-100, newest_balance=400))
    assert "spent" in left("orphaned_mana", state)


def test_mana_that_later_entries_build_on_is_left() -> None:
    state = unmigrated(Balances(0, 0, 0, 510), LedgerState(total=10, newest_balance=510))
    assert "on top" in left("orphaned_mana", state)


def test_a_flag_that_was_lost_is_set_again() -> None:
    state = unmigrated(Balances(0, 0, 0, 1270), CONVERTED, RECORD)
    assert repaired("migration_inconsistency", state) == (Balances(0, 0, 0, 1270), Flag.SET)


def test_a_flag_is_set_again_although_the_user_has_spent_since() -> None:
    ledger = LedgerState(1000, 1000, "spend", ((7, 1230),))
    state = unmigrated(Balances(0, 0, 0, 1000), ledger, RECORD)
    assert repaired("migration_inconsistency", state) == (Balances(0, 0, 0, 1000), Flag.SET)


def test_a_flag_lost_by_somebody_who_had_nothing_is_set_again() -> None:
    record = LiveRecord(1, 7, NOTHING, 0)
    assert repaired("migration_inconsistency", unmigrated(NOTHING, None, record)) == (NOTHING, Flag.SET)


def test_a_stale_write_of_exactly_the_pre_image_is_undone() -> None:
    state = unmigrated(RECORD.before, CONVERTED, RECORD)
    assert repaired("migration_inconsistency", state) == (Balances(0, 0, 0, 1270), Flag.SET)


@pytest.mark.parametrize(
    "wallet",
    [Balances(4, 2, 1, 40), Balances(3, 2, 1, 41), Balances(3, 2, 1, 1270), Balances(0, 0, 0, 1269)],
    ids=str,
)
def test_a_wallet_that_is_neither_before_nor_after_the_conversion_is_left(wallet: Balances) -> None:
    assert "neither" in left("migration_inconsistency", unmigrated(wallet, CONVERTED, RECORD))


def test_a_stale_write_is_left_where_something_happened_since() -> None:
    ledger = LedgerState(1260, 1260, "spend", ((7, 1230),))
    assert "neither" in left("migration_inconsistency", unmigrated(RECORD.before, ledger, RECORD))


@pytest.mark.parametrize("conversions", [(), ((8, 1230),), ((7, 1229),)], ids=str)
def test_a_record_without_its_conversion_in_the_ledger_is_left(conversions: tuple[tuple[int, int], ...]) -> None:
    ledger = LedgerState(1270, 1270, "conversion", conversions)
    assert "not in the ledger" in left("migration_inconsistency", unmigrated(Balances(0, 0, 0, 1270), ledger, RECORD))


def test_a_ledger_that_contradicts_itself_decides_nothing() -> None:
    ledger = LedgerState(1270, 1271, "conversion", ((7, 1230),))
    assert "newest" in left("migration_inconsistency", unmigrated(Balances(0, 0, 0, 1270), ledger, RECORD))
    assert "entries say" in left("migration_inconsistency", migrated(Balances(0, 0, 0, 5), LedgerState(5, 4)))


@pytest.mark.parametrize("mana", [0, 25])
def test_a_flag_without_any_conversion_is_cleared(mana: int) -> None:
    ledger = LedgerState(mana, mana or None, "earn" if mana else "")
    state = migrated(Balances(0, 0, 0, mana), ledger)
    assert repaired("migration_inconsistency", state) == (Balances(0, 0, 0, mana), Flag.CLEAR)


def test_a_flagged_wallet_whose_record_is_gone_is_left() -> None:
    assert "record is gone" in left("migration_inconsistency", migrated(Balances(0, 0, 0, 1270), CONVERTED))


def test_a_flagged_wallet_whose_import_is_gone_is_left() -> None:
    ledger = LedgerState(5, 5, "opening", (), opening=True)
    assert "import is gone" in left("migration_inconsistency", migrated(Balances(0, 0, 0, 5), ledger))


def test_a_flagged_wallet_with_other_mana_or_wishes_is_left() -> None:
    assert "entries say" in left("migration_inconsistency", migrated(Balances(0, 0, 0, 6), LedgerState(5, 5)))
    assert "wishes" in left("migration_inconsistency", migrated(Balances(1, 0, 0, 0)))


def test_several_live_records_and_a_missing_wallet_are_left() -> None:
    assert "several" in left("migration_inconsistency", migrated(NOTHING, None, RECORD, RECORD))
    assert "no wallet" in left("migration_inconsistency", unmigrated(None, None, RECORD))


@pytest.mark.parametrize(
    ("check", "state"),
    [
        ("negative_balance", unmigrated(NOTHING)),
        ("negative_balance", unmigrated(None)),
        ("negative_balance", migrated(Balances(-1, 0, 0, 0))),
        ("orphaned_mana", unmigrated(Balances(0, 0, 0, 5), LedgerState(5, 5))),
        ("orphaned_mana", unmigrated(None)),
        ("orphaned_mana", migrated(Balances(0, 0, 0, 5))),
        ("migration_inconsistency", unmigrated(Balances(1, 2, 3, 0))),
        ("migration_inconsistency", migrated(Balances(0, 0, 0, 1270), CONVERTED, RECORD)),
    ],
)
def test_what_was_put_right_meanwhile_is_nothing_to_do(check: str, state: UserState) -> None:
    assert decide(check, state) is NOTHING_WRONG


def test_every_fixable_check_has_been_decided_here() -> None:
    assert FIXABLE == ("negative_balance", "orphaned_mana", "migration_inconsistency")
