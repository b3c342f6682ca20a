"""Walk several transactions on PostgreSQL step by step, in any order that is asked for.

A script is a generator: what it does up to each ``yield``, and after the last one, is a step.  Each actor runs its
script in a thread with a database connection of its own.  A step whose turn comes while the actor still waits for a
lock is postponed until the lock is had; who waits is asked of PostgreSQL itself, so that nothing here depends on time.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from django.db import connection, connections

Script = Callable[[], Generator[None, None, Any]]


class Actor:
    """A thread that does one step of its script when told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result: Any = None
        self.error: Exception | None = None
        self.pid = 0
        self._script: Generator[None, None, Any] | None = None
        self._go, self._idle = threading.Semaphore(0), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()
        self._go.release()  # connect
        self._idle.wait()

    def begin(self, script: Script) -> None:
        """Take up a script; its first step has not been done yet."""
        self.result, self.error, self._script = None, None, script()

    def step(self) -> None:
        """Start the next step; nothing happens at the end of the script."""
        self._idle.clear()
        self._go.release()

    @property
    def busy(self) -> bool:
        """Say whether a step has been started and has not ended yet."""
        return not self._idle.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the step, at most so long; return whether it has ended."""
        return self._idle.wait(seconds)

    def close(self) -> None:
        """Ask for the end of the thread, which takes its connection and its locks with it."""
        self._closing = True
        self._go.release()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _live(self) -> None:
        try:
            connection.ensure_connection()
            self.pid = connection.connection.info.backend_pid
            while True:
                self._go.acquire()
                if self._closing:
                    return
                self._advance()
                self._idle.set()
        finally:
            if self._script is not None:
                self._script.close()
            connections.close_all()

    def _advance(self) -> None:
        if self._script is None:
            return
        try:
            next(self._script)
        except StopIteration as end:
            self.result, self._script = end.value, None
        except Exception as error:  # whatever happens in a step is its outcome
            self.error, self._script = error, None


class Stage:
    """The actors, and the order in which they act."""

    def __init__(self, names: Iterable[str]) -> None:
        self.actors = {name: Actor(name) for name in names}
        self.waited: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Return the stage itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every thread."""
        for actor in self.actors.values():
            actor.close()
        for actor in self.actors.values():
            actor.join()

    @property
    def postponed(self) -> int:
        """Return how many steps had to wait for a lock so far."""
        return self.waited.total()

    def walk(self, order: Iterable[str], scripts: Mapping[str, Script]) -> None:
        """Do one step of an actor for each name of the order, and all of them to the end."""
        due = dict.fromkeys(scripts, 0)
        for name, script in scripts.items():
            self.actors[name].begin(script)
        for name in order:
            if self.actors[name].busy:
                self.waited[name] += 1
            due[name] += 1
            self._act(due)
        while any(due.values()) or any(self.actors[name].busy for name in scripts):
            self._act(due)

    def _act(self, due: dict[str, int]) -> None:
        """Start every step that is due and can be, until each actor is idle or waits for a lock."""
        while True:
            started = [name for name, count in due.items() if count and not self.actors[name].busy]
            for name in started:
                due[name] -= 1
                self.actors[name].step()
                self._settle()
            if not started:
                self._settle()
                if not any(count and not self.actors[name].busy for name, count in due.items()):
                    return

    def _settle(self) -> None:
        """Wait until every busy actor waits for a lock that an idle one, or a waiting one, holds."""
        while True:
            busy = [actor for actor in self.actors.values() if actor.busy]
            if all(actor.wait(0.001) for actor in busy):
                return
            busy = [actor for actor in busy if actor.busy]
            blocked = set(self._blocked([actor.pid for actor in busy]))
            if all(actor.pid in blocked or not actor.busy for actor in busy):
                return

    def _blocked(self, pids: list[int]) -> Iterator[int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT p FROM unnest(%s::int[]) AS p WHERE cardinality(pg_blocking_pids(p)) > 0", [pids])
            yield from (row[0] for row in cursor.fetchall())


def orders(steps: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield every order of these numbers of steps: 35 of 4 and 3, 4,200 of 4, 3 and 3."""
    if not any(steps.values()):
        yield ()
        return
    for name, count in steps.items():
        if count:
            for rest in orders({**steps, name: count - 1}):
                yield (name, *rest)


@contextlib.contextmanager
def stage(*names: str) -> Iterator[Stage]:
    """Return a stage whose actors end with the block."""
    with Stage(names) as one:
        yield one
