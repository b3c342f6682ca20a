"""A site with a long history, written by set-based SQL: what a year of runs leaves in the tables.

Each pair of runs migrates three users of five and rolls them back; before each pair one user of twenty earns mana.
Records, marks, digests, links, entries and sums are those that the runs themselves would have written, so that every
check holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from psycopg2.extras import Json

from benchmarks.fixtures import Stage, expect

#: Users in a batch of a run of the past.
BATCH: Final = 1_000

#: Before each pair of runs one user in ``EARNERS`` earns so much mana.
EARNED: Final = 10
EARNERS: Final = 20

_RATES: Final = {"green": 10, "blue": 100, "red": 1000}

#: Users of pair ``p``, and what user ``w`` has earned by then.
_CHOSEN: Final = "(w.user_id + {pair}) %% 5 < 3"
_EARNS: Final = f"w.user_id %% {EARNERS} = 0"
_MANA: Final = f"(CASE WHEN {_EARNS} THEN {EARNED} * {{pair}} ELSE 0 END)"
_WORTH: Final = "(w.green * 10 + w.blue * 100 + w.red * 1000)"


def seed(stage: Stage, *, users: int, runs: int) -> None:
    """Fill the empty site with users, and with the traces of so many runs (an even number) that left all unmigrated."""
    from django.db import connection

    from mana_migration.engine import totals
    from mana_migration.models import MigrationRun
    from mana_migration.services import validation

    expect(runs % 2 == 0, "runs of the past are pairs of a migration and its rollback")
    stage.fill(users)
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        with _without_indexes(cursor, ("wishes_manaentry", "mana_migration_usermigration")):
            for pair in range(1, runs // 2 + 1):
                _pair(cursor, pair)
        for run in MigrationRun.objects.order_by("pk"):
            totals.fold(run, "default")
            run.save(update_fields=["folded"])
        cursor.execute(f"UPDATE wishes_wallet w SET mana = {_MANA.format(pair=runs // 2)}".replace("%%", "%"))
        cursor.execute("RESET synchronous_commit")
        cursor.execute("VACUUM ANALYZE")
    # what the pre-check of the latest migration would have kept: a pair of runs leaves sums as they were
    latest = MigrationRun.objects.filter(kind="migration").order_by("pk").last()
    if latest is not None:
        latest.baseline = validation.precheck().baseline
        latest.save(update_fields=["baseline"])
    connection.close()


@contextmanager
def _without_indexes(cursor: Any, tables: tuple[str, ...]) -> Iterator[None]:
    """Build the indexes of some tables anew after the block: in one go, which takes a fraction of the time."""
    cursor.execute(
        "SELECT c.conname, c.conrelid::regclass::text, pg_get_constraintdef(c.oid) FROM pg_constraint c "
        "WHERE c.conrelid::regclass::text = ANY(%s) AND c.contype = 'u'",
        [list(tables)],
    )
    constraints = cursor.fetchall()
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename = ANY(%s) "
        "AND indexname NOT IN (SELECT conname FROM pg_constraint) AND indexdef NOT LIKE '%% WHERE %%'",
        [list(tables)],
    )
    indexes = cursor.fetchall()
    for name, table, _ in constraints:
        cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    for name, _ in indexes:
        cursor.execute(f'DROP INDEX "{name}"')
    yield
    for name, table, definition in constraints:
        cursor.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
    for _, definition in indexes:
        cursor.execute(definition)


def _pair(cursor: Any, pair: int) -> None:
    """Write what one migration, its rollback, and what users earned before left behind."""
    mana, chosen = _MANA.format(pair=pair), _CHOSEN.format(pair=pair)
    migration, rollback = _run(cursor, "migration", pair), _run(cursor, "rollback", pair)
    cursor.execute(
        "INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at) "
        f"SELECT w.user_id, {EARNED}, {mana}, 'earn', 'quest:{pair}:' || w.user_id, now() FROM wishes_wallet w "
        f"WHERE {_EARNS} ORDER BY w.user_id",
        [],
    )
    lines = {
        migration: f"concat_ws('|', 'record|{migration}|converted', w.green, w.blue, w.red, {mana}, {_WORTH}, '', "
        "w.user_id)",
        rollback: f"concat_ws('|', 'reversal|{rollback}', {migration}, w.green, w.blue, w.red, {_WORTH}, 0, w.user_id)",
    }
    firsts = {run: _batches(cursor, run, chosen, lines[run], back=run == rollback) for run in (migration, rollback)}
    batch = {run: f"{first} + (w.user_id - 1) / {BATCH}" for run, first in firsts.items()}
    cursor.execute(
        "INSERT INTO mana_migration_usermigration (user_id, run_id, batch_id, status, green, blue, red, mana_before, "
        "mana_credited, error_class, error_message, mark, created_at, reversal_run_id, reversed_at, reversal_batch_id, "
        f"reversal_mark, mana_debited, shortfall) SELECT w.user_id, {migration}, {batch[migration]}, 'rolled_back', "
        f"w.green, w.blue, w.red, {mana}, {_WORTH}, '', '', {_mark(lines[migration])}, now(), {rollback}, now(), "
        f"{batch[rollback]}, {_mark(lines[rollback])}, {_WORTH}, 0 FROM wishes_wallet w WHERE {chosen} "
        "ORDER BY w.user_id",
        [],
    )
    for kind, sign, balance in (("conversion", "", f"{mana} + {_WORTH}"), ("reversal", "-", mana)):
        cursor.execute(
            "INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at) "
            f"SELECT w.user_id, {sign}{_WORTH}, {balance}, '{kind}', '{kind}:{migration}:' || w.user_id, now() "
            f"FROM wishes_wallet w WHERE {chosen} AND {_WORTH} <> 0 ORDER BY w.user_id",
            [],
        )


def _run(cursor: Any, kind: str, pair: int) -> int:
    from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
    from mana_migration.engine import totals

    migrates = kind == "migration"
    options: Any = MigrationOptions() if migrates else RollbackOptions(run=2 * pair - 1)
    cursor.execute(
        "INSERT INTO mana_migration_migrationrun (kind, status, options, rates, controls, actor, host, reason, "
        "stop_reason, target_run_id, expected, baseline, cursor, passes, planned_users, folded, created_at, "
        "finished_at) VALUES (%s, %s, %s, %s, %s, 'olga', 'db-1', '', '', %s, 0, '{}', '', 1, 0, %s, now(), now()) "
        "RETURNING id",
        [
            kind,
            "rolled_back" if migrates else "completed",
            Json(options.as_dict()),
            Json(_RATES),
            Json(Controls().as_dict()),
            None if migrates else 2 * pair - 1,
            Json(totals.empty()),
        ],
    )
    run = int(cursor.fetchone()[0])
    expect(run == 2 * pair - migrates, "the runs of the past are numbered from 1")
    for event in ("started", "checked", "finished"):
        cursor.execute(
            "INSERT INTO mana_migration_runevent (run_id, kind, actor, message, details, created_at) "
            "VALUES (%s, %s, 'olga', '', '{}', now())",
            [run, event],
        )
    return run


def _batches(cursor: Any, run: int, chosen: str, line: str, *, back: bool) -> int:
    """Write the batches of a run, and return the id of the one with the first users."""
    cursor.execute(
        "INSERT INTO mana_migration_migrationbatch (run_id, first_user, last_user, planned, status, folded, attempts, "
        "selected, migrated, rolled_back, skipped, failed, green, blue, red, mana, shortfall, errors, skips, "
        "started_at, finished_at, worker, digest) SELECT %(run)s, min(w.user_id)::text, max(w.user_id)::text, "
        f"count(*), 'done', false, 0, count(*), {'0, count(*)' if back else 'count(*), 0'}, 0, 0, sum(w.green), "
        f"sum(w.blue), sum(w.red), sum({_WORTH}), 0, '{{}}', '{{}}', "
        f"clock_timestamp() + (w.user_id - 1) / {BATCH} * interval '10 ms', "
        f"clock_timestamp() + (w.user_id - 1) / {BATCH} * interval '10 ms' + interval '10 ms', 'db-1', "
        f"encode(sha256(convert_to(string_agg({line}, E'\\n' ORDER BY w.user_id) || E'\\n', 'UTF8')), 'hex') "
        f"FROM wishes_wallet w WHERE {chosen} GROUP BY (w.user_id - 1) / {BATCH} ORDER BY (w.user_id - 1) / {BATCH} "
        "RETURNING id",
        {"run": run},
    )
    return int(cursor.fetchall()[0][0])


def _mark(line: str) -> str:
    return f'to_hex(hashtextextended({line} COLLATE "C", 0))'
