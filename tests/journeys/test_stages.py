"""A migration in stages: a small share first, then more, then everybody; and back."""

from __future__ import annotations

import pytest
from django.utils import timezone

from mana_migration.models import MigrationRun
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, keys_of, migrate, people, roll_back, wallet
from tests.support.commands import run_command
from tests.support.oracle import assert_books_balance, assert_everyone_is_accounted_for, endowment
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def migrated() -> set[object]:
    return set(Wallet.objects.filter(migrated_at__isnull=False).values_list("pk", flat=True))


def test_cohorts_grow_and_the_last_run_takes_the_rest_and_those_who_came_meanwhile() -> None:
    keys = keys_of(make_wallets([(n % 7, n % 5, n % 3) for n in range(400)]))
    with balanced():
        small = migrate("--cohort", "1%")["users"]["migrated"]
        first = migrated()
        assert 0 < small < 15
        larger = migrate("--cohort", "10%")["users"]["migrated"]
        assert first < migrated()
        assert 20 < small + larger < 70
        limited = migrate("--limit", "100")["users"]["migrated"]
        assert limited == 100
    newcomers = people(3)
    before = endowment()
    rest = migrate()
    assert rest["users"]["migrated"] == 403 - small - larger - limited
    assert migrated() == {*keys, *newcomers}
    assert_everyone_is_accounted_for(rest["run"])
    assert_books_balance(expected=before)
    assert run_command("validate_migration").code == 0


def test_one_stage_is_taken_back_and_the_others_stay() -> None:
    people(60)
    with balanced():
        first = migrate("--limit", "20")
        second = migrate("--limit", "20")
        third = migrate()
        kept = migrated()
        assert roll_back("--run", second["run"])["users"]["rolled_back"] == 20
        assert len(kept - migrated()) == 20
        again = migrate()
        assert again["users"]["migrated"] == 20
        statuses = dict(MigrationRun.objects.values_list("pk", "status"))
    assert [statuses[run["run"]] for run in (first, second, third, again)] == [
        "completed", "rolled_back", "completed", "completed",
    ]  # fmt: skip


def test_a_stage_since_a_moment_is_taken_back_with_what_was_earned_kept() -> None:
    keys = people(30)
    with balanced():
        migrate("--limit", "10")
        moment = timezone.now()
        migrate("--limit", "10")
        services.earn_mana(keys[15], 500, reference="quest")
        services.spend_mana(keys[16], 30, reference="order")
        done = roll_back("--since", moment.isoformat(), code=3)
    assert (done["users"]["rolled_back"], done["skipped"]) == (9, {"shortfall": 1})
    assert wallet(keys[5])[4]
    assert wallet(keys[15]) == (3, 2, 1, 500, False)
    assert wallet(keys[16]) == (0, 0, 0, 1200, True)
