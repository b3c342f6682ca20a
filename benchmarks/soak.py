"""Many runs one after another, as a site has them over months: what grew from the first to the last (``make soak``).

Each cycle migrates all users, lets some of them earn, reads a report and rolls everything back, while browsers watch
and a worker process waits.  The table has each command of the first cycle beside that of the last, in seconds; memory,
open files and database sessions are those of the processes that live through all cycles.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import measured
from benchmarks.fixtures import Stage, expect, one
from benchmarks.pages import get, served, session_cookie

COMMANDS: Final = {
    "migrate_users --limit 50": ("migrate_users", "--limit", "50", "--no-input"),
    "migrate_users": ("migrate_users", "--batch-size", "1000", "--no-input"),
    "monitor_migration": ("monitor_migration",),
    "monitor_migration --report": ("monitor_migration", "--report"),
    "rollback_migration --all": ("rollback_migration", "--all", "--batch-size", "1000", "--no-input"),
}


def main() -> int:
    """Run cycles until the time is up, print the table, and return 1 where a command failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default: %(default)s)")
    parser.add_argument("--users", type=int, default=100_000, help="users (default: %(default)s)")
    options = parser.parse_args()
    with Stage(durable=True) as stage:
        print(stage.conditions, flush=True)
        stage.fill(options.users)
        cookie = session_cookie()
        with served() as site:
            cycles = _cycles(stage, site.port, cookie, site.pids, options.minutes * 60)
        _print(cycles, _entries(stage))
    return 0


def _cycles(stage: Stage, port: int, cookie: str, pids: list[int], seconds: float) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(port, cookie, over))
    watcher.start()
    begun = time.monotonic()
    try:
        while not found or time.monotonic() - begun < seconds:
            figures = {name: measured(*argv)[0] for name, argv in COMMANDS.items()}
            _earn(stage, len(found))
            found.append(figures | _resources(stage, pids))
            sys.stderr.write(f"cycle {len(found)}: {sum(figures.values()):.1f} s\n")
    finally:
        over.set()
        watcher.join()
    return found


def _watch(port: int, cookie: str, over: threading.Event) -> None:
    while not over.wait(1.0):
        status = get(port, "/migration/", cookie)
        expect(status == 200, f"the overview answered {status}")


def _earn(stage: Stage, cycle: int) -> None:
    from django.contrib.auth import get_user_model

    from wishes.services import earn_wishes

    for key in get_user_model().objects.filter(wish_wallet__isnull=False).values_list("pk", flat=True)[:100]:
        earn_wishes(key, "green", 1, reference=f"soak:{cycle}:{key}")


def _resources(stage: Stage, pids: list[int]) -> dict[str, float]:
    ended = [pid for pid in pids if _memory(pid) is None]
    expect(not ended, "the site or its worker process ended")
    processes = [*pids, *(child for pid in pids for child in _children(pid))]
    with closing(stage.connect()) as site:
        sessions = one(site, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    return {
        "memory, MiB": sum(_memory(pid) or 0.0 for pid in processes),
        "open files": sum(_open_files(pid) for pid in processes),
        "database sessions": sessions,
    }


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _memory(pid: int) -> float | None:
    """Return the MiB that a process has in memory, None where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return None


def _open_files(pid: int) -> int:
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0


def _entries(stage: Stage) -> Any:
    with closing(stage.connect()) as site:
        return one(site, "SELECT count(*) FROM wishes_manaentry")


def _print(cycles: list[dict[str, float]], entries: int) -> None:
    from mana_migration.domain.words import counted

    first, last = cycles[0], cycles[-1]
    print(f"{counted(len(cycles), 'cycle')}, {entries:,} ledger entries at the end")
    print(f"{'':<28}{'first':>10}{'last':>10}{'ratio':>8}")
    for name in first:
        ratio = last[name] / first[name] if first[name] else 1.0
        print(f"{name:<28}{first[name]:>10.2f}{last[name]:>10.2f}{ratio:>8.2f}")


if __name__ == "__main__":
    sys.exit(main())
