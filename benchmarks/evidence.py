"""What the tamper evidence costs a run: the product against itself without lines, marks and digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from unittest import mock

from benchmarks.race import Ours, race
from benchmarks.result import Row, Sizes
from benchmarks.stage import Stage, expect, one
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
                works = {"with": Ours(kind, size), "without": Unmarked(kind, size)}
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


class Unmarked(Ours):
    """The worker's loop, on a database of its own, with statements that write no evidence."""

    def __init__(self, kind: str, batch_size: int) -> None:
        super().__init__(kind, batch_size, using="without")
        self._statements: dict[Any, Any] = {}

    def advance(self, users: int) -> int:
        """Work until so many are handled."""
        from mana_migration.engine import conversion, reversal

        with (
            mock.patch.object(conversion, "_statement", self._unmarked(conversion._statement.__wrapped__)),
            mock.patch.object(reversal, "_statement", self._unmarked(reversal._statement.__wrapped__)),
        ):
            return super().advance(users)

    def _unmarked(self, build: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        from mana_migration.engine import batches, chain

        def statement(vendor: str, terms: Any) -> Any:
            if terms not in self._statements:
                nothing: dict[str, Any] = dict.fromkeys(
                    ("mark_sql", "picked_digest_sql", "record_line_sql", "reversal_line_sql"), lambda *_, **__: "''"
                )
                with mock.patch.multiple(chain, **nothing):
                    built = build(vendor, terms)
                    for choice in ((True, True), (True, False), (False, True), (False, False)):
                        built._text(batches.Task(0, "", "", "", *choice))
                self._statements[terms] = built
            return self._statements[terms]

        return statement


_ALIASES: Final = {"with": "default", "without": "without"}


def _processor_seconds(using: str) -> float:
    """Return the processor time that this connection's server process has used."""
    from django.db import connections

    connections[using].ensure_connection()
    pid = connections[using].connection.info.backend_pid
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
