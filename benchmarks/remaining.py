"""Whether the remaining time that is shown holds the real one: looks at a run while it works, by another session."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.fixtures import PROJECT, BenchmarkError, Stage
from benchmarks.result import Row, Sizes

#: Share of the looks whose range must hold the time that the run really took from then on.
LEAST_HELD: Final = 0.95

#: Seconds between two looks, for each million users.
SECONDS_PER_MILLION: Final = 10.0


def remaining(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare each remaining time that a run shows, from 1 % on to its end, with what it turned out to be."""
    from mana_migration.selectors.runs import run_snapshot

    stage.empty()
    stage.fill(sizes.users)
    command = [sys.executable, "manage.py", "migrate_users", "--batch-size", "200", "--no-input"]
    looks = []
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            seen = run_snapshot()
            if seen is not None and seen.progress.remaining is not None:
                looks.append((seen.taken_at, seen.status, seen.progress.remaining))
            time.sleep(SECONDS_PER_MILLION * sizes.users / 1_000_000)
    last = run_snapshot()
    if process.returncode or last is None or last.finished_at is None:
        raise BenchmarkError("the run did not end")
    errors = {"too short": 0, "too long": 0, "while checking": 0}
    for taken_at, status, shown in looks:
        real = (last.finished_at - taken_at).total_seconds()
        errors["too short"] += real > shown.high
        errors["too long"] += real < shown.low
        errors["while checking"] += status == "checking"
    held = len(looks) - errors["too short"] - errors["too long"]
    yield Row(
        what="share of looks whose remaining time held the real one",
        users=sizes.users,
        ratio=held / len(looks) if looks else None,
        least=LEAST_HELD,
        figures={"looks": len(looks), **errors, "run, s": round(last.elapsed, 1)},
    )
