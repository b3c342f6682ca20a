"""The sums over records and ledger against plain Python on a database with every kind of dirt, large numbers included.

They used to be one query for each figure and one condition for each row; what they come to must stay the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from django.db import connection
from django.db.models import F

from mana_migration import guards as migration_guards
from mana_migration.engine.integrity import records
from mana_migration.engine.integrity.scope import Scope
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.selectors import record_sums
from mana_migration.states import UserStatus
from tests.factories import make_wallets
from tests.mana_migration.running import keys_of, migrate, roll_back
from wishes import guards as wallet_guards
from wishes import services
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db(transaction=True)

BIG = 9 * 10**14
MONEY = ("green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall")


@pytest.fixture
def runs() -> list[int]:
    """Two migrations and two rollbacks, then damage to records, entries and wallets behind the guards' back."""
    keys = keys_of(make_wallets([(place, place % 7, place % 3 * 10 ** (place % 6)) for place in range(60)]))
    make_wallets([(0, 0, BIG)] * 20)
    make_wallets([(-1, 0, 0)] * 3)
    first = migrate("--skip-invalid", "--batch-size", 7, code=3)["run"]
    for key in keys[10:40:3]:
        services.spend_mana(key, 50, reference=f"bought:{key}")
    back = [word for key in keys[5:30] for word in ("--user-id", f"pk:{key}")]
    some = roll_back(*back, "--on-shortfall", "write-off")["run"]
    second = migrate("--skip-invalid", "--batch-size", 9, code=3)["run"]
    others = roll_back("--run", first, "--batch-size", 11, code=3)["run"]
    _damage()
    return [first, some, second, others]


def _damage() -> None:
    wallet_guards.uninstall(connection)
    migration_guards.uninstall(connection)
    try:
        found = list(UserMigration.objects.order_by("pk").values_list("pk", flat=True))
        for step, change in (
            (11, {"green": F("green") + 1}),
            (13, {"shortfall": 4}),
            (17, {"mana_credited": 9 * 10**18}),
            (19, {"status": UserStatus.FAILED, "error_class": "=HYPERLINK()"}),
        ):
            UserMigration.objects.filter(pk__in=found[::step]).update(**change)
        UserMigration.objects.filter(pk__in=found[3::23]).delete()
        entries = list(ManaEntry.objects.order_by("pk").values_list("pk", flat=True))
        ManaEntry.objects.filter(pk__in=entries[::9]).delete()
        for key in entries[4::9]:
            ManaEntry.objects.filter(pk=key).update(reference=f"conversion:999:{key}")
        migrated = list(Wallet.objects.filter(migrated_at__isnull=False).order_by("pk").values_list("pk", flat=True))
        Wallet.objects.filter(pk__in=migrated[::6]).update(migrated_at=None)
    finally:
        wallet_guards.install(connection)
        migration_guards.install(connection)


def about(run: MigrationRun) -> list[UserMigration]:
    """Return the records that a run is about."""
    return [
        record
        for record in UserMigration.objects.all()
        if record.run_id == run.pk or (run.kind == "rollback" and record.reversal_run_id == run.pk)
    ]


def test_the_damage_is_there(runs: list[int]) -> None:
    found = UserMigration.objects.all()
    assert {record.status for record in found} == set(UserStatus.values)
    assert found.filter(shortfall__gt=0).exists()
    assert sum(record.mana_credited for record in found) > 2**63


def test_the_sums_of_one_pass_are_those_of_all_records(runs: list[int]) -> None:
    for run in MigrationRun.objects.filter(pk__in=runs):
        expected: dict[Any, Counter[str]] = defaultdict(Counter)
        for record in about(run):
            part = expected[record.run_id, record.status, record.reversal_run_id]
            part.update({name: getattr(record, name) or 0 for name in MONEY}, users=1)
        found = record_sums.record_sums(connection, run)
        told = {
            (part.run, part.status, part.reversal_run): {name: getattr(part, name) for name in ("users", *MONEY)}
            for part in found.sums
        }
        assert told == {key: {name: sums[name] for name in ("users", *MONEY)} for key, sums in expected.items()}
        assert len(found.sums) == len(expected)


def test_the_sizes_and_shortfalls_of_one_pass_are_those_of_all_records(runs: list[int]) -> None:
    for run in MigrationRun.objects.filter(pk__in=runs):
        users, mana, short = Counter[int](), Counter[int](), 0
        for record in about(run):
            short += (record.shortfall or 0) > 0
            if record.status in ("migrated", "rolled_back"):
                low = 10 ** (min(len(str(record.mana_credited)), 10) - 1) if record.mana_credited else 0
                users[low] += 1
                mana[low] += record.mana_credited
        found = record_sums.record_sums(connection, run)
        assert {size.low: (size.users, size.mana) for size in found.sizes if size.users} == {
            low: (users[low], mana[low]) for low in users
        }
        assert found.shortfalls == short


def test_the_ledger_of_a_run_is_summed_by_what_its_entries_name(runs: list[int]) -> None:
    entries = list(ManaEntry.objects.values_list("reference", "amount"))
    for run in (*runs, 999):
        credited = sum(amount for reference, amount in entries if reference.startswith(f"conversion:{run}:"))
        debited = sum(amount for reference, amount in entries if reference.startswith(f"reversal:{run}:"))
        assert record_sums.ledger_sums(connection, run) == (credited, -debited)


def test_records_beside_entries_and_wallets_are_counted_as_one_by_one(runs: list[int]) -> None:
    for run in (None, *runs):
        expected = Counter[str]()
        for record in UserMigration.objects.all():
            if run is None or run in (record.run_id, record.reversal_run_id):
                expected.update(_beside(record))
        scan = records.scan(connection, Scope(run=run))
        names = {name for part in scan.parts for name in (*part.numbers, *part.sums)} - {"mismatched"}
        told = {name: sum((part.numbers | part.sums)[name] for part in scan.parts) for name in names}
        assert told == {name: expected[name] for name in names}
        assert names == set(expected)


def _beside(record: UserMigration) -> dict[str, int]:
    """Return what one record counts for."""
    entries = dict(ManaEntry.objects.filter(user_id=record.user_id).values_list("reference", "amount"))
    entry = entries.get(f"conversion:{record.run_id}:{record.user_id}")
    reversal = entries.get(f"reversal:{record.run_id}:{record.user_id}")
    back, live = record.status == "rolled_back", record.status == "migrated"
    flagged = Wallet.objects.filter(pk=record.user_id, migrated_at__isnull=False).exists()
    credited = (live or back) and record.mana_credited != 0
    debited = back and (record.mana_debited or 0) != 0
    return {
        **{status: record.status == status for status in UserStatus.values},
        "conversions": credited and entry is not None,
        "lacking_conversion": credited and entry != record.mana_credited,
        "reversals": debited and reversal is not None,
        "lacking_reversal": debited and reversal != -(record.mana_debited or 0),
        "unflagged": live and not flagged,
        "reflagged": flagged and not live,
        **{colour: getattr(record, colour) * (live or back) for colour in ("green", "blue", "red")},
        "mana": record.mana_credited * (live or back),
        "debited": (record.mana_debited or 0) * back,
        "shortfall": (record.shortfall or 0) * back,
        "credited_entries": (entry or 0) * credited,
        "debited_entries": -(reversal or 0) * debited,
    }
