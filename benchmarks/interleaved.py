"""Contestants who do the same work in turns, a slice each, so that whatever else the machine does meets all alike."""

from __future__ import annotations

import io
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final, Protocol

import psycopg2.extensions

from benchmarks import baseline_sql
from benchmarks.fixtures import BenchmarkError, expect

FORK: Final = multiprocessing.get_context("fork")

#: What a worker and its queue learn as they go, and keep from turn to turn.
_LEARNT: Final = ("handled", "_seconds", "_attempted")
_LEARNT_BY_QUEUE: Final = ("_size", "in_company")


class Contestant(Protocol):
    """A program that handles users."""

    def advance(self, users: int) -> int:
        """Handle about so many users and return how many; 0 at the end."""


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turns(rounds: int, works: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median seconds of each, done in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return {name: statistics.median(found) for name, found in seconds.items()}


def race(contestants: Mapping[str, Contestant], users: int, slice_size: int) -> dict[str, float]:
    """Let each handle so many users, in turns; return the seconds per user of each, the median of its slices."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    handled = dict.fromkeys(contestants, 0)
    names = list(contestants)
    while any(count < users for count in handled.values()):
        for name in names:
            if handled[name] >= users:
                continue
            begun = time.perf_counter()
            done = contestants[name].advance(min(slice_size, users - handled[name]))
            expect(done > 0, f"{name} ended after {handled[name]} of {users} users")
            seconds[name].append((time.perf_counter() - begun) / done)
            handled[name] += done
        names = names[1:] + names[:1]
    # the first slice meets cold caches and plans, of all alike
    return {name: statistics.median(found[1:] or found) for name, found in seconds.items()}


class Pair:
    """Two processes side by side, each of which handles half of every turn.

    ``make`` is called in each of them, with 0 and 1, and opens sessions of its own.
    """

    def __init__(self, make: Callable[[int], Contestant]) -> None:
        from django.db import connections

        connections.close_all()
        self._pipes, self._processes = [], []
        for number in range(2):
            here, there = FORK.Pipe()
            process = FORK.Process(target=_take_part, args=(make, number, there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        self._answers()  # both are ready

    def advance(self, users: int) -> int:
        """Let both handle half of so many users; return how many it were when the later one has ended."""
        for pipe in self._pipes:
            pipe.send(users // 2)
        return sum(self._answers())

    def close(self) -> None:
        """End both."""
        for pipe in self._pipes:
            pipe.send(0)
        for process in self._processes:
            process.join()
            expect(process.exitcode == 0, "one of two ended with an error")

    def _answers(self) -> list[int]:
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError as error:
            raise BenchmarkError("one of two ended with an error, which it wrote above") from error


def _take_part(make: Callable[[int], Contestant], number: int, pipe: Connection) -> None:
    contestant = make(number)
    pipe.send(0)
    while users := pipe.recv():
        pipe.send(contestant.advance(users))


class Ours:
    """The worker's loop as the command runs it: looks ahead, claims, checks, marks, folds, plans, shows progress."""

    def __init__(self, kind: str, batch_size: int | str, *, using: str = "default") -> None:
        from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
        from mana_migration.services import runs
        from mana_migration.services.context import RunContext
        from mana_migration.services.rollback import Rollback
        from mana_migration.states import RunKind
        from wishes.conf import rates

        self._using, self._controls = using, Controls(batch_size=batch_size)
        context = RunContext(using=using)
        if kind == "migration":
            self.run = runs.create_run(
                using=using,
                kind=RunKind.MIGRATION,
                options=MigrationOptions().as_dict(),
                rates=rates().as_dict(),
                controls=self._controls,
                actor=context.actor,
            )
        else:
            asked = Rollback(RollbackOptions(everything=True, controls=self._controls))
            self.run = asked.open(context)
        self.sizes: list[int] = []
        self._learnt: dict[str, Any] = {}
        self._learnt_by_queue: dict[str, Any] = {}
        self._pause: Any = None

    def advance(self, users: int) -> int:
        """Work until so many are handled, then stop as a signal would make it."""
        from mana_migration.reports.progress import ProgressDisplay
        from mana_migration.services import operation
        from mana_migration.services.context import RunContext
        from mana_migration.services.worker import throttle
        from mana_migration.services.worker.loop import Worker

        handled = 0
        shown = ProgressDisplay(io.StringIO(), verb="handled")

        def count(result: Any) -> None:
            nonlocal handled
            shown(result)
            handled += result.totals.selected
            self.sizes.append(result.totals.selected)
            if handled >= users:
                context.stop.request()

        context = RunContext(using=self._using, progress=count)
        # what a worker learns once, and would not learn again for a turn
        pause = self._pause = self._pause or throttle.Throttle(self.run.pk, context)
        pause._context = context
        worker = Worker(self.run.pk, operation.work_of(self.run), context, throttle=pause)
        vars(worker).update(self._learnt)
        vars(worker._queue).update(self._learnt_by_queue)
        worker.run()
        self._learnt = {name: vars(worker)[name] for name in _LEARNT}
        self._learnt_by_queue = {name: vars(worker._queue)[name] for name in _LEARNT_BY_QUEUE}
        return handled

    def close(self) -> None:
        """End the run, so that another may be opened."""
        from mana_migration.services import runs
        from mana_migration.services.context import current_actor

        runs.stop_run(self.run.pk, actor=current_actor(), reason="", using=self._using)


class ByHand:
    """A script of one message a batch.

    ``size`` says how many users the next batch has; ``observe`` is called with each batch and its seconds;
    ``first`` is the key that it begins with.
    """

    def __init__(
        self,
        script: baseline_sql.Script,
        size: Callable[[], int],
        observe: Callable[[int, float], None] | None = None,
        *,
        first: int = 1,
    ) -> None:
        self._script, self._size, self._observe, self._next = script, size, observe, first

    def advance(self, users: int) -> int:
        """Handle the next users."""
        handled = 0
        while handled < users:
            size = min(self._size(), users - handled)
            begun = time.perf_counter()
            self._script.handle(self._next, self._next + size - 1)
            if self._observe is not None:
                self._observe(size, time.perf_counter() - begun)
            self._next += size
            handled += size
        return handled


class Procedure:
    """The same work by a procedure inside the server."""

    def __init__(self, connection: psycopg2.extensions.connection, size: int) -> None:
        baseline_sql.install_procedure(connection)
        self._cursor, self._size, self._next = connection.cursor(), size, 1

    def advance(self, users: int) -> int:
        """Handle the next users in one call."""
        upto, batch = self._next + users - 1, 4 * baseline_sql.BATCHES_FROM + self._next
        self._cursor.execute(f"CALL migrate_by_hand({self._next}, {upto}, {self._size}, {batch})")
        self._next += users
        return users


class OrmLoop:
    """One ``transaction.atomic()`` and ``save()`` a user, as a first version would have it."""

    def __init__(self, alias: str) -> None:
        self._alias, self._next = alias, 1

    def advance(self, users: int) -> int:
        """Convert the next users one by one."""
        from django.db import transaction
        from django.utils import timezone

        from mana_migration.models import UserMigration
        from wishes.models import ManaEntry, Wallet

        for key in range(self._next, self._next + users):
            with transaction.atomic(using=self._alias):
                wallet = Wallet.objects.using(self._alias).select_for_update().get(pk=key)
                worth = 10 * wallet.green + 100 * wallet.blue + 1000 * wallet.red
                UserMigration(
                    user_id=key, run_id=1, batch_id=0, status="migrated", green=wallet.green, blue=wallet.blue,
                    red=wallet.red, mana_before=wallet.mana, mana_credited=worth,
                ).save(using=self._alias)  # fmt: skip
                wallet.mana += worth
                wallet.green = wallet.blue = wallet.red = 0
                wallet.migrated_at = timezone.now()
                if worth:
                    ManaEntry(
                        user_id=key, amount=worth, balance_after=wallet.mana, kind="conversion",
                        reference=f"conversion:1:{key}",
                    ).save(using=self._alias)  # fmt: skip
                wallet.save(using=self._alias)
        self._next += users
        return users
