"""Forecasts: what they expect, how long, and that they leave no trace in the session."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.models import MigrationRun
from mana_migration.services import dry_run, migration
from mana_migration.services.runs import Actor
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.running import people
from tests.support.oracle import assert_nothing_changes
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

OLGA = Actor("olga", "db-1")


def test_the_session_can_write_again_afterwards() -> None:
    people(2)
    dry_run.forecast(MigrationOptions())
    assert Wallet.objects.update(green=1) == 2
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('transaction_read_only')"
            if connection.vendor == "postgresql"
            else "PRAGMA query_only"
        )
        assert cursor.fetchone()[0] in ("off", 0)


def test_a_forecast_that_fails_leaves_a_session_that_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    people(1)

    def fail(using: str) -> Any:
        raise RuntimeError

    monkeypatch.setattr("mana_migration.services.validation.precheck", fail)
    with pytest.raises(RuntimeError):
        dry_run.forecast(MigrationOptions())
    assert Wallet.objects.update(green=1) == 1


def test_an_open_run_is_named_and_those_it_handled_are_not_counted_again() -> None:
    people(4)
    run = migration.start(MigrationOptions(limit=4), actor=OLGA)
    with assert_nothing_changes():
        told = dry_run.forecast(MigrationOptions())
    assert (told.goes_on_with, told.totals.selected) == (run.pk, 4)


def test_an_open_rollback_is_not_gone_on_with() -> None:
    MigrationRun.objects.create(kind="rollback", status="running")
    assert dry_run.forecast(MigrationOptions()).goes_on_with is None


@pytest.mark.parametrize(
    ("controls", "seconds"),
    [
        (Controls(), 0.0),
        (Controls(delay=2.0), 2.0 * 20),
        (Controls(delay=2.0, batch_size=100), 2.0 * 10),
        (Controls(delay=2.0, batch_size="auto"), 2.0 * 20),
        (Controls(delay=0.0), 0.0),
    ],
)
def test_delays_between_batches_are_part_of_the_duration(controls: Controls, seconds: float) -> None:
    assert dry_run.pauses(MigrationOptions(controls=controls), 1_000) == seconds


def test_the_rate_is_assumed_until_a_run_has_been_measured() -> None:
    rate, source = dry_run.expected_rate("default")
    assert rate > 0
    assert "assumed" in source
    folded = {"totals": {"selected": 6_000}, "seconds": 3.0, "batches": 1, "histogram": {}, "series": [],
              "last_progress": None}  # fmt: skip
    run = MigrationRun.objects.create(kind="migration", status="completed", folded=folded)
    assert dry_run.expected_rate("default") == (2_000.0, f"measured in run {run.pk}")


def test_amounts_are_exact_beyond_bigint() -> None:
    red = (2**63 - 1) // 1000
    make_wallets([(0, 0, red)] * 5)
    told = dry_run.forecast(MigrationOptions())
    assert (told.totals.mana, told.totals.red) == (5 * red * 1000, 5 * red)


def test_the_largest_are_left_out_of_a_mere_validation() -> None:
    WalletFactory()
    assert len(dry_run.forecast(MigrationOptions()).largest) == 1
    assert dry_run.forecast(MigrationOptions(), validate_only=True).largest == ()
