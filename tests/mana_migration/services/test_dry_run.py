"""Forecasts: what they expect, how long, and that they leave no trace in the session."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from mana_migration.domain.forecast import ASSUMED_RATE
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.rehearsal import Rehearsal as Outcome
from mana_migration.models import MigrationRun, Rehearsal
from mana_migration.services import dry_run
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from mana_migration.states import EventKind
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.history import after, done, make_batch, make_event, make_run
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

    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr("mana_migration.services.validation.validate", fail)
    with pytest.raises(RuntimeError):
        dry_run.forecast(MigrationOptions())
    assert Wallet.objects.update(green=1) == 1


def test_an_open_run_is_named_and_those_it_handled_are_not_counted_again() -> None:
    people(4)
    run = Migration(MigrationOptions(limit=4)).open(RunContext(actor=OLGA))
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


def test_amounts_are_exact_beyond_bigint() -> None:
    red = (2**63 - 1) // 1000
    make_wallets([(0, 0, red)] * 5)
    told = dry_run.forecast(MigrationOptions())
    assert (told.totals.mana, told.totals.red) == (5 * red * 1000, 5 * red)


def test_the_largest_are_left_out_of_a_mere_validation() -> None:
    WalletFactory()
    assert len(dry_run.forecast(MigrationOptions()).largest) == 1
    assert dry_run.forecast(MigrationOptions(), validate_only=True).largest == ()


def test_the_speed_expected_is_that_of_the_latest_mass_migration_by_the_time_it_took_with_all_its_attempts() -> None:
    run = make_run(created_at=after(0), finished_at=after(50))
    make_batch(run, done(100, failed=0), start=0, seconds=2)  # the other attempts failed, and took 48 s
    selected = make_run(options={"users": ["1"]}, created_at=after(60), finished_at=after(61))
    make_batch(selected, done(1), start=60)
    make_run(created_at=after(70), finished_at=after(80))  # selected nobody
    assert dry_run.expected_rate("default") == (2.0, f"measured in run {run.pk}")


def test_time_on_pause_does_not_count_for_the_speed_expected() -> None:
    run = make_run(created_at=after(0), finished_at=after(60))
    make_batch(run, done(100), start=0)
    make_event(run, EventKind.PAUSED, 5)
    make_event(run, EventKind.RESUMED, 55)
    assert dry_run.expected_rate("default") == (10.0, f"measured in run {run.pk}")


def rehearsal(*, low: float = 80.0, high: float = 120.0) -> Rehearsal:
    """Keep the result of a rehearsal for a site of 20,000 users."""
    result = Outcome(all_users=20_000, rehearsed=1_000).as_dict()
    return Rehearsal.objects.create(result={**result, "seconds": {"migrate": {"low": low, "high": high}}})


def test_a_rehearsal_is_what_the_next_forecast_uses_until_a_run_is_measured() -> None:
    rehearsal(low=1, high=1)
    rehearsal()
    assert dry_run.expected_rate("default") == (200.0, "measured in a rehearsal of 1,000 users")
    run = make_run(created_at=after(0), finished_at=after(100))  # before it
    make_batch(run, done(200), start=0, seconds=100)
    assert dry_run.expected_rate("default")[0] == 200.0
    run = make_run(created_at=timezone.now(), finished_at=timezone.now() + timedelta(seconds=100))
    make_batch(run, done(200), start=0, seconds=100)
    assert dry_run.expected_rate("default") == (pytest.approx(2.0), f"measured in run {run.pk}")


def test_without_a_run_to_measure_the_speed_is_assumed() -> None:
    rate, source = dry_run.expected_rate("default")
    assert rate == ASSUMED_RATE[connection.vendor]
    assert source.startswith("assumed")
