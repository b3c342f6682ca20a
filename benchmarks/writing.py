"""Migrating and taking back, against SQL by hand, a loop over objects, and two sessions side by side."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

from benchmarks import by_hand
from benchmarks.commands import manage
from benchmarks.race import ByHand, OrmLoop, Ours, Procedure, race
from benchmarks.result import Row, Sizes
from benchmarks.stage import Stage, expect, one

FORK = multiprocessing.get_context("fork")

#: Users in one turn: as many as are planned in one go, so that each turn has its share of the planning.
TURN: Final[dict[int | str, int]] = {50: 10_000, 1000: 20_000, "auto": 40_000}

LEAST_MIGRATION, LEAST_ROLLBACK, LEAST_WORKERS = 0.9, 0.8, 0.9


@contextmanager
def books_balance(using: str = "default") -> Iterator[None]:
    """Fail if something was lost or created: a benchmark that cheats is worth nothing."""
    from django.db import connections

    from tests.support.oracle import assert_books_balance, endowment

    before = endowment(using)
    yield
    with connections[using].cursor() as cursor:
        cursor.execute(
            "ANALYZE"
        )  # the tables were empty a moment ago: the oracle's joins are not to be planned for that
    assert_books_balance(using, expected=before)


def conversion(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Race the worker's loop with scripts, and a rollback of the same users likewise; all rules and guards on."""
    for size, users_in_turn in TURN.items():
        turn = min(users_in_turn, max(1, sizes.users // 5))
        stage.empty()
        stage.fill(sizes.users)
        ways = list(by_hand.MIGRATIONS)
        ours = Ours("migration", size)  # in the copies as well: batches belong to a run
        with ExitStack() as copies:
            databases = {way: copies.enter_context(stage.copy(way)) for way in ways}
            with stage.copy("inside") as inside, books_balance():
                found = race(
                    {
                        "ours": ours,
                        **_by_hand(databases, by_hand.MIGRATIONS, size),
                        "procedure": Procedure(inside, 5_000 if size == "auto" else int(size)),
                    },
                    sizes.users,
                    turn,
                )
            yield _row("migrate_users", size, sizes.users, found, least=LEAST_MIGRATION, batches=ours.sizes)
            ours.close()
            with closing(stage.connect()) as site:
                for way in by_hand.SAME_WRITES:
                    expect(_written(site) == _written(databases[way]), f"{way} did not write what we wrote")
            back = Ours("rollback", size)
            for database in databases.values():
                by_hand.open_rollback(database)
            with books_balance():
                found = race(
                    {"ours": back, **_by_hand(databases, by_hand.ROLLBACKS, size, first=by_hand.LIFT)},
                    sizes.users,
                    turn,
                )
            yield _row("rollback_migration", size, sizes.users, found, least=LEAST_ROLLBACK, batches=back.sizes)
            back.close()
            with closing(stage.connect()) as site:
                for way in by_hand.SAME_WRITES:
                    expect(_written(site) == _written(databases[way]), f"{way} did not take back what we took back")


def _by_hand(
    databases: dict[str, Any], ways: dict[str, tuple[tuple[str, ...], bool]], size: int | str, *, first: str = ""
) -> dict[str, ByHand]:
    from mana_migration.domain.pacing import BatchSize

    found = {}
    for name, (statements, prepared) in ways.items():
        script = by_hand.Script(databases[name], statements, prepared=prepared, first=first)
        pace = BatchSize(size)
        found[name] = ByHand(script, _current(pace), pace.observe)
    return found


def _current(pace: Any) -> Callable[[], int]:
    return lambda: int(pace.current)


def _written(connection: Any) -> Any:
    return one(
        connection,
        "SELECT json_build_array((SELECT sum(mana) FROM wishes_wallet), (SELECT count(*) FROM wishes_manaentry), "
        "(SELECT sum(balance_after) FROM wishes_manaentry), (SELECT sum(mana_credited) FROM "
        "mana_migration_usermigration), (SELECT sum(mana) FROM mana_migration_migrationbatch WHERE status = 'done'), "
        "(SELECT md5(string_agg(mark || reversal_mark, '' ORDER BY user_id)) FROM mana_migration_usermigration), "
        "(SELECT count(DISTINCT digest) > 0 FROM mana_migration_migrationbatch WHERE digest <> ''), "
        "(SELECT count(*) FROM mana_migration_usermigration WHERE status = 'rolled_back'), "
        "(SELECT count(*) FROM wishes_wallet WHERE migrated_at IS NOT NULL))",
    )


def _row(what: str, size: int | str, users: int, found: dict[str, float], *, least: float, batches: list[int]) -> Row:
    best = min(found[name] for name in by_hand.SAME_WRITES)
    named = f"{size:,}" if isinstance(size, int) else f"{size}, {statistics.mean(batches):,.0f} users on average"
    return Row(
        what=f"{what} against the fastest script, batch size {named}",
        users=users,
        ratio=best / found["ours"],
        least=least if size != "auto" else None,
        figures={
            **{f"{name}, users/s": round(1 / seconds) for name, seconds in found.items()},
            "ratio to a script without marks and digests": round(found["undigested"] / found["ours"], 2),
        },
    )


def orm(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Race the worker's loop with one transaction and a few ``save()`` a user."""
    from django.db import connections

    users = min(sizes.users, 10_000)
    stage.empty()
    stage.fill(users)
    with stage.copy("loop"):
        connections.databases["loop"] = {**connections.databases["default"], "NAME": "loop"}
        ours = Ours("migration", 50)
        found = race({"ours": ours, "loop": OrmLoop("loop")}, users, max(1, users // 5))
        ours.close()
        connections["loop"].close()
    yield Row(
        what="migrate_users against a loop of save(), batch size 50",
        users=users,
        ratio=found["loop"] / found["ours"],
        figures={f"{name}, users/s": round(1 / seconds) for name, seconds in found.items()},
    )


def workers(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Compare ``migrate_users --workers 2`` with two sessions that run the fastest script, each for half of the users.

    Ours is measured while both workers work: from the first batch of the later one to the last of
    the earlier; that a process takes a second to start is the whole command's affair.  The sessions
    are timed from the moment at which both are ready to the end of the later one.
    """
    for size in (50, 1000):
        found = _by_two(stage, sizes, size)
        yield Row(
            what=f"migrate_users --workers 2 against two sessions, batch size {size:,}",
            users=sizes.users,
            ratio=found["ours"] / max(found["prepared"], found["at_once"]),
            least=LEAST_WORKERS,
            figures={f"{name}, users/s": round(rate) for name, rate in found.items()},
        )


def _by_two(stage: Stage, sizes: Sizes, size: int) -> dict[str, float]:
    """Return the users per second of two workers, and of two sessions with each script, the medians of all rounds.

    Each begins a round in its turn, and after a checkpoint: whoever is the first to write to a page
    after one logs all of the page, so that those who come before it and after it cannot be compared.
    """

    def ours() -> float:
        with books_balance():
            manage("migrate_users", "--workers", "2", "--batch-size", str(size), "--no-input")
        return _side_by_side(stage)

    contestants: dict[str, Callable[[], float]] = {
        "ours": ours,
        "prepared": lambda: sizes.users / _two_sessions(stage, "prepared", sizes.users, size),
        "at_once": lambda: sizes.users / _two_sessions(stage, "at_once", sizes.users, size),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for _ in range(sizes.rounds):
        stage.empty()
        stage.fill(sizes.users)
        Ours("migration", size).close()
        with stage.copy("prepared"), stage.copy("at_once"):
            for name in names:
                stage.admin("CHECKPOINT")
                rates[name].append(contestants[name]())
        names = names[1:] + names[:1]
    return {name: statistics.median(each) for name, each in rates.items()}


def _side_by_side(stage: Stage) -> float:
    """Return the users per second of the latest migration while all of its workers worked; of one if only one did."""
    with closing(stage.connect()) as site:
        return float(
            one(
                site,
                "WITH b AS (SELECT worker, selected, started_at, finished_at FROM mana_migration_migrationbatch "
                "WHERE status = 'done' AND run_id = (SELECT max(id) FROM mana_migration_migrationrun)), "
                "w AS (SELECT min(started_at) AS begun, max(finished_at) AS ended FROM b GROUP BY worker), "
                "both_work AS (SELECT max(begun) AS since, min(ended) AS until FROM w) "
                "SELECT sum(b.selected) / extract(epoch FROM max(b.finished_at) - min(b.started_at)) "
                "FROM b, both_work WHERE b.started_at >= since AND b.finished_at <= until",
            )
        )


def _two_sessions(stage: Stage, way: str, users: int, size: int) -> float:
    """Return the seconds that two sessions take, each for half of the users, in the copy named like their way."""
    statements, prepared = by_hand.MIGRATIONS[way]
    ready = FORK.Barrier(3)
    half = users // 2

    def work(number: int) -> None:
        with closing(stage.connect(way)) as connection:
            script = by_hand.Script(connection, statements, prepared=prepared, session=number + 1)
            end = users if number else half
            ready.wait()
            for first in range(number * half + 1, end + 1, size):
                script.handle(first, min(first + size - 1, end))

    processes = [FORK.Process(target=work, args=(number,)) for number in range(2)]
    for process in processes:
        process.start()
    ready.wait()
    begun = time.perf_counter()
    for process in processes:
        process.join()
        expect(process.exitcode == 0, "a session ended with an error")
    return time.perf_counter() - begun
