"""Every statement and every commit fails once, each way it can: nothing is lost, and a repeat finishes the job.

Here a sample of the positions; all of them with ``make torture``.
"""

from collections.abc import Callable

import pytest
from django.db import connection

from tests.torture.jobs import SHARED, Job
from tests.torture.lab import Lab
from tests.torture.points import AFTERWARDS, ERRORS, LOST
from tests.torture.trials import Bench

pytestmark = pytest.mark.own_database

Benches = Callable[[str], Bench]

EVERY_ERROR = sorted({error for errors in ERRORS.values() for error in errors})
#: Those that the worker deals with by itself; what the database cannot do at all ends the command with one line.
OVERCOME = {"postgresql": ("lost", "40001", "40P01", "55P03", "57014", AFTERWARDS), "sqlite": ("locked", "interrupted")}
FINAL = {"postgresql": ("53100",), "sqlite": ("full", "io", "unopenable", AFTERWARDS)}
SAMPLES = 2


@pytest.mark.parametrize("error", EVERY_ERROR)
@pytest.mark.parametrize("job", ["migrate plainly", "rollback"])
def test_a_sample_of_the_statements_may_fail_once(bench: Benches, job: str, error: str) -> None:
    if error not in ERRORS[connection.vendor]:
        return  # the other database's
    one = bench(job)
    last = len(one.undisturbed.names)
    start = 1 + ERRORS[connection.vendor].index(error) * 5
    sabotaged = [one.fail_at(position, error) for position in range(start, last + 1, last // SAMPLES)]
    assert sum(sabotaged) >= SAMPLES - 1


@pytest.mark.parametrize("moment", ["1", "commit"])
def test_the_command_overcomes_a_failed_batch_by_itself_unless_the_database_cannot_do_the_work(
    bench: Benches, moment: str
) -> None:
    one = bench("migrate plainly")
    name = "engine.conversion.convert 1" if moment == "1" else "services.migration.MigrationWork.handle commit"
    position = one.undisturbed.names.index(name) + 1
    codes = {}
    for error in ERRORS[connection.vendor]:
        with one.scene.copy() as copy:
            ended = copy.run(list(one.job.argv), fail={"position": position, "error": error})
            codes[error] = ended.result["code"]
            assert ended.result["sabotaged"]
            seen = copy.inspect()
            assert seen["violations"] == []
            assert bool(seen["open"]) == (codes[error] == 1)
    assert codes == dict.fromkeys(OVERCOME[connection.vendor], 0) | dict.fromkeys(FINAL[connection.vendor], 1)


@pytest.mark.postgres
@pytest.mark.parametrize("job", SHARED, ids=lambda job: job.name)
def test_statements_may_fail_in_one_of_two_processes(lab: Lab, job: Job) -> None:
    shared = Bench(lab, job)
    last = len(shared.undisturbed.names)
    came = [shared.fail_at(last // 2 + place, error) for place, error in enumerate((LOST, "55P03", AFTERWARDS))]
    assert any(came)


def test_an_error_after_the_commit_went_through_is_not_taken_for_a_failure(bench: Benches) -> None:
    one = bench("migrate plainly")
    names = ["services.migration.MigrationWork.handle commit", "engine.pipeline._several 1"]
    commits = [position for position, passed in enumerate(one.undisturbed.names, 1) if passed in names]
    assert len(commits) >= 2
    assert all(one.fail_at(position, AFTERWARDS) for position in commits)
