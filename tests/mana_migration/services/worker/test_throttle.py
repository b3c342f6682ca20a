"""Between batches: how long, why, and until when."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from mana_migration.domain.options import Controls
from mana_migration.domain.pressure import Health
from mana_migration.domain.results import BatchResult
from mana_migration.models import MigrationRun, RunEvent
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.worker import throttle
from mana_migration.services.worker.throttle import Throttle

pytestmark = pytest.mark.django_db

PAST = "2020-01-01T05:00:00+00:00"

WELL, BEHIND = Health(), Health(replication_lag=99.0)


class Clock:
    """A clock that only waiting moves, and a stop flag that waits by it."""

    def __init__(self, stop: Callable[[float], bool] = lambda _: False) -> None:
        self.now, self.waits, self.stop = 1000.0, list[float](), stop
        self.during: Callable[[], Any] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(round(seconds, 3))
        self.now += max(0.0, seconds)
        self.during()
        return self.stop(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(throttle, "time", made)
    return made


@pytest.fixture
def run() -> MigrationRun:
    controls = {"batch_size": 50, "delay": 5.0, "error_threshold": "10"}
    return MigrationRun.objects.create(kind="migration", status="running", controls=controls)


def throttled(run: MigrationRun, clock: Clock, said: list[str] | None = None) -> Throttle:
    return Throttle(run.pk, RunContext(stop=clock, notice=(said if said is not None else []).append))  # type: ignore[arg-type]


def controls(delay: float | str) -> Controls:
    return Controls(delay=delay, error_threshold=Decimal(10))


def test_a_number_of_seconds_is_waited_in_short_steps(run: MigrationRun, clock: Clock) -> None:
    throttled(run, clock)(controls(5.0), 0.1)
    assert sum(clock.waits) == 5.0
    assert max(clock.waits) <= 1.0


def test_no_delay_asks_nobody(run: MigrationRun, clock: Clock, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        throttled(run, clock)(controls(0.0), 0.1)
        throttled(run, clock)(controls(0.9), 0.1)
    assert clock.waits == [0.0, 0.9]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "paused"},
        {"status": "stopped"},
        {"controls": {"delay": 0.0}},
        {"controls": {"delay": "auto"}},
        {"controls": {"delay": 5.0, "until": PAST}},
    ],
)
def test_a_long_delay_ends_when_somebody_changes_the_run(
    run: MigrationRun, clock: Clock, change: dict[str, Any]
) -> None:
    clock.during = lambda: MigrationRun.objects.filter(pk=run.pk).update(**change)
    throttled(run, clock)(controls(5.0), 0.1)
    assert clock.waits == [1.0]


def test_a_long_delay_ends_when_the_end_is_asked_for(run: MigrationRun, clock: Clock) -> None:
    clock.stop = lambda now: now > 1001
    throttled(run, clock)(controls(5.0), 0.1)
    assert len(clock.waits) == 2


@pytest.fixture
def health(run: MigrationRun, monkeypatch: pytest.MonkeyPatch) -> list[Health]:
    """What the database says at each look of a run that heeds it; the last one for ever."""
    MigrationRun.objects.filter(pk=run.pk).update(controls={"delay": "auto"})
    answers = [WELL]
    monkeypatch.setattr(throttle, "read_health", lambda _: answers.pop(0) if len(answers) > 1 else answers[0])
    return answers


def test_a_healthy_database_is_never_waited_for(run: MigrationRun, clock: Clock, health: list[Health]) -> None:
    wait = throttled(run, clock)
    for _ in range(20):
        clock.now += 0.5
        wait(controls("auto"), 0.1)
    assert clock.waits == []
    assert not RunEvent.objects.exists()


def test_an_unwell_database_is_waited_for_with_the_reason_once(
    run: MigrationRun, clock: Clock, health: list[Health]
) -> None:
    said: list[str] = []
    health[:] = [BEHIND, BEHIND, BEHIND, WELL]
    throttled(run, clock, said)(controls("auto"), 0.1)
    assert clock.waits == [1.0, 1.0, 1.0]
    assert said == [
        "waiting while the database is under load: a standby is 99.0 s behind, more than 10 s",
        "the database has recovered: resuming",
    ]
    first, last = RunEvent.objects.order_by("id")
    assert (first.kind, first.details["wait"], last.details["wait"]) == ("throttled", "hard", "none")
    assert (first.details["sign"], last.details["sign"]) == ("replication_lag", "")


def test_whoever_shows_the_progress_hears_what_is_waited_for(
    run: MigrationRun, clock: Clock, health: list[Health]
) -> None:
    health[:] = [BEHIND, WELL]
    shown: list[BatchResult] = []
    Throttle(run.pk, RunContext(stop=clock, progress=shown.append))(controls("auto"), 0.1)  # type: ignore[arg-type]
    assert [result.waits_for.partition(":")[0] for result in shown] == ["waiting while the database is under load", ""]
    assert all(result.totals.selected == 0 for result in shown)


def test_a_soft_sign_halves_the_pace(run: MigrationRun, clock: Clock, health: list[Health]) -> None:
    health[:] = [Health(replication_lag=2.0)]
    wait = throttled(run, clock)
    wait(controls("auto"), 0.7)
    wait(controls("auto"), 60.0)
    assert clock.waits == [0.7, 2.0]


def test_a_hold_ends_when_the_end_is_asked_for(run: MigrationRun, clock: Clock, health: list[Health]) -> None:
    health[:] = [BEHIND]
    clock.stop = lambda now: now > 1003
    throttled(run, clock)(controls("auto"), 0.1)
    assert len(clock.waits) == 4


@pytest.mark.parametrize("change", [{"status": "paused"}, {"status": "stopped"}, {"controls": {"delay": 0.0}}])
def test_a_hold_ends_when_somebody_changes_the_run(
    run: MigrationRun, clock: Clock, health: list[Health], change: dict[str, Any]
) -> None:
    health[:] = [BEHIND]
    clock.during = lambda: MigrationRun.objects.filter(pk=run.pk).update(**change)
    throttled(run, clock)(controls("auto"), 0.1)
    assert clock.waits == [1.0]


def test_the_database_is_looked_at_once_a_second_at_most(
    run: MigrationRun, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(throttle, "read_health", lambda _: looks.append(1) or WELL)
    wait = throttled(run, clock)
    for _ in range(100):
        clock.now += 0.1
        wait(controls("auto"), 0.1)
    assert 9 <= len(looks) <= 11


# --- The stop flag ----------------------------------------------------------------------------------------------------


def test_a_stop_flag_wakes_every_wait_once_it_was_asked() -> None:
    flag = StopFlag()
    assert flag.wait(0) is False
    assert flag.wait(0.001) is False
    flag.request(15)
    assert (flag.requested, flag.signal) == (True, 15)
    assert all(flag.wait(seconds) for seconds in (0, 600, 600))


def test_a_stop_flag_wakes_those_who_wait_already() -> None:
    import threading

    flag = StopFlag()
    woken: list[bool] = []
    waiting = [threading.Thread(target=lambda: woken.append(flag.wait(600))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    flag.request()
    for thread in waiting:
        thread.join(60)
    assert woken == [True, True, True]
