"""A rehearsal converts and reverses real users, finds what a dry run cannot, and keeps nothing but its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection

from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.rehearsal import Rehearsal
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.models import Rehearsal as StoredRehearsal
from mana_migration.reports import rehearsal as report
from mana_migration.services import rehearsal
from mana_migration.services.context import Actor, RunContext
from tests.factories import WalletFactory, make_wallets
from tests.support.commands import run_command
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db(transaction=True)

OLGA = Actor("olga", "db-1")


def rehearse(sample: int = rehearsal.SAMPLE, *, size: int = 3, **options: Any) -> Rehearsal:
    """Rehearse and check that nothing but the result is kept."""
    before = list(Wallet.objects.order_by("pk").values())
    found = rehearsal.rehearse(
        MigrationOptions(controls=Controls(batch_size=size), **options), RunContext(actor=OLGA), sample=sample
    )
    assert list(Wallet.objects.order_by("pk").values()) == before
    for model in (MigrationRun, MigrationBatch, UserMigration, ManaEntry):
        assert not model._default_manager.exists(), model
    assert StoredRehearsal.objects.get().result == found.as_dict()
    return found


@contextmanager
def trigger(table: str, when: str, condition: str, *, effect: str) -> Iterator[None]:
    """Let a trigger of the site's own raise an error, drop the row's change, or send a statement, for some rows."""
    sqlite = {"raise": "SELECT RAISE(ABORT, 'shop: refused')", "drop": "SELECT RAISE(IGNORE)"}
    postgresql = {"raise": "RAISE EXCEPTION 'shop: refused'", "drop": "RETURN NULL"}
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            action = f"{sqlite.get(effect, effect)};"
            cursor.execute(f"CREATE TRIGGER shop BEFORE {when} ON {table} WHEN {condition} BEGIN {action} END")
        else:
            action = f"{postgresql.get(effect, effect)};"
            cursor.execute(
                f"CREATE FUNCTION shop() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN IF {condition} THEN {action} END IF; RETURN NEW; END $$"
            )
            cursor.execute(f"CREATE TRIGGER shop BEFORE {when} ON {table} FOR EACH ROW EXECUTE FUNCTION shop()")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute("DROP TRIGGER shop")
            else:
                cursor.execute(f"DROP TRIGGER shop ON {table}; DROP FUNCTION shop()")


def test_every_user_of_a_small_site_is_rehearsed() -> None:
    make_wallets([(1, 2, 3), (0, 0, 0), (5, 0, 0, 0)] * 3)
    found = rehearse()
    assert (found.all_users, found.rehearsed, found.converted, found.failed) == (9, 9, 9, 0)
    assert len(found.converting.per_user) == len(found.reversing.per_user) == 3


def test_a_sample_is_spread_over_all_keys_and_the_same_each_time() -> None:
    keys = [wallet.pk for wallet in make_wallets([(1, 0, 0)] * 30)]
    seen: list[list[tuple[str, str]]] = []
    original = rehearsal._rehearse

    def remember(part: Any, *args: Any, **values: Any) -> None:
        seen[-1].append((part.first, part.last))
        original(part, *args, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "_rehearse", remember)
        for _ in range(2):
            seen.append([])
            assert rehearse(9).rehearsed == 9
            StoredRehearsal.objects.all().delete()
    assert seen[0] == seen[1] == [(str(keys[n]), str(keys[n + 2])) for n in (0, 10, 20)]


def test_who_would_fail_is_found_by_class_and_costs_no_other() -> None:
    wallets = make_wallets([(1, 0, 0)] * 7)
    bad = wallets[4].pk
    with trigger("wishes_wallet", "UPDATE", f"NEW.user_id = {bad}", effect="raise"):
        found = rehearse(size=7)
    assert (found.rehearsed, found.converted, found.failed) == (7, 6, 1)
    (name,) = found.errors
    assert "shop: refused" in found.messages[name]
    assert found.examples[name] == [str(bad)]


def test_a_change_that_is_dropped_in_silence_is_found() -> None:
    wallets = make_wallets([(1, 0, 0)] * 5)
    bad = wallets[2].pk
    with trigger("wishes_wallet", "UPDATE", f"NEW.user_id = {bad}", effect="drop"):
        found = rehearse(size=5)
    assert (found.converted, found.failed) == (4, 1)
    assert list(found.examples.values()) == [[str(bad)]]


@pytest.mark.parametrize(
    ("event", "status", "red"),
    [("INSERT", "failed", -1), ("INSERT", "migrated", 1), ("UPDATE", "rolled_back", 1)],
)
def test_a_wallet_that_is_changed_beside_its_record_is_found(event: str, status: str, red: int) -> None:
    make_wallets([(0, 0, red)])
    body = "UPDATE wishes_wallet SET mana = mana + 1 WHERE user_id = NEW.user_id"
    with trigger("mana_migration_usermigration", event, f"NEW.status = '{status}'", effect=body):
        found = rehearse()
    assert (found.failed, set(found.errors)) == (1, {"not_kept"})


def test_users_whom_the_run_would_record_as_failed_are_counted() -> None:
    make_wallets([(1, 0, 0), (-1, 0, 0)])
    found = rehearse()
    assert found.errors == {"negative_balance": 1}


def test_chosen_users_alone_are_rehearsed() -> None:
    wallets = make_wallets([(1, 0, 0)] * 4)
    found = rehearse(users=(str(wallets[1].pk), str(wallets[3].pk)))
    assert (found.rehearsed, found.all_users) == (2, 4)


def test_an_open_run_is_refused() -> None:
    MigrationRun.objects.create(kind="migration", status="running")
    with pytest.raises(RunConflictError, match="rehearse before a run begins"):
        rehearsal.rehearse(MigrationOptions(), RunContext(actor=OLGA))


def test_the_command_says_who_would_fail_and_how_long_it_would_take() -> None:
    WalletFactory(green=-1)
    make_wallets([(1, 0, 0)] * 3)
    result = run_command("migrate_users", "--rehearse")
    assert result.code == 3
    lines = result.out.splitlines()
    assert lines[0] == "Rehearsal of 4 users: 1 of them would fail; every transaction was rolled back"
    assert lines[1] == "  converted   3, each verified before and after the reversal"
    assert lines[2].startswith("  negative_balance 1: a balance is negative; ")
    assert lines[3].startswith("All 4 users: about ")
    assert lines[4].startswith("Rolling all of them back: about ")


def test_nothing_to_rehearse_is_a_success() -> None:
    result = run_command("migrate_users", "--rehearse", "10")
    assert (result.code, result.out) == (0, "Rehearsal: no user is left to be migrated\n")


def test_a_few_users_are_no_measure_of_all() -> None:
    found = Rehearsal(all_users=20_000, rehearsed=1, converted=1)
    found.converting.add(1, 0.02)
    assert found.estimates() == (None, None)
    assert not any(line.startswith("All ") for line in report.as_lines(found))
    all_of_them = replace(found, all_users=1)
    assert all_of_them.estimates()[0] is not None
