"""A window: the run ends after its batch and stays open, and the same command resumes it the next night."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

from mana_migration.domain import options
from mana_migration.domain.options import Controls
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.models import MigrationRun
from mana_migration.services.executors import background
from mana_migration.states import EventKind, RunStatus
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, migrate, refusal, roll_back, told
from tests.support.commands import run_command
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)


class Clock(datetime):
    """A clock that is three hours later from the sixth look on: any window of two hours is over after a few batches."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        cls.looks += 1
        found = super().now(tz)
        return found if cls.looks <= 5 else found + timedelta(hours=3)


@pytest.fixture
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a window of two hours end after a few batches, however fast the machine is."""
    monkeypatch.setattr(Clock, "looks", 0)
    monkeypatch.setattr(options, "datetime", Clock)


def window_events(run: int) -> int:
    return MigrationRun.objects.get(pk=run).events.filter(kind=EventKind.WINDOW_OVER).count()


def test_a_migration_ends_with_its_window_and_the_same_command_resumes_it(soon_over: None) -> None:
    make_wallets([(1, 0, 0)] * 60)
    with balanced():
        first = run_command("migrate_users", "--batch-size", 1, "--delay", "0", "--run-time", "2h")
        assert first.code == 0, first
        assert 0 < Wallet.objects.filter(migrated_at=None).count() < 60
        run = MigrationRun.objects.get()
        assert run.status == RunStatus.RUNNING
        assert f"run {run.pk} (migration): the window is over; " in first.out
        assert re.search(r"^the window ends at \d{4}-\d\d-\d\d \d\d:\d\d UTC; what is left", first.out, re.MULTILINE)
        assert f"next: the same command resumes run {run.pk}: " in first.out
        assert window_events(run.pk) == 1
        assert background.find_work("default") is None  # a worker process leaves it alone
        second = told(run_command("migrate_users", "--format", "json"))
    assert (second["run"], second["status"]) == (run.pk, "completed")
    assert MigrationRun.objects.get().controls_in_force.until == ""
    assert window_events(run.pk) == 1


def test_a_rollback_has_a_window_as_well(soon_over: None) -> None:
    make_wallets([(1, 0, 0)] * 60)
    migrate()
    with balanced():
        done = roll_back("--all", "--batch-size", 1, "--delay", "0", "--run-time", "2h")
        assert done["status"] == "running"
        assert 0 < done["users"]["rolled_back"] < 60
        assert done["window"]["users_left"] == 60 - done["users"]["rolled_back"]
        assert roll_back("--all", "--batch-size", 1)["status"] == "completed"


def test_a_window_is_changed_from_another_terminal() -> None:
    run = MigrationRun.objects.create(kind="migration", status="running")
    done = run_command("control_migration", "set", "until=2026-11-24T05:00+01:00")
    assert (done.code, "until 2026-11-24T04:00:00+00:00" in done.out) == (0, True)
    assert MigrationRun.objects.get().controls_in_force.window_is_over()
    assert background.find_work("default") is None
    run_command("control_migration", "set", "until=none")
    found = background.find_work("default")
    assert found is not None
    assert found.pk == run.pk


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--run-time", "2"], "is not a duration"),
        (["--run-time", "0h"], "is not a duration"),
        (["--run-time", "99999d"], "is not a duration"),
        (["--until", "25:00"], "is not a time"),
        (["--until", "2020-01-01 05:00"], "is over"),
        (["--until", "05:00", "--run-time", "2h"], "not allowed with"),
        (["--until", "05:00", "--user-id", "1"], "cannot be combined with --user-id"),
    ],
)
def test_a_window_that_means_nothing_is_refused(argv: list[str], sentence: str) -> None:
    assert sentence in refusal(run_command("migrate_users", *argv), 2)


def test_a_time_of_day_means_its_next_occurrence(settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    found = arguments.until("05:00")
    assert (found.hour, found.minute) == (5, 0)
    assert timedelta() < found - datetime.now(UTC) <= timedelta(hours=25)


def test_an_end_of_a_window_has_a_zone() -> None:
    with pytest.raises(UsageError, match="with its zone"):
        Controls.from_dict({"until": "2026-11-24T05:00"})
    assert Controls.from_dict({"until": "none"}).as_dict() == Controls().as_dict()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("2026-10-25T02:30", "happens twice"), ("2026-03-29T02:30", "does not exist")],
)
def test_a_local_time_with_two_readings_or_none_is_refused(value: str, sentence: str, settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    refused = refusal(run_command("rollback_migration", "--since", value), 2)
    assert sentence in refused
    assert "+01:00" in refused
    assert "+02:00" in refused
