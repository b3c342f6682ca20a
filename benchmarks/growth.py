"""Whole commands: what they cost beside the conversion, their memory, and their time per user as users grow."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.commands import conversion_seconds, manage, measured
from benchmarks.fixtures import SITE, Stage, expect
from benchmarks.result import Row, Sizes
from benchmarks.writing import books_balance
from mana_migration.domain.words import counted
from tests.support.postgres import Postgres

#: Times the conversion alone that the whole command may take; MiB of memory that any command may take.
MOST_TIMES, MOST_MEMORY = 1.5, 150

SMALLEST: Final = 10_000


def command(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare the whole command (start, checks before, run, checks after) with the conversion alone, inside one run."""
    for size in ("1000", "auto"):
        stage.empty()
        stage.fill(sizes.users)
        with books_balance():
            whole, peak = measured("migrate_users", "--batch-size", size, "--no-input")
        alone = conversion_seconds(stage)
        yield Row(
            what=f"migrate_users as a whole, in times of its conversion alone, batch size {size}",
            users=sizes.users,
            ratio=whole / alone,
            most=MOST_TIMES,
            figures={"whole, s": round(whole, 1), "conversion, s": round(alone, 1), "peak, MiB": round(peak)},
        )


def growth(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Measure each command's peak memory and time per user, at 10,000 users and ten times as many each step."""
    size, first = min(SMALLEST, sizes.largest), 0.0
    while size <= sizes.largest:
        stage.empty()
        stage.fill(size)
        with tempfile.TemporaryDirectory(prefix="growth-") as folder, books_balance():
            found = {
                name: _told(size, name, measured(*argv))
                for name, argv in {
                    "migrate": ("migrate_users", "--no-input"),
                    "validate": ("validate_migration",),
                    "report": ("monitor_migration", "--report"),
                    "export": ("monitor_migration", "--export", "csv", "--output", str(Path(folder) / "users.csv")),
                    "roll back": ("rollback_migration", "--all", "--no-input"),
                }.items()
            }
            alone = conversion_seconds(stage, kind="migration") / size
        first = first or alone
        yield Row(
            what="time per user of the conversion, in times of that of the smallest size",
            users=size,
            ratio=alone / first,
            figures={
                "conversion alone, us/user": round(alone * 1e6, 1),
                **{f"{name}, us/user": round(seconds / size * 1e6, 1) for name, (seconds, _) in found.items()},
            },
        )
        yield Row(
            what="peak memory, MiB, of the hungriest command",
            users=size,
            ratio=max(peak for _, peak in found.values()),
            most=MOST_MEMORY,
            figures={f"{name}, MiB": round(peak) for name, (_, peak) in found.items()},
        )
        size *= 10


def _told(users: int, name: str, found: tuple[float, float]) -> tuple[float, float]:
    """Say at once what was measured: the largest size takes an hour, and may be interrupted."""
    seconds, peak = found
    sys.stderr.write(f"{users:,} users, {name}: {seconds:,.1f} s, {peak:,.0f} MiB\n")
    sys.stderr.flush()
    return found


def databases(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare one command on several databases, each on a server of its own, with the command on one of them."""
    alone = 0.0
    for count in (1, 2, 4):
        stage.empty()
        stage.fill(sizes.users)
        aliases = [f"shard{number}" for number in range(count)]
        with ExitStack() as stack:
            servers = stack.enter_context(stage.copied_servers(count))
            for alias, server in zip(aliases, servers, strict=True):
                name = f"DATABASE_URL_{alias.upper()}"
                os.environ[name] = server.url(SITE)
                stack.callback(os.environ.pop, name)
            chosen = [word for alias in aliases for word in ("--database", alias)]
            begun, before = time.perf_counter(), _processor_seconds(servers)
            done = json.loads(manage("migrate_users", *chosen, "--format", "json", "--no-input"))
            seconds, used = time.perf_counter() - begun, _processor_seconds(servers) - before
        found = [done] if count == 1 else list(done["databases"].values())
        expect(all(each["users"]["migrated"] == sizes.users for each in found), "not all users were migrated")
        speed = count * sizes.users / seconds
        alone = alone or speed
        yield Row(
            what=f"users a second on {counted(count, 'database')} side by side, in times of one",
            users=count * sizes.users,
            ratio=speed / alone,
            figures={
                "users/s": round(speed),
                "s": round(seconds, 1),
                "processor time, us/user": round(used / count / sizes.users * 1e6, 1),
                "load average": round(os.getloadavg()[0], 1),
            },
        )


def _processor_seconds(servers: Sequence[Postgres]) -> float:
    """Return the processor time of these servers and of this process's commands, whatever else the machine does."""
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    # a server's own time, and that of its sessions that have ended
    stats = [Path(f"/proc/{each.server.pid}/stat").read_text() for each in servers if each.server is not None]
    ticks = sum(int(ticks) for stat in stats for ticks in stat.rpartition(")")[2].split()[11:15])
    return commands.ru_utime + commands.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def waits(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare the wait of the site's own wallet operations during a migration with that without one."""
    from benchmarks import wallet_latency

    for size in ("50", "1000", "auto"):
        stage.empty()
        options = argparse.Namespace(users=sizes.users, clients=4, rate=10.0, seconds=sizes.seconds, batch_size=size)
        found = wallet_latency.compare(options)
        quiet, busy = found["quiet"]["all"], found["migrating"]["all"]
        yield Row(
            what=f"99th percentile of the site's wallet operations during a migration, batch size {size}",
            users=sizes.users,
            ratio=busy["p99_ms"] / quiet["p99_ms"],
            most=3.0 if size == "50" else None,
            figures={
                **{f"without, {name}": quiet[name] for name in ("operations", "p50_ms", "p99_ms", "max_ms")},
                **{f"during, {name}": busy[name] for name in ("operations", "p50_ms", "p99_ms", "max_ms")},
            },
        )
