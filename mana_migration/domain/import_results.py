"""What an import is asked to do and what it did, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from mana_migration.domain.legacy import COLUMNS, IGNORED_COLUMNS, UnpaidFlag
from mana_migration.errors import UsageError

#: Bad rows that are kept to be shown; all of them go to the file of rejected rows.
SHOWN_ROWS: Final = 20


#: What may become of a row's wallet; the first three are written.
CREATED: Final = "created"
"""A new user with a new wallet."""
GIVEN: Final = "given"
"""The user was there without a wallet and has one now."""
UPDATED: Final = "updated"
"""The wallet differed, nobody had used it, and it has the source's balances now."""
UNCHANGED: Final = "unchanged"
"""The wallet holds what the source says."""
CONVERTED: Final = "converted"
"""The wallet was converted to mana and is left alone, whatever the source says."""
DIFFERS: Final = "differs"
"""The wallet holds something else and was left as it is; --update-existing would take the source's."""
IN_USE: Final = "in_use"
"""The wallet holds something else because it is used: it has ledger entries, records or fixes."""

WRITTEN: Final = (CREATED, GIVEN, UPDATED)
WALLETS: Final = (*WRITTEN, UNCHANGED, CONVERTED, DIFFERS, IN_USE)


def parse_columns(pairs: list[str]) -> dict[str, str]:
    """Return the source's column name by ours, from texts such as ``green=green_balance``.

    Our names are the keys of ``COLUMNS``; the export's own names are understood as well.

    Raises:
        UsageError: a text has no ``=``, names no column of ours, or one of them twice.
    """
    ours = {standard: name for name, standard in COLUMNS.items()} | {name: name for name in COLUMNS}
    found: dict[str, str] = {}
    for pair in pairs:
        target, equals, source = (part.strip() for part in pair.partition("="))
        if not equals or not source:
            raise UsageError(f"--column {pair!r}: give OURS=THEIRS, such as green=green_balance")
        if target in IGNORED_COLUMNS:
            continue
        if target not in ours:
            raise UsageError(f"--column {pair!r}: there is no column {target!r}; choose from {', '.join(COLUMNS)}")
        if ours[target] in found:
            raise UsageError(f"--column {pair!r}: {ours[target]} is given twice")
        found[ours[target]] = source
    names = COLUMNS | found
    for name, source in names.items():
        if list(names.values()).count(source) > 1:
            raise UsageError(f"--column {name}={source}: one column cannot be two; give each a column of its own")
    return names


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an import is asked to do.

    ``source``: a file or a database's address, which may hold a password and is therefore kept out
    of ``repr`` and of what is recorded.  ``table``: the table or sheet, None for the usual one.
    ``columns``: the source's names by ours.
    """

    source: str = field(repr=False)
    table: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: dict(COLUMNS))
    rejects: Path | None = None
    dry_run: bool = False
    skip_bad_rows: bool = False
    update_existing: bool = False
    unpaid: UnpaidFlag = UnpaidFlag.REJECT

    def as_dict(self) -> dict[str, Any]:
        """Return what is recorded on the run: no address, no path."""
        return {
            "table": self.table,
            "columns": dict(self.columns),
            "skip_bad_rows": self.skip_bad_rows,
            "update_existing": self.update_existing,
            "unpaid_flag": self.unpaid.value,
        }


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A bad row as it is shown: its number (data rows from 1), its place in the file, its id and why."""

    row: int
    line: int | None
    id: str
    reasons: tuple[str, ...]
    message: str


@dataclass(slots=True)
class ImportSummary:
    """What an import did, or what a dry run says it would do; all whole numbers.

    ``wallets``: users by what became of their wallet.  ``balances``: sums over the wallets written.
    ``left_behind``: wishes that the old system left in place at users it had migrated.
    ``nulls``: NULLs taken as 0 (or as not migrated), by column, over the good rows.
    """

    kind: str
    dry_run: bool
    status: str = "completed"
    run: int | None = None
    rows: int = 0
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejected: list[RejectedRow] = field(default_factory=list)
    rejects: str | None = None
    wallets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WALLETS, 0))
    nulls: dict[str, int] = field(default_factory=dict)
    flagged: int = 0
    migrated: int = 0
    unpaid: int = 0
    balances: dict[str, int] = field(default_factory=dict)
    left_behind: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def imported(self) -> int:
        """Users whose wallet was written: created, given to a user who was there, or updated."""
        return 0 if self.status == "rejected" else sum(self.wallets[name] for name in WRITTEN)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "kind": "import",
            "source": self.kind,
            "dry_run": self.dry_run,
            "status": self.status,
            "run": self.run,
            "rows": self.rows,
            "imported": self.imported,
            "bad": self.bad,
            "reasons": dict(sorted(self.reasons.items())),
            "rejected": [{"row": row.row, "line": row.line, "reasons": list(row.reasons)} for row in self.rejected],
            "rejects": self.rejects,
            "wallets": self.wallets,
            "nulls": self.nulls,
            "flagged": {"rows": self.flagged, "migrated": self.migrated, "unpaid": self.unpaid},
            "balances": self.balances,
            "left_behind": self.left_behind,
            "seconds": round(self.seconds, 3),
        }


class ImportProgress(Protocol):
    """Be told how far an import is, every few seconds."""

    def __call__(self, *, phase: str, rows: int, seconds: float) -> None:
        """Take the phase (a word for people), the rows read so far and the seconds since the start."""
