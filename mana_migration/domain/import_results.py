"""What an import has to do and what it did, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from mana_migration.domain.legacy import COLUMNS, IGNORED_COLUMNS, LEDGER_COLUMNS, Reason, UnpaidFlag
from mana_migration.errors import UsageError

#: Bad rows that are kept to be shown; all of them go to the file of rejected rows.
SHOWN_ROWS: Final = 20


#: What may become of a row's wallet; the first three are written.
CREATED: Final = "created"
"""A new user with a new wallet."""
GIVEN: Final = "given"
"""The user was there without a wallet and has one now."""
UPDATED: Final = "updated"
"""The wallet differed, was not in use, and has the source's balances now."""
UNCHANGED: Final = "unchanged"
"""The wallet holds what the source says."""
CONVERTED: Final = "converted"
"""The wallet was converted to mana and is left as it is, whatever the source says."""
DIFFERS: Final = "differs"
"""The wallet holds something else and was left as it is; --update-existing would take the source's."""
IN_USE: Final = "in_use"
"""The wallet holds something else because it is used: it has ledger entries, records or fixes."""

WRITTEN: Final = (CREATED, GIVEN, UPDATED)
WALLETS: Final = (*WRITTEN, UNCHANGED, CONVERTED, DIFFERS, IN_USE)


def parse_columns(pairs: list[str]) -> dict[str, str]:
    """Return the source's column name by ours, from texts such as ``green=green_balance``.

    Our names are the keys of ``COLUMNS`` and ``LEDGER_COLUMNS``; the export's own names are understood as well.

    Raises:
        UsageError: a text has no ``=``, is not for a column of ours, or one of them is given twice.
    """
    known = COLUMNS | LEDGER_COLUMNS
    ours = {standard: name for name, standard in known.items()} | {name: name for name in known}
    found: dict[str, str] = {}
    for pair in pairs:
        target, equals, source = (part.strip() for part in pair.partition("="))
        if not equals or not source:
            raise UsageError(f"--column {pair!r}: give OURS=THEIRS, such as green=green_balance")
        if target in IGNORED_COLUMNS:
            continue
        if target not in ours:
            raise UsageError(f"--column {pair!r}: no such column {target!r}; choose from {', '.join(known)}")
        if ours[target] in found:
            raise UsageError(f"--column {pair!r}: {ours[target]} is given twice")
        found[ours[target]] = source
    for group in (COLUMNS, LEDGER_COLUMNS):
        names = [found.get(name, standard) for name, standard in group.items()]
        for name in group:
            if name in found and names.count(found[name]) > 1:
                raise UsageError(f"--column {name}={found[name]}: this column is read as another one already")
    return COLUMNS | found


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an import has to do.

    ``source``: a file or a database's address, which may hold a password and is therefore kept out of ``repr`` and of
    what is recorded.  ``table``, ``sheet``, ``backslash``: how the source is read, see ``SourceOptions``.  ``columns``:
    the source's names by ours.  ``nulls``: words for NULL.  ``match``: which column of the site's users the id is,
    ``username`` or ``pk``, None to find out.  ``ledger``: the old ledger, a table of the legacy database or a file.
    """

    source: str = field(repr=False)
    table: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: dict(COLUMNS))
    sheet: str | None = None
    backslash: str | None = None
    nulls: frozenset[str] = frozenset()
    literal_ids: bool = False
    match: str | None = None
    ledger: str | None = field(default=None, repr=False)
    rejects: Path | None = None
    rejects_with_values: Path | None = None
    dry_run: bool = False
    skip_bad_rows: bool = False
    update_existing: bool = False
    unpaid: UnpaidFlag = UnpaidFlag.REJECT

    def as_dict(self) -> dict[str, Any]:
        """Return what is recorded on the run: no address, no path."""
        return {
            "table": self.table,
            "sheet": self.sheet,
            "columns": {name: self.columns[name] for name in COLUMNS},
            "nulls": sorted(self.nulls),
            "literal_ids": self.literal_ids,
            "backslash": self.backslash,
            "legacy_ledger": self.ledger is not None,
            "skip_bad_rows": self.skip_bad_rows,
            "update_existing": self.update_existing,
            "unpaid_flag": self.unpaid.value,
        }


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A bad row: its number (data rows from 1), its place in the file, its id, why, and how it was written.

    ``message`` has the cures, ``brief`` has not.
    """

    row: int
    line: int | None
    sheet: str | None
    id: str
    problems: tuple[Reason, ...]
    message: str
    brief: str
    original: str | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the codes of the reasons, each once."""
        return tuple(dict.fromkeys(problem.code for problem in self.problems))

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON shows: no id and no value."""
        sheet = {"sheet": self.sheet} if self.sheet is not None else {}
        return {
            "row": self.row,
            "line": self.line,
            **sheet,
            "reasons": list(self.reasons),
            "problems": [problem._asdict() for problem in self.problems],
        }


@dataclass(slots=True)
class ImportSummary:
    """What an import did, or what a dry run says it would do; all whole numbers.

    ``part``: the sheets or the key that were read.  ``match``: which column of the site's users the id is.
    ``spanning``: rows that span lines.  ``notes``: what the operator must know about the source, by code.
    ``shapes``: bad rows by reason and shape.  ``ledger``: what the old ledger says, None where it was not read.
    ``wallets``: users by what became of their wallet.  ``balances``: sums over the wallets written.
    ``left_behind``: wishes that the old system left in place at users it had migrated.
    ``nulls``: NULLs taken as 0 (or as not migrated), by column, over the good rows.
    """

    kind: str
    dry_run: bool
    status: str = "completed"
    run: int | None = None
    part: str | None = None
    match: str = "username"
    rows: int = 0
    spanning: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejected: list[RejectedRow] = field(default_factory=list)
    rejects: str | None = None
    rejects_with_values: str | None = None
    ledger: dict[str, int] | None = None
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
            "part": self.part,
            "match": self.match,
            "rows": self.rows,
            "rows_over_lines": self.spanning,
            "notes": [{"code": code, "message": message} for code, message in self.notes.items()],
            "imported": self.imported,
            "bad": self.bad,
            "reasons": dict(sorted(self.reasons.items())),
            "rejected": [row.as_dict() for row in self.rejected],
            "rejects": self.rejects,
            "rejects_with_values": self.rejects_with_values,
            "legacy_ledger": self.ledger,
            "wallets": self.wallets,
            "nulls": self.nulls,
            "flagged": {"rows": self.flagged, "migrated": self.migrated, "unpaid": self.unpaid},
            "balances": self.balances,
            "left_behind": self.left_behind,
            "seconds": round(self.seconds, 3),
        }


class ImportProgress(Protocol):
    """Take how far an import is, every few seconds."""

    def __call__(self, *, phase: str, rows: int, seconds: float) -> None:
        """Take the phase (a word for people), the rows read so far and the seconds since the start."""
