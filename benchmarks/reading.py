"""What only reads, and the import: against the bare statement that gives or takes the same rows."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg2

from benchmarks.commands import manage, measured
from benchmarks.fixtures import SITE, Stage, expect
from benchmarks.interleaved import Ours, in_turns, timed
from benchmarks.result import Row, Sizes

LEAST_VALIDATION, LEAST_EXPORT, LEAST_IMPORT = 0.9, 0.5, 0.5

#: Turns of a comparison for each of those asked for, where a turn is a few queries.
OFTEN: Final = 3

#: Users per batch of the run that snapshots are taken of, and batches of it that are not folded yet.
SNAPSHOT_BATCH, SNAPSHOT_UNFOLDED = 50, 200


def dry_run(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare the forecast of a dry run with the SELECT that finds the same sums and the users with a problem."""
    from django.db import connection

    from mana_migration.domain.options import MigrationOptions
    from mana_migration.engine.conversion import NO_RUN, ConversionTerms, forecast
    from mana_migration.services import dry_run as service
    from wishes.conf import rates

    stage.empty()
    stage.fill(sizes.users)
    terms = ConversionTerms(run=NO_RUN, rates=rates())
    sound = "FILTER (WHERE green >= 0 AND blue >= 0 AND red >= 0)"
    sums = ", ".join(f"sum({sql}) {sound}" for sql in ("green", "blue", "red", "10 * green + 100 * blue + 1000 * red"))
    bare = f"SELECT count(*), count(*) {sound}, {sums} FROM wishes_wallet WHERE migrated_at IS NULL"
    least = "SELECT count(*), sum(10 * green + 100 * blue + 1000 * red) FROM wishes_wallet WHERE migrated_at IS NULL"
    with closing(stage.connect()) as site, site.cursor() as cursor:
        seconds = in_turns(
            OFTEN * sizes.rounds,
            {
                "bare SELECT": lambda: cursor.execute(bare),
                "sum and count alone": lambda: cursor.execute(least),
                "forecast": lambda: forecast(connection, terms),
                "checks and largest conversions as well": lambda: service.forecast(MigrationOptions()),
            },
        )
    yield Row(
        what="forecast of a dry run against a bare SELECT of the same sums",
        users=sizes.users,
        ratio=seconds["bare SELECT"] / seconds["forecast"],
        figures={f"{name}, ms": round(value * 1000) for name, value in seconds.items()},
    )


def validation(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare validation before and after a migration with its own queries, sent bare in one snapshot."""
    from mana_migration.services import validation as service

    stage.empty()
    stage.fill(sizes.users)
    for phase in ("pre", "post"):
        if phase == "post":
            _migrate_all(stage, sizes.users)
        queries = _queries_of(lambda phase=phase: service.validate(phase=phase))  # type: ignore[misc]
        with closing(psycopg2.connect(stage.server.url(SITE))) as bare:
            seconds = in_turns(
                OFTEN * sizes.rounds,
                {
                    "bare queries": _sender(bare, queries),
                    "ours": lambda phase=phase: service.validate(phase=phase),  # type: ignore[misc]
                },
            )
        yield Row(
            what=f"validation {phase}-migration against its bare queries",
            users=sizes.users,
            ratio=seconds["bare queries"] / seconds["ours"],
            least=LEAST_VALIDATION,
            figures={f"{name}, ms": round(value * 1000) for name, value in seconds.items()},
        )


def _migrate_all(stage: Stage, users: int) -> int:
    ours = Ours("migration", "auto")
    expect(ours.advance(users + 1) == users, "not every user was migrated")
    ours.close()
    with closing(stage.connect()) as site, site.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return int(ours.run.pk)


def _queries_of(work: Callable[[], Any]) -> list[tuple[str, Any]]:
    """Return the statements that some work sends."""
    from django.db import connection

    queries: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        queries.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        work()
    return queries


def _sender(connection: Any, queries: list[tuple[str, Any]]) -> Callable[[], None]:
    def send() -> None:
        with connection.cursor() as cursor:
            for sql, params in queries:
                if sql.lstrip().upper().startswith("SET TRANSACTION"):
                    connection.rollback()  # it must be a transaction's first statement
                if sql.lstrip().upper().startswith(("SELECT", "WITH", "SET")):
                    cursor.execute(sql, params)
                    if cursor.description is not None:
                        cursor.fetchall()
        connection.rollback()

    return send


def snapshot(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Measure one look at a run by the monitor, for runs of a thousand users up to the largest size.

    The run's batches are written as after so many users in batches of 50: all done, the last 200
    not folded. Records and wallets are not, for a look reads neither.
    """
    from mana_migration.engine import totals
    from mana_migration.models import MigrationRun
    from mana_migration.selectors.runs import run_snapshot

    stage.empty()
    size, first = min(1_000, sizes.largest), 0.0
    while size <= max(sizes.largest, 1_000):
        stage.empty()
        ours = Ours("migration", SNAPSHOT_BATCH)
        batches, unfolded = max(1, size // SNAPSHOT_BATCH), SNAPSHOT_UNFOLDED
        with closing(stage.connect()) as site, site.cursor() as cursor:
            cursor.execute(
                "INSERT INTO mana_migration_migrationbatch (run_id, first_user, last_user, planned, status, folded, "
                "attempts, selected, migrated, rolled_back, skipped, failed, green, blue, red, mana, shortfall, "
                "errors, skips, started_at, finished_at, worker) SELECT %(run)s, (g - 1) * 50 + 1, g * 50, 50, 'done', "
                "g <= %(folded)s, 0, 50, 50, 0, 0, 0, 1, 1, 1, 1110, 0, '{}', '{}', now(), now(), 'somebody' "
                "FROM generate_series(1, %(batches)s) g",
                {"run": ours.run.pk, "batches": batches, "folded": batches - unfolded},
            )
            cursor.execute("VACUUM ANALYZE mana_migration_migrationbatch")
        folded = totals.empty()
        done = max(0, batches - unfolded)
        folded["totals"]["selected"] = folded["totals"]["migrated"] = done * SNAPSHOT_BATCH
        folded["batches"] = done
        MigrationRun.objects.filter(pk=ours.run.pk).update(folded=folded, expected=size)
        seconds = in_turns(30, {"look": run_snapshot})["look"]
        ours.close()
        first = first or seconds
        yield Row(
            what="look at an open run, in times of that of the smallest",
            users=size,
            ratio=seconds / first,
            figures={"ms": round(seconds * 1000, 1), "batches": batches},
        )
        size *= 100


def export(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare the whole export command, its start, sums and checks included, with COPY TO of the same bytes.

    Also without the checks, which a COPY does not make either; and with a COPY and the bare queries of everything.
    """
    stage.empty()
    stage.fill(sizes.users)
    run = str(_migrate_all(stage, sizes.users))
    queries = _queries_of(lambda: _report(int(run)))
    columns = (
        "id, run_id, status, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS+00:00'), "
        "green, blue, red, mana_before, mana_credited, NULLIF(error_class, ''), NULLIF(error_message, ''), "
        "reversal_run_id, reversed_at, mana_debited, shortfall"
    )
    with (
        tempfile.TemporaryDirectory(prefix="export-") as folder,
        closing(stage.connect()) as site,
        closing(psycopg2.connect(stage.server.url(SITE))) as bare,
        site.cursor() as cursor,
    ):
        count = iter(range(1_000))

        def ours(*options: str) -> str:
            path = f"{folder}/{next(count)}.csv"
            manage("monitor_migration", "--run", run, "--export", "csv", "--output", path, *options)
            return path

        def copy() -> str:
            path = f"{folder}/{next(count)}.csv"
            with Path(path).open("wb") as file:
                cursor.copy_expert(
                    f"COPY (SELECT {columns} FROM mana_migration_usermigration WHERE run_id = {run}) "
                    "TO STDOUT WITH (FORMAT csv)",
                    file,
                )
                file.flush()
                os.fsync(file.fileno())
            return path

        # the first start compiles the program's modules, unless that has happened
        found = Path(ours("--no-validation")).read_text().splitlines()[1:]
        expect(sorted(found) == sorted(Path(copy()).read_text().splitlines()), "the two files have other lines")
        expect(len(found) == sizes.users, "the export lacks users")
        seconds = in_turns(
            sizes.rounds,
            {
                "ours": ours,
                "ours without checks": lambda: ours("--no-validation"),
                "COPY": copy,
                "bare queries of sums and checks": _sender(bare, queries),
                "start alone": lambda: manage("monitor_migration", "--help"),
                "--report": lambda: manage("monitor_migration", "--run", run, "--report"),
            },
        )
        path = f"{folder}/measured.csv"
        _, peak = measured("monitor_migration", "--run", run, "--export", "csv", "--output", path)
    both = seconds["COPY"] + seconds["bare queries of sums and checks"]
    figures = {f"{name}, s": round(value, 2) for name, value in seconds.items()}
    figures["ratio to COPY and the bare queries"] = round(both / seconds["ours"], 2)
    for what, name in (("", "ours"), (" --no-validation", "ours without checks")):
        yield Row(
            what=f"monitor_migration --export csv{what} against COPY TO",
            users=sizes.users,
            ratio=seconds["COPY"] / seconds[name],
            least=LEAST_EXPORT,
            figures={
                **figures,
                "ratio without the start": round(seconds["COPY"] / (seconds[name] - seconds["start alone"]), 2),
                "peak, MiB": round(peak),
            },
        )
        figures = {"COPY, s": figures["COPY, s"]}


def _report(run: int) -> None:
    from mana_migration.services.reporting import run_report

    with run_report("default", run):
        pass


def imports(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare the whole import command with COPY FROM alone, and with COPY and the INSERTs of the same rows."""
    seconds: dict[str, list[float]] = {"ours": [], "COPY alone": [], "COPY and INSERTs": []}
    peak = 0.0
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        path = Path(folder) / "export.csv"
        with path.open("w") as file:
            file.write("id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed\n")
            file.writelines(f"u{key},n{key},{key % 97},{key % 5},{key % 3},0,false\n" for key in range(sizes.users))
        for _ in range(sizes.rounds):
            stage.empty()
            took, memory = measured("import_balances", str(path))
            seconds["ours"].append(took)
            peak = max(peak, memory)
            for name, insert in (("COPY alone", False), ("COPY and INSERTs", True)):
                stage.empty()
                with closing(stage.connect()) as site, site.cursor() as cursor:
                    seconds[name].append(timed(_copier(cursor, path, insert=insert)))
    median = {name: statistics.median(found) for name, found in seconds.items()}
    yield Row(
        what="import_balances against COPY FROM and the INSERTs of users and wallets",
        users=sizes.users,
        ratio=median["COPY and INSERTs"] / median["ours"],
        least=LEAST_IMPORT,
        figures={
            **{f"{name}, s": round(value, 2) for name, value in median.items()},
            "ratio to COPY alone": round(median["COPY alone"] / median["ours"], 2),
            "peak, MiB": round(peak),
        },
    )


def _copier(cursor: Any, path: Path, *, insert: bool) -> Callable[[], None]:
    def copy() -> None:
        cursor.execute(
            "BEGIN; CREATE TABLE incoming (id text, name text, green bigint, blue bigint, red bigint, mana bigint, "
            "completed boolean)"
        )
        with path.open() as file:
            cursor.copy_expert("COPY incoming FROM STDIN WITH (FORMAT csv, HEADER)", file)
        if insert:
            cursor.execute(
                "INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email, is_staff, "
                "is_active, date_joined) SELECT '!' || gen_random_uuid(), false, id, '', '', '', false, true, now() "
                "FROM incoming"
            )
            cursor.execute(
                "INSERT INTO wishes_wallet (user_id, green, blue, red, mana, updated_at) SELECT u.id, i.green, "
                "i.blue, i.red, i.mana, now() FROM incoming i JOIN auth_user u ON u.username = i.id"
            )
        cursor.execute("COMMIT")
        cursor.execute("DROP TABLE incoming")

    return copy
