"""Progress of the command at hand: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from mana_migration.domain.results import BatchResult, Totals

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds between two plain lines.
LINE_EVERY: Final = 10.0

#: Seconds over which the rate shown is measured.
RATE_WINDOW: Final = 30.0

#: What a line begins with that is a record of progress, for the process that started this one.
RECORD: Final = "\x1e"

#: Seconds between two records.
RECORD_EVERY: Final = 0.5

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
            text += f", {duration((self._expected - done) / rate)} left before the check"
        if self.totals.failed:
            text += f", {self.totals.failed:,} failed"
        return text


class ProgressRecords(ProgressDisplay):
    """Write progress as records, for the process that shows it together with that of other databases."""

    def expect(self, users: int | None) -> None:
        """Take the number of users in all, once it is known."""
        super().expect(users)
        self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._write()

    def __call__(self, result: BatchResult) -> None:
        """Take a committed batch into account, or what the run waits for."""
        self.totals.add(result.totals)
        changed, self._waits_for = result.waits_for != self._waits_for, result.waits_for
        if changed or time.monotonic() - self._last_line >= RECORD_EVERY:
            self._write()

    def _write(self) -> None:
        self._last_line = time.monotonic()
        write_record(
            self._stream,
            verb=self._verb,
            users=self.totals.selected,
            failed=self.totals.failed,
            expected=self._expected,
            waits_for=self._waits_for,
        )


def write_record(stream: TextIO, **values: Any) -> None:
    """Write a record of progress, for ``JointDisplay.take``."""
    stream.write(f"{RECORD}{json.dumps(values)}\n")
    stream.flush()


class JointDisplay(ProgressDisplay):
    """Show the progress of several databases: a bar for all and one for each, or a plain line about all of them.

    Args:
        stream: where to.
        verb: what happens to the users.
        aliases: the databases.
    """

    def __init__(self, stream: TextIO, *, verb: str, aliases: Sequence[str]) -> None:
        super().__init__(stream, verb=f"all databases: {verb}")
        self._records: dict[str, dict[str, Any]] = {alias: {"users": 0, "failed": 0} for alias in aliases}
        self._state = dict.fromkeys(aliases, "starting")
        if self._bar is not None:
            self._tasks = {alias: self._bar.add_task(alias, total=None, rate="starting") for alias in aliases}

    @property
    def has_bars(self) -> bool:
        """Say whether it is shown on a terminal."""
        return self._bar is not None

    def take(self, alias: str, record: Mapping[str, Any], *, state: str = "") -> None:
        """Take the latest record of a database into account; ``state`` says what became of one that has ended."""
        before = self._records[alias]
        record = before | dict(record)
        done, expected = record["users"], record.get("expected")
        self._records[alias] = record
        share = f"{done / expected:.0%}".replace("%", " %") if expected else f"{done:,}"
        self._state[alias] = state or record.get("waits_for") or share
        if self._bar is not None:
            total = done if state else expected
            self._bar.update(self._tasks[alias], completed=done, total=total, rate=self._state[alias])
        known = [each["expected"] for each in self._records.values() if each.get("expected") is not None]
        self.expect(sum(known) if len(known) == len(self._records) else None)
        more = Totals(selected=done - before["users"], failed=record["failed"] - before["failed"])
        if "verb" not in before:  # what was done before this display began says nothing about the rate
            self.totals.add(more)
            more = Totals()
        self(BatchResult(0, 0, more, 0.0))

    def _figures(self, moment: float) -> str:
        if self._bar is not None:
            return super()._figures(moment)
        states = "; ".join(f"{alias}: {state}" for alias, state in self._state.items())
        return f"{super()._figures(moment)} ({states})"


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
