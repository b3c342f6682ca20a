"""The monitor's screens: drawn with rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Final

from mana_migration.domain.resources import Resources
from mana_migration.domain.snapshot import RunLine, RunSnapshot
from mana_migration.domain.words import counted
from mana_migration.reports import run_lines as words
from mana_migration.reports.formatting import clock, duration, number, one_line, percent, span, when
from mana_migration.reports.resources import resource_facts
from mana_migration.states import RunStatus, Tone

if TYPE_CHECKING:
    from rich.console import RenderableType

NO_RUN: Final = "There is no run yet; start one with migrate_users."

_STYLES: Final = {Tone.GOOD: "green", Tone.WARN: "yellow", Tone.BAD: "bold red", Tone.PLAIN: ""}
_BORDERS: Final = {Tone.GOOD: "green", Tone.WARN: "yellow", Tone.BAD: "red", Tone.PLAIN: "blue"}


def screen(
    seen: RunSnapshot,
    zone: tzinfo | None = None,
    *,
    notice: str = "",
    hint: str = "",
    resources: Resources | None = None,
) -> RenderableType:
    """Draw a run's screen; ``notice`` is shown on top in red, ``hint`` at the foot, ``resources`` where given."""
    from rich.console import Group  # noqa: PLC0415 (takes long to import, and only a screen needs it)
    from rich.panel import Panel  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    tone = Tone.BAD if seen.progress.stalled else RunStatus(seen.status).state.tone
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for fact in words.facts(seen, zone):
        if fact.label == "Progress" and seen.progress.share is not None:
            table.add_row("", ProgressBar(total=1.0, completed=seen.progress.share, width=None))
        table.add_row(fact.label, Text(fact.value, style=_STYLES[fact.tone]))
    if resources is not None:
        table.add_row("", "")
        for fact in resource_facts(resources, zone):
            table.add_row(fact.label, Text(fact.value, style=_STYLES[fact.tone]))
    body: list[RenderableType] = [table]
    if seen.events:
        body += [Text(""), Text("Latest events", style="bold")]
        body += [
            Text(f"  {words.event_words(event, zone)}", overflow="ellipsis", no_wrap=True) for event in seen.events
        ]
    panel = Panel(
        Group(*body),
        title=Text(words.headline(seen), style="bold"),
        subtitle=Text(f"as of {seen.taken_at.astimezone(zone):%H:%M:%S %Z}" + (f", {hint}" if hint else "")),
        border_style=_BORDERS[tone],
        padding=(1, 2),
    )
    return Group(Text(notice, style="bold red"), panel) if notice else panel


def nothing_yet(sentence: str) -> RenderableType:
    """Draw the screen of a database without a run."""
    from rich.panel import Panel  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    return Panel(Text(sentence), title="Mana migration", border_style="blue", padding=(1, 2))


def snapshot_text(seen: RunSnapshot, zone: tzinfo | None = None) -> str:
    """Write a run's screen as plain text, one fact a line."""
    lines = [f"{words.headline(seen)} (as of {when(seen.taken_at, zone)})"]
    lines += [f"  {fact.label + ':':<15}{fact.value}" for fact in words.facts(seen, zone)]
    if seen.events:
        lines.append("  Latest events:")
        lines += [f"    {words.event_words(event, zone)}" for event in seen.events]
    return "\n".join(lines)


def plain_line(seen: RunSnapshot, zone: tzinfo | None = None) -> str:
    """Write a run's state on one line, for logs and pipes."""
    progress = seen.progress
    parts = [f"run {seen.run} {seen.status_label.lower()}"]
    if progress.expected is None or progress.differs:
        share = "" if progress.share is None else f"{percent(progress.share)}, "
        parts.append(f"{share}{counted(progress.handled, 'user')}")
    else:
        parts.append(f"{percent(progress.share)}, {number(progress.handled)}/{number(progress.expected)} users")
    parts.append(words.users_words(seen))
    if seen.is_open and progress.rate_now is not None:
        parts.append(f"{number(progress.rate_now)} users/min")
    elif progress.rate_average is not None:
        parts.append(f"{number(progress.rate_average)} users/min on average")
    if progress.stalled:
        parts.append(f"STALLED for {duration(progress.idle)}: {seen.standstill}")
    elif seen.standstill:
        parts.append(seen.standstill)
    elif seen.waiting:
        parts.append(seen.waiting)
    elif progress.remaining is not None:
        parts.append(f"{span(progress.remaining.low, progress.remaining.high)} left")
    if seen.batch_check is not None and seen.batch_check.conserved is False:
        parts.append(words.batch_check_words(seen.batch_check, seen.batches))
    return one_line(f"{clock(seen.taken_at, zone)} {'; '.join(parts)}", 400)


def runs_text(runs: Sequence[RunLine], zone: tzinfo | None = None) -> str:
    """Write a list of runs as a table of plain text, the latest first."""
    head = ("run", "kind", "status", "started", "users", "done", "skipped", "failed", "mana")
    rows = [head]
    for run in runs:
        totals = run.totals
        rows.append(
            (
                str(run.run),
                run.kind_label.lower(),
                run.status_label.lower(),
                when(run.started_at, zone),
                number(totals.selected),
                number(totals.migrated + totals.rolled_back),
                number(totals.skipped),
                number(totals.failed),
                number(totals.mana),
            )
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    left = {1, 2, 3}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
