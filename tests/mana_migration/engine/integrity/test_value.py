"""What everything together should be worth: every part of the sum, with figures that no other operation gives."""

import pytest
from django.db import connection

from mana_migration.engine.integrity.value import LedgerSums, booked_value, ledger_sums, ledger_sums_twice
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun
from tests.factories import UserFactory
from wishes.models import ManaEntry, WishEntry

pytestmark = pytest.mark.django_db

RATES = {"green": 11, "blue": 101, "red": 1001}
NOTHING = LedgerSums({}, {}, 0)


def run_of(kind: str, **values: object) -> MigrationRun:
    """Return a run that is over."""
    return MigrationRun.objects.create(kind=kind, status="stopped", rates={}, actor="x", host="x", **values)


def test_nothing_is_booked_where_nothing_is() -> None:
    assert ledger_sums(connection) == NOTHING
    assert NOTHING.entries == NOTHING.of("earn") == 0
    assert booked_value(connection, RATES, NOTHING) == 0


def test_the_ledger_is_summed_up_by_kind() -> None:
    user = UserFactory()
    amounts = [("earn", 9), ("earn", 2**62), ("earn", 2**62), ("spend", -3), ("adjustment", 5), ("opening", 70)]
    for number, (kind, amount) in enumerate(amounts):
        ManaEntry.objects.create(
            user=user, kind=kind, amount=amount, balance_after=max(amount, 0), reference=f"test-{number}"
        )
    sums = ledger_sums(connection)
    assert sums.numbers == {"earn": 3, "spend": 1, "adjustment": 1, "opening": 1}
    assert sums.sums == {"earn": 9 + 2**63, "spend": -3, "adjustment": 5, "opening": 70}
    assert (sums.entries, sums.negative) == (6, 0)
    assert sums.of("spend", "opening", "nothing") == 67
    assert booked_value(connection, RATES, sums) == 9 + 2**63 - 3 + 5


def test_two_parts_of_the_ledger_are_summed_up_at_once_as_one_by_one() -> None:
    user = UserFactory()
    first, second, third = (
        ManaEntry.objects.create(user=user, kind=kind, amount=amount, balance_after=balance, reference=kind)
        for kind, amount, balance in (("earn", 9, 9), ("spend", -4, 5), ("opening", 70, 75))
    )
    for after in (0, first.pk, second.pk, third.pk):
        for later in (after, second.pk, third.pk):
            expected = ledger_sums(connection, after=after), ledger_sums(connection, after=max(after, later))
            assert ledger_sums_twice(connection, after=after, later=later) == expected
    assert ledger_sums(connection, after=first.pk).sums == {"spend": -4, "opening": 70}


def test_wishes_are_booked_at_the_rate_of_their_colour() -> None:
    user = UserFactory()
    for number, (colour, amount) in enumerate((("green", 5), ("blue", 3), ("blue", -1), ("red", 2))):
        WishEntry.objects.create(
            user=user, colour=colour, amount=amount, balance_after=5, reference=f"test-{number}",
            kind="earn" if amount > 0 else "spend",
        )  # fmt: skip
    assert booked_value(connection, RATES, NOTHING) == 5 * 11 + 2 * 101 + 2 * 1001


def test_what_rollbacks_wrote_off_is_booked() -> None:
    for kind, status, shortfall in (
        ("rollback", "done", 31), ("rollback", "done", 9), ("rollback", "planned", 64), ("migration", "done", 128),
    ):  # fmt: skip
        MigrationBatch.objects.create(
            run=run_of(kind), first_user="1", last_user="2", planned=0, status=status, shortfall=shortfall
        )
    assert booked_value(connection, RATES, NOTHING) == 40


def test_fixes_are_booked_in_mana_and_in_every_colour() -> None:
    for changes in ({"mana": 13, "green": 3}, {"mana": 2, "blue": 2, "red": 1}, {"green": -1}):
        IntegrityFix.objects.create(
            check_id="x", user=UserFactory(), before={}, after={},
            **{f"{name}_change": change for name, change in changes.items()},
        )  # fmt: skip
    assert booked_value(connection, RATES, NOTHING) == 15 + 2 * 11 + 2 * 101 + 1001


def test_imports_are_booked_as_each_has_recorded_it() -> None:
    run_of("import", baseline={"imported": {"green": 1, "blue": 2, "red": 3, "mana": 4}})
    run_of("import", baseline={"imported": {"green": "5", "mana": "7"}})
    run_of("import", baseline={})
    run_of("migration", baseline={"imported": {"mana": 1000}})
    assert booked_value(connection, RATES, NOTHING) == 6 * 11 + 2 * 101 + 3 * 1001 + 11


def test_the_parts_are_added_up() -> None:
    user = UserFactory()
    WishEntry.objects.create(user=user, colour="blue", amount=3, balance_after=3, reference="x", kind="earn")
    MigrationBatch.objects.create(
        run=run_of("rollback"), first_user="1", last_user="2", planned=0, status="done", shortfall=39
    )
    IntegrityFix.objects.create(check_id="x", user=user, before={}, after={}, mana_change=7, red_change=1)
    run_of("import", baseline={"imported": {"blue": 1, "mana": 2}})
    sums = LedgerSums({}, {"earn": 9, "spend": -3, "adjustment": 1, "conversion": 4096, "reversal": -2048}, 0)
    assert booked_value(connection, RATES, sums) == 7 + 303 + 39 + 1008 + 103
    assert booked_value(connection, {"green": 10, "blue": 100, "red": 1000}, sums) == 7 + 300 + 39 + 1007 + 102
