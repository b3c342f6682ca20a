"""SIGKILL at any moment: the books balance at once, and the same command again finishes the job.

Here one moment of each stage and a few random ones; all of them, and a thousand at random, with ``make torture``.
"""

import random
from collections.abc import Callable

import pytest

from tests.support.postgres import Postgres
from tests.torture.jobs import BY_NAME, JOBS, SHARED, STAGES, Job
from tests.torture.lab import Lab
from tests.torture.points import AFTER, BEFORE
from tests.torture.servers import stop_server_during
from tests.torture.trials import Bench, TrialError, stage_points

pytestmark = pytest.mark.own_database

Benches = Callable[[str], Bench]


@pytest.fixture(scope="module")
def stages(bench: Benches) -> dict[str, list[tuple[Bench, str]]]:
    return stage_points([bench(job.name) for job in JOBS])


def test_every_stage_of_the_work_has_moments_at_which_it_can_be_killed(
    stages: dict[str, list[tuple[Bench, str]]],
) -> None:
    assert len(stages) >= 25
    assert [stage for stage, found in stages.items() if not found] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_each_stage_leaves_the_books_balanced_and_the_job_resumable(
    stages: dict[str, list[tuple[Bench, str]]], stage: str
) -> None:
    found = stages[stage]
    bench, name = found[len(found) // 2]
    # in make torture, both of each
    bench.kill_at(name, (BEFORE, AFTER)[list(STAGES).index(stage) % 2])


@pytest.mark.parametrize("job", ["migrate", "rollback"])
def test_kills_at_random_moments_leave_the_books_balanced_and_the_job_resumable(bench: Benches, job: str) -> None:
    dice = random.Random(20261123)
    killed = sum(bench(job).kill_anywhere(dice) for _ in range(5))
    assert killed


def test_the_same_command_goes_on_with_the_rollback_of_a_run_whose_breaker_tripped_and_says_so(bench: Benches) -> None:
    # the exit code of the command given again is 4, as that of the undisturbed one
    bench("breaker").kill_at("services.operation.trip commit", AFTER)


def test_a_trial_notices_a_lost_balance(bench: Benches, lab: Lab) -> None:
    migrate = bench("migrate")
    expected = migrate.undisturbed.outcome["wallets"]
    expected[0][4] += 1
    try:
        with pytest.raises(TrialError, match="the outcome differs"):
            migrate.kill_at("services.migration.Migration.open commit", AFTER)
    finally:
        expected[0][4] -= 1


@pytest.mark.postgres
@pytest.mark.parametrize("job", SHARED, ids=lambda job: job.name)
def test_kills_of_either_of_two_processes_leave_the_books_balanced_and_the_job_resumable(lab: Lab, job: Job) -> None:
    shared, dice = Bench(lab, job), random.Random(20261128)
    assert shared.undisturbed.workers == 2
    assert sum(shared.kill_anywhere(dice) for _ in range(2))
    # the helper may begin late, or have ended already
    assert any(shared.kill_helper_after(dice.uniform(0.4, 0.9) * shared.undisturbed.seconds) for _ in range(8))


@pytest.mark.postgres
def test_immediate_stops_of_the_server_leave_the_books_balanced_and_the_job_resumable(own_postgres: Postgres) -> None:
    dice = random.Random(20261123)
    with Lab(own_postgres.url(), crashes=True) as lab:
        for name in ("migrate", "rollback", "auto-fix"):
            stop_server_during(own_postgres, Bench(lab, BY_NAME[name]), dice)
