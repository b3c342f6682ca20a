"""Watching a run until its end: a live screen on a terminal, plain lines everywhere else."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from types import FrameType
from typing import Final

from django.db import DatabaseError, InterfaceError, connections
from rich.console import Console, ConsoleDimensions, RenderableType

from mana_migration.domain.resources import Resources
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.domain.words import counted
from mana_migration.engine import failures
from mana_migration.reports import console as screens
from mana_migration.reports.console import NO_RUN
from mana_migration.reports.formatting import clock, one_line
from mana_migration.services.context import StopFlag

#: Seconds between two readings of the state of the database.
RESOURCES_EVERY: Final = 5.0

WAITING: Final = "no run is open; waiting for one to start"

_WAITED_OUT: Final = (failures.Failure.CONNECTION, failures.Failure.TRANSIENT)


@dataclass(frozen=True, slots=True)
class View:
    """What is to be shown at one moment.

    ``more`` is the number of users handled since the view before, None of another run or where that is unknown;
    ``seen`` is the run as last seen; ``trouble`` what is wrong with the database (``lost``) or was
    until now; ``waiting`` says that no run is open and one is waited for; ``resources`` is the state of the
    database as last read, None where it is not asked for or could not be read.
    """

    seen: RunSnapshot | None
    trouble: str = ""
    lost: bool = False
    waiting: bool = False
    more: int | None = None
    resources: Resources | None = None


class _Screen:
    """A whole terminal of which only the lines that changed are written again, for terminals that are far away."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._size: ConsoleDimensions | None = None
        self._lines: list[str] = []

    def draw(self, content: RenderableType) -> None:
        """Show the content instead of what was there; all of it where the terminal's size has changed."""
        size, parts = self._console.size, []
        with self._console.capture() as captured:
            self._console.print(content, end="")
        lines = captured.get().splitlines()
        if len(lines) > size.height:  # the foot says how to end it
            lines = [*lines[: size.height - 1], lines[-1]]
        if size != self._size:
            parts.append("\x1b[2J")
            self._size, self._lines = size, []
        for place, line in enumerate(lines):
            if place >= len(self._lines) or line != self._lines[place]:
                parts.append(f"\x1b[{place + 1};1H{line}\x1b[K")
        if len(lines) < len(self._lines):
            parts.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        self._lines = lines
        self._console.file.write("".join(parts))
        self._console.file.flush()


class Watch:
    """Follow one run from now to its end; where none is open, wait for one to start.

    Args:
        read: returns the run's snapshot as of now, None where there is no run.
        using: the database's alias, whose connection is opened anew when it is lost.
        interval: seconds between two polls.
        follow: the run is already chosen, so that a closed one is the end and not waited past.
        now: the clock of the messages about a lost database.
        measure: returns the state of the database and of this process, for the live screen; asked for every
            ``RESOURCES_EVERY`` seconds at most.
    """

    def __init__(
        self,
        read: Callable[[], RunSnapshot | None],
        *,
        using: str,
        interval: float,
        follow: bool,
        now: Callable[[], datetime],
        zone: tzinfo,
        measure: Callable[[], Resources] | None = None,
    ) -> None:
        self._read, self._using, self._interval, self._follow = read, using, interval, follow
        self._now, self._zone, self._measure = now, zone, measure
        self._resources: Resources | None = None
        self._measured = -RESOURCES_EVERY
        self._stop = StopFlag()

    @property
    def signal(self) -> int | None:
        """Return the number of the signal that ended the watch."""
        return self._stop.signal or None

    def views(self) -> Iterator[View]:
        """Yield what there is to see, poll after poll, until the run is over or a signal comes.

        Raises:
            django.db.Error: the database refuses the connection for good, or cannot do what is asked.
        """
        before, seen, was_open, lost_since = None, None, False, ""
        while not self._stop.requested:
            try:
                seen = self._read()
                self._read_resources()
                trouble = f"the database is back; it was gone from {lost_since}" if lost_since else ""
                lost_since = ""
            except (DatabaseError, InterfaceError) as error:
                if failures.kind_of(error) not in _WAITED_OUT:
                    raise
                lost_since = lost_since or clock(self._now(), self._zone)
                what = "does not answer" if seen is None else "is lost"
                reason = one_line(failures.describe(error), 120)
                trouble = f"The database {what} since {lost_since} ({reason}); trying again every {self._interval:g} s."
                with contextlib.suppress(DatabaseError, InterfaceError):
                    connections[self._using].close()
            was_open = was_open or (seen is not None and seen.is_open)
            over = seen is not None and not seen.is_open and (was_open or self._follow)
            nothing_open = not over and (not seen.is_open if seen is not None else not lost_since)
            yield View(seen, trouble, bool(lost_since), nothing_open, _more(before, seen), self._resources)
            before = seen
            if over and not lost_since:
                return
            self._stop.wait(self._interval)

    def _read_resources(self) -> None:
        """Read the state of the database, unless it was read a moment ago; it never ends the watch."""
        if self._measure is None or time.monotonic() - self._measured < RESOURCES_EVERY:
            return
        try:
            self._resources = self._measure()
        except (DatabaseError, InterfaceError):
            self._resources = None
        self._measured = time.monotonic()

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM end the watch after the current poll; the second interrupts that too."""

        def request(number: int, frame: FrameType | None) -> None:
            if self._stop.requested:
                raise KeyboardInterrupt
            self._stop.request(number)

        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def on_terminal(self, console: Console) -> None:
        """Show the live screen, which follows the terminal's size, and leave the last state behind."""
        last: RenderableType = screens.nothing_yet(NO_RUN)
        hint = f"every {self._interval:g} s, Ctrl-C ends"
        with self.ended_by_signals(), console.screen():
            screen = _Screen(console)
            for view in self.views():
                if view.seen is None:
                    last = screens.nothing_yet(view.trouble if view.lost else f"{NO_RUN} Waiting for it; {hint}.")
                    screen.draw(last)
                    continue
                since = "waiting for a run to start" if view.waiting else more(view.more)
                foot = f"{since}, {hint}" if since else hint
                screen.draw(
                    screens.screen(view.seen, self._zone, notice=view.trouble, hint=foot, resources=view.resources)
                )
                last = screens.screen(view.seen, self._zone, notice=view.trouble)
        console.print(last)

    def in_lines(self, write: Callable[[str], None], poll: Callable[[View, str], None] | None = None) -> None:
        """Write one line per poll, and the whole of the run's facts at its end.

        ``poll``: takes each view with the line of its poll instead, and the facts are not written.
        """
        said, last = "", None
        with self.ended_by_signals():
            for view in self.views():
                last = view.seen
                if view.trouble:
                    write(view.trouble)
                if poll is not None and (view.lost or view.waiting):
                    poll(view, "")
                if view.waiting:
                    sentence = NO_RUN if view.seen is None else f"run {view.seen.run} is over; {WAITING}"
                    if sentence != said:
                        write(sentence)
                    said = sentence
                elif view.seen is not None and not view.lost:
                    line = screens.plain_line(view.seen, self._zone)
                    line = "; ".join(filter(None, (line, more(view.more))))
                    if poll is None:
                        write(line)
                    else:
                        poll(view, line)
        if poll is None and last is not None and not last.is_open:
            write(screens.snapshot_text(last, self._zone))


def more(handled: int | None) -> str:
    """Say how many users were handled since the last check; empty where that is not known."""
    return "" if handled is None else f"+{counted(handled, 'user')} since the last check"


def _more(before: RunSnapshot | None, seen: RunSnapshot | None) -> int | None:
    if before is None or seen is None or before.run != seen.run:
        return None
    return seen.totals.selected - before.totals.selected
