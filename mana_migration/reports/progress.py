"""Progress of the command at hand: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from mana_migration.domain.results import BatchResult, Totals

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds between two plain lines.
LINE_EVERY: Final = 10.0

#: Seconds over which the rate shown is measured.
RATE_WINDOW: Final = 30.0

#: Share of the users that must be done before a remaining time is shown.
FIRST_ESTIMATE: Final = 0.01


class ProgressDisplay:
    """Show committed batches; a ``ProgressCallback`` to hand down to a service.

    Args:
        stream: where to; a bar if it is a terminal, plain lines otherwise.
        expected: users in all, as counted at the start; None where they were not counted.
        verb: what happens to the users, such as ``migrated``.
    """

    def __init__(self, stream: TextIO, *, verb: str, expected: int | None = None) -> None:
        self._stream, self._verb, self._expected = stream, verb, expected
        self.totals = Totals()
        self._begun = self._last_line = time.monotonic()
        self._window: deque[tuple[float, int]] = deque()
        self._waits_for = ""
        self._bar: Progress | None = None
        self._task: Any = None
        if hasattr(stream, "isatty") and stream.isatty():
            self._bar = _bar(stream)
            self._task = self._bar.add_task(verb, total=expected, rate="")

    def expect(self, users: int | None) -> None:
        """Take the number of users in all, once it is known."""
        self._expected = users
        if self._bar is not None:
            self._bar.update(self._task, total=users)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something else is written to the terminal."""
        if self._bar is None or not self._bar.live.is_started:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def __call__(self, result: BatchResult) -> None:
        """Take a committed batch into account, or what the run waits for."""
        self.totals.add(result.totals)
        self._waits_for = result.waits_for
        moment = time.monotonic()
        self._window.append((moment, result.totals.selected))
        while self._window and self._window[0][0] < moment - RATE_WINDOW:
            self._window.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.totals.selected, rate=self._figures(moment))
        elif moment - self._last_line >= LINE_EVERY and not self._waits_for:  # which has a line of its own
            self._last_line = moment
            of = f" of {self._expected:,}" if self._expected else ""
            self._stream.write(f"{self._verb} {self.totals.selected:,}{of}: {self._figures(moment)}\n")
            self._stream.flush()

    def _figures(self, moment: float) -> str:
        since = max(self._begun, moment - RATE_WINDOW)
        rate = sum(users for _, users in self._window) / max(moment - since, 0.001)
        if self._waits_for:  # it cannot be known for how long
            return self._waits_for
        text = f"{rate * 60:,.0f} users/min"
        done = self.totals.selected
        if self._expected and rate and self._expected * FIRST_ESTIMATE <= done <= self._expected:
            text += f", {duration((self._expected - done) / rate)} left"
        if self.totals.failed:
            text += f", {self.totals.failed:,} failed"
        return text


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console  # noqa: PLC0415 (takes long to import, and only a terminal needs it)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
    )


def duration(seconds: float) -> str:
    """Return seconds in words short enough for a bar: ``42 s``, ``7 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
