"""What the tamper evidence costs a run: the product against itself without lines, marks, digests and links."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

from benchmarks.fixtures import Stage, expect, one
from benchmarks.interleaved import Ours, race, timed
from benchmarks.result import Row, Sizes
from benchmarks.writing import TURN, books_balance

#: A run with evidence takes at most so many times one without: 5 % of the run.
MOST: Final = 1 / 0.95

TICKS: Final = os.sysconf("SC_CLK_TCK")


def evidence(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Race the worker's loop with itself without evidence, converting and taking back; all else as ever."""
    from django.db import connections

    for size in (50, 1000):
        turn = min(TURN[size], max(1, sizes.users // 10))
        stage.empty()
        stage.fill(sizes.users)
        with stage.copy("without"), books_balance():
            connections.databases["without"] = {**connections.databases["default"], "NAME": "without"}
            for kind, command in (("migration", "migrate_users"), ("rollback", "rollback_migration")):
                works = {"with": Ours(kind, size), "without": UnmarkedLoop(kind, size)}
                before = {name: _processor_seconds(using) for name, using in _ALIASES.items()}
                found = race(works, sizes.users, turn)
                spent = {name: _processor_seconds(using) - before[name] for name, using in _ALIASES.items()}
                for work in works.values():
                    work.close()
                yield Row(
                    what=f"{command} with the evidence, in times of one without, batch size {size:,}",
                    users=sizes.users,
                    ratio=found["with"] / found["without"],
                    most=round(MOST, 3),
                    figures={
                        **{f"{name}, users/s": round(1 / seconds) for name, seconds in found.items()},
                        **{
                            f"server's processor time {name}, µs a user": round(1e6 * seconds / sizes.users, 1)
                            for name, seconds in spent.items()
                        },
                    },
                )
            with closing(stage.connect("without")) as other:
                unmarked = "SELECT count(*) FROM mana_migration_usermigration WHERE mark = '' AND reversal_mark = ''"
                expect(one(other, unmarked) == sizes.users, "the run without evidence wrote some")
            connections["without"].close()
    yield from whole_runs(stage, sizes)


def whole_runs(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Time whole runs, from the checks before to the check after, with the evidence and without, in turns."""
    from django.db import connections

    stage.empty()
    stage.fill(sizes.users)
    # what a run with evidence and one without take, in the order: with, without, without, with
    seconds: dict[tuple[str, str], list[float]] = {}
    spent: dict[tuple[str, str], float] = {}
    with stage.copy("without"), books_balance():
        connections.databases["without"] = {**connections.databases["default"], "NAME": "without"}
        unmarked = Unmarked()
        for turn in range(2 * sizes.rounds):
            names = list(_ALIASES) if turn % 2 == 0 else list(reversed(_ALIASES))
            for work in _WHOLE:
                for name in names:
                    using, key = _ALIASES[name], (work, name)
                    before = _processor_seconds(using)
                    with unmarked.in_force() if name == "without" else nullcontext():
                        seconds.setdefault(key, []).append(timed(partial(_WHOLE[work], using)))
                    spent[key] = spent.get(key, 0.0) + _processor_seconds(using) - before
        for work in _WHOLE:
            took = {name: statistics.median(seconds[work, name]) for name in _ALIASES}
            yield Row(
                what=f"the whole of {work} with the evidence, in times of one without, batch size 1,000",
                users=sizes.users,
                ratio=took["with"] / took["without"],
                most=round(MOST, 3),
                figures={
                    **{f"{name}, users/s": round(sizes.users / one) for name, one in took.items()},
                    "server's processor time with, in times of without": round(
                        spent[work, "with"] / spent[work, "without"], 3
                    ),
                },
            )
        connections["without"].close()


def _migrate(using: str) -> None:
    from mana_migration.domain.options import Controls, MigrationOptions
    from mana_migration.services import operation
    from mana_migration.services.context import RunContext
    from mana_migration.services.migration import Migration

    asked = Migration(MigrationOptions(controls=Controls(batch_size=1000, delay=0.0)))
    done = operation.execute(asked, RunContext(using=using))
    expect(done.status == "completed", f"the migration ended as {done.status}")


def _roll_back(using: str) -> None:
    from mana_migration.domain.options import Controls, RollbackOptions
    from mana_migration.services import operation
    from mana_migration.services.context import RunContext
    from mana_migration.services.rollback import Rollback

    asked = Rollback(RollbackOptions(everything=True, controls=Controls(batch_size=1000, delay=0.0)))
    done = operation.execute(asked, RunContext(using=using))
    expect(done.status == "completed", f"the rollback ended as {done.status}")


_WHOLE: Final[dict[str, Callable[[str], None]]] = {"migrate_users": _migrate, "rollback_migration": _roll_back}


class Unmarked:
    """The engine's statements without evidence, and the folding without links."""

    def __init__(self) -> None:
        self._statements: dict[Any, Any] = {}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let everything in this process use them."""
        from mana_migration.engine import chain, conversion, reversal

        with (
            mock.patch.object(conversion, "statements", self._unmarked(conversion.statements.__wrapped__)),
            mock.patch.object(reversal, "statements", self._unmarked(reversal.statements.__wrapped__)),
            mock.patch.object(chain, "link", self._unlinked),
        ):
            yield

    def _unmarked(self, build: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        from mana_migration import conf
        from mana_migration.engine import batches, chain

        limits = batches.Limits(conf.lock_timeout_ms(), conf.statement_timeout_ms())

        def statement(vendor: str, terms: Any) -> Any:
            if terms not in self._statements:
                nothing: dict[str, Any] = dict.fromkeys(
                    ("mark_sql", "picked_digest_sql", "record_line_sql", "reversal_line_sql"), lambda *_, **__: "''"
                )
                with mock.patch.multiple(chain, **nothing):
                    built = build(vendor, terms)
                    for choice in ((True, True), (True, False), (False, True), (False, False)):
                        built.message(batches.Task(0, "", "", "", *choice), limits)
                self._statements[terms] = built
            return self._statements[terms]

        return statement

    def _unlinked(self, run: Any, known: dict[str, Any], batches: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
        number = known.get("links", 0)
        known["links"] = number + len(batches)
        return [(batch["id"], number + place, "") for place, batch in enumerate(batches, start=1)]


class UnmarkedLoop(Ours):
    """The worker's loop, on a database of its own, with statements that write no evidence."""

    def __init__(self, kind: str, batch_size: int) -> None:
        super().__init__(kind, batch_size, using="without")
        self._unmarked = Unmarked()

    def advance(self, users: int) -> int:
        """Work until so many are handled."""
        with self._unmarked.in_force():
            return super().advance(users)


_ALIASES: Final = {"with": "default", "without": "without"}


def _processor_seconds(using: str) -> float:
    """Return the processor time that this connection's server process has used."""
    from django.db import connections

    connections[using].ensure_connection()
    pid = connections[using].connection.info.backend_pid
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
