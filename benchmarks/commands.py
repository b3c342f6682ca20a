"""Running management commands from outside, with the time and the memory that they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing

from benchmarks.fixtures import PROJECT, Stage, expect, one

#: Starts a command, so that its peak memory is not mixed up with that of other children of this process.
_MEASURED = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
done = subprocess.run([sys.executable, "manage.py", *sys.argv[1:]], stdout=subprocess.DEVNULL)
seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([done.returncode, seconds, peak]))
"""


def environment() -> dict[str, str]:
    """Return the environment of a command that finds its modules compiled, as those of a site do."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def manage(*argv: str) -> str:
    """Run a management command to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *argv],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    expect(done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def measured(*argv: str) -> tuple[float, float]:
    """Run a management command and return its seconds and its peak memory, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *argv],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    returncode, seconds, peak = json.loads(done.stdout)
    expect(returncode == 0, f"{' '.join(argv)} ended with {returncode}: {done.stderr}")
    return seconds, peak


def conversion_seconds(stage: Stage, kind: str = "migration") -> float:
    """Return the seconds from the beginning of the first batch to the end of the last, of the latest run of a kind."""
    with closing(stage.connect()) as site:
        return float(
            one(
                site,
                "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM mana_migration_migrationbatch "
                "WHERE status = 'done' AND run_id = (SELECT max(id) FROM mana_migration_migrationrun WHERE kind = %s)",
                kind,
            )
        )
