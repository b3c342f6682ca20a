"""Migrating and taking back, against SQL by hand, a loop over objects, and two sessions side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

from benchmarks import baseline_sql
from benchmarks.fixtures import Stage, expect, one
from benchmarks.interleaved import ByHand, OrmLoop, Ours, Pair, Procedure, race
from benchmarks.result import Row, Sizes

#: Users in one turn: as many as are planned in one go, so that each turn has its share of the planning.
TURN: Final[dict[int | str, int]] = {50: 10_000, 1000: 60_000, "auto": 60_000}

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
        ways = list(baseline_sql.MIGRATIONS)
        ours = Ours("migration", size)  # in the copies as well: batches belong to a run
        with ExitStack() as copies:
            databases = {way: copies.enter_context(stage.copy(way)) for way in ways}
            with stage.copy("inside") as inside, books_balance():
                found = race(
                    {
                        "ours": ours,
                        **_by_hand(databases, baseline_sql.MIGRATIONS, size),
                        "procedure": Procedure(inside, 5_000 if size == "auto" else int(size)),
                    },
                    sizes.users,
                    turn,
                )
            yield _row("migrate_users", size, sizes.users, found, least=LEAST_MIGRATION, batches=ours.sizes)
            ours.close()
            with closing(stage.connect()) as site:
                for way in baseline_sql.SAME_WRITES:
                    expect(_written(site) == _written(databases[way]), f"{way} did not write what we wrote")
            back = Ours("rollback", size)
            for database in databases.values():
                baseline_sql.open_rollback(database)
            with books_balance():
                found = race(
                    {"ours": back, **_by_hand(databases, baseline_sql.ROLLBACKS, size, first=baseline_sql.LIFT)},
                    sizes.users,
                    turn,
                )
            yield _row("rollback_migration", size, sizes.users, found, least=LEAST_ROLLBACK, batches=back.sizes)
            back.close()
            with closing(stage.connect()) as site:
                for way in baseline_sql.SAME_WRITES:
                    expect(_written(site) == _written(databases[way]), f"{way} did not take back what we took back")


def _by_hand(
    databases: dict[str, Any], ways: dict[str, tuple[tuple[str, ...], bool]], size: int | str, *, first: str = ""
) -> dict[str, ByHand]:
    from mana_migration.domain.pacing import BatchSize

    found = {}
    for name, (statements, prepared) in ways.items():
        script = baseline_sql.Script(databases[name], statements, prepared=prepared, first=first)
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
    best = min(found[name] for name in baseline_sql.SAME_WRITES)
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
    """Race two workers on one run with two sessions that run a script, each for half of the users.

    In each turn each of the two handles half of it, and the turn ends with the later one.  The run
    has more users than are handled: what comes after the last of them is the whole command's affair.
    """
    for size in (50, 1000):
        turn = min(2 * TURN[size], max(2, sizes.users // 5))
        stage.empty()
        stage.fill(sizes.users + 2 * turn)
        ours = Ours("migration", size)
        with stage.copy("prepared"), stage.copy("at_once"), books_balance():
            stage.admin("CHECKPOINT")  # the first to write to a page after one logs all of the page
            pairs = {
                "ours": Pair(_either(ours)),
                **{way: Pair(_half(stage, way, sizes.users // 2 + turn, size)) for way in ("prepared", "at_once")},
            }
            found = race(pairs, sizes.users, turn)
            for pair in pairs.values():
                pair.close()
        ours.close()
        yield Row(
            what=f"two workers against two sessions with the fastest script, batch size {size:,}",
            users=sizes.users,
            ratio=min(found["prepared"], found["at_once"]) / found["ours"],
            least=LEAST_WORKERS,
            figures={f"{name}, users/s": round(1 / seconds) for name, seconds in found.items()},
        )


def _either(ours: Ours) -> Callable[[int], Ours]:
    return lambda number: ours


def _half(stage: Stage, way: str, users: int, size: int) -> Callable[[int], ByHand]:
    """Return what makes the session for the first or the second so many users, in the copy named like its way."""
    statements, prepared = baseline_sql.MIGRATIONS[way]

    def make(number: int) -> ByHand:
        script = baseline_sql.Script(stage.connect(way), statements, prepared=prepared, session=number + 1)
        return ByHand(script, lambda: size, first=number * users + 1)

    return make
