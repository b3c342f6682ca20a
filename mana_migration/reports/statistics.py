"""Figures of the whole site, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo

from mana_migration.domain.statistics import Statistics, UserCounts
from mana_migration.domain.words import counted
from mana_migration.reports.formatting import number, percent, when


def status_line(counts: UserCounts) -> str:
    """Write where all users are on one line: the same in every summary and on the monitor."""
    if not counts.total:
        return "no user has a wallet"
    parts = [("failed", counts.failed), ("skipped", counts.skipped), ("rolled back", counts.rolled_back)]
    known = ", ".join(f"{number(count)} {name}" for name, count in parts if count)
    left = f"{number(counts.pending)} pending" + (f" ({known})" if known else "")
    done = f"{number(counts.migrated)} migrated ({percent(counts.progress)})"
    return f"{counted(counts.total, 'user')} in all: {done}, {left}"


def as_lines(found: Statistics, zone: tzinfo | None = None) -> Iterator[str]:
    """Yield the figures of the whole site, one a line."""
    counts = found.users
    rows = [
        ("users", number(counts.total)),
        ("migrated", f"{number(counts.migrated)} ({percent(counts.progress)})"),
        (
            "pending",
            f"{number(counts.pending)} (failed {number(counts.failed)}, skipped {number(counts.skipped)}, "
            f"rolled back {number(counts.rolled_back)})",
        ),
        ("wishes left", f"{number(found.green)} green, {number(found.blue)} blue, {number(found.red)} red"),
        ("mana", f"{number(found.mana)} in the system"),
        ("average", f"{found.average_mana:,.2f} mana of a migrated user"),
        ("largest", f"{number(found.largest_mana)} mana of a migrated user"),
        ("smallest", f"{number(found.smallest_mana)} mana of a migrated user"),
        ("negative", f"{number(found.negative_balances)} wallets" if found.negative_balances != 1 else "1 wallet"),
    ]
    yield "All users:"
    yield from (f"  {name:<12}{value}" for name, value in rows)
    if found.latest:
        yield "Latest conversions:"
    for one in found.latest:
        yield f"  {when(one.at, zone)}  record {one.record}, run {one.run}: {number(one.mana)} mana"
