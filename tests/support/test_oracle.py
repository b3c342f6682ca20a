"""The oracle sees every kind of violation, and none in what the product does."""

from typing import Any

import pytest
from django.db import connection, transaction

from mana_migration.models import IntegrityFix, UserMigration
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
from tests.support.violations import PLANTED, wallet
from wishes.models import ManaEntry, Wallet
from wishes.services import earn_mana

pytestmark = pytest.mark.django_db


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
