"""How the checks choose where to look, and how they add up what they found in two places."""

from typing import Any

import pytest
from django.db import connection

from mana_migration.domain.validation import BOTH, POST, PRE
from mana_migration.engine.integrity import counting
from mana_migration.engine.integrity.records import RecordScan, RecordSums
from mana_migration.engine.integrity.scope import Scope
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import validation
from tests.support.economy import Economy
from tests.support.violations import entry, wallet
from wishes.rates import Rates

pytestmark = pytest.mark.django_db

TERMS = WalletTerms(Rates(), large=10**9)


def run_of(handled: int, baseline: dict[str, str]) -> int:
    """Return a run whose two batches handled so many users."""
    run = MigrationRun.objects.create(
        kind="migration", status="stopped", rates={}, actor="x", host="x", baseline=baseline
    )
    for first, selected in (("1", handled - 1), ("50", 1)):
        MigrationBatch.objects.create(
            run=run, first_user=first, last_user="99", planned=9, selected=selected, migrated=selected, status="done"
        )
    return run.pk


@pytest.mark.parametrize(
    ("handled", "wallets", "whole"), [(6, "59", True), (6, "60", False), (6, "61", False), (1, "60", False)]
)
def test_a_run_is_small_that_handled_at_most_one_in_ten_wallets(handled: int, wallets: str, whole: bool) -> None:
    run = run_of(handled, {"wallets": wallets})
    plan = counting.plan_count("default", connection, POST, Scope(run=run), TERMS)
    assert (plan.whole, plan.scope) == (whole, Scope(run=run, first="1", last="99"))


def test_a_run_that_took_no_sums_at_its_start_is_looked_at_as_a_whole() -> None:
    assert counting.plan_count("default", connection, POST, Scope(run=run_of(1, {})), TERMS).whole


def test_without_a_run_everybody_is_looked_at_unless_users_are_named() -> None:
    assert counting.plan_count("default", connection, PRE, Scope(), TERMS).whole
    assert not counting.plan_count("default", connection, PRE, Scope(users=("1",)), TERMS).whole


def negative_mana(**options: Any) -> int:
    """Return how many findings are counted, which must be as many as are told."""
    told = []
    report = validation.validate(chains=False, all_hits=True, on_finding=told.append, **options)
    counted = {check.id: check.count for check in report.checks}["negative_mana"]
    assert sum(finding.check == "negative_mana" for finding in told) == counted
    return counted


@pytest.mark.parametrize("few", [1, 10**9], ids=["user by user", "everybody first"])
def test_wallets_and_balances_below_zero_are_added_up(
    economy: Economy, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(counting, "SMALL_RUN", few)
    run = economy.record("still").run_id
    entry(economy, "still", "conversion").update(balance_after=-1)
    assert negative_mana(run=run, phase=POST) == 1
    wallet(economy, "empty").update(mana=-1)
    assert negative_mana(run=run, phase=POST) == 2  # 1 + 1: neither 1 | 1 nor 1 ^ 1
    for phase in (POST, BOTH):
        assert negative_mana(phase=phase) == 2
    assert negative_mana(users=[str(economy.key("still")), str(economy.key("empty"))]) == 2


def test_the_records_of_a_run_are_those_of_its_number() -> None:
    scan = RecordScan([RecordSums(run, None, {"conversions": number}, {}) for run, number in ((1000, 3), (1001, 4))])
    assert [scan.total("conversions", run=int(text)) for text in ("1000", "1001", "1002")] == [3, 4, 0]
    assert scan.total("conversions") == 7
