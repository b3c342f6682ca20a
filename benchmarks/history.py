"""As fast after a year as on the first night: a run, its checks, its pages and its report with a long history.

Each figure is taken twice by the same code: on a site with two runs behind it, and on one with many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from benchmarks.commands import conversion_seconds, manage, measured
from benchmarks.fixtures import Stage
from benchmarks.result import Row, Sizes
from benchmarks.seeding import seed

#: Runs of the short history; what a long one may cost, in times of it.
FEW: Final = 2
MOST: Final = {
    "a whole migrate_users --limit 50": 1.3,
    "check before a run": 1.3,
    "what the confirmation page of a new run reads": 1.3,
    "conversion of all users": 1.15,
    "check at the end of their run": 1.3,
    "report of their run": 1.3,
}


def history(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare the costs with a long history with those with a short one."""
    found = {runs: _costs(stage, sizes.users, runs) for runs in (FEW, sizes.runs)}
    few, many = found[FEW], found[sizes.runs]
    for what, most in MOST.items():
        yield Row(
            what=what,
            users=sizes.users,
            ratio=many[what] / few[what],
            most=most,
            figures={
                f"after {FEW} runs, s": round(few[what], 2),
                f"after {sizes.runs} runs, s": round(many[what], 2),
                "entries": int(many["entries"]),
            },
        )


def _costs(stage: Stage, users: int, runs: int) -> dict[str, float]:
    from mana_migration.domain.options import MigrationOptions
    from mana_migration.models import MigrationRun
    from mana_migration.services import dry_run, reporting, validation
    from wishes.models import ManaEntry

    stage.empty()
    seed(stage, users=users, runs=runs)
    entries = ManaEntry.objects.count()
    before = _seconds(validation.precheck)
    page = _seconds(lambda: dry_run.forecast(MigrationOptions()))
    whole, _ = measured("migrate_users", "--limit", "50", "--no-input")
    manage("migrate_users", "--batch-size", "1000", "--no-input")
    conversion = conversion_seconds(stage)
    run = MigrationRun.objects.latest("pk").pk
    end = _seconds(lambda: validation.check_run("default", run))

    def report() -> None:
        with reporting.run_report("default", run):
            pass

    figures = [whole, before, page, conversion, end, _seconds(report)]
    return {**dict(zip(MOST, figures, strict=True)), "entries": float(entries)}


def _seconds(work: Callable[[], Any], times: int = 3) -> float:
    """Return the shortest of a few times."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)
