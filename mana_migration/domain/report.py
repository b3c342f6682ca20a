"""Everything a report of one run says, as plain values; amounts are exact integers of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final, NamedTuple, Protocol

from mana_migration.domain.resources import Figure
from mana_migration.domain.results import Totals
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.domain.statistics import Statistics
from mana_migration.domain.validation import ValidationReport

#: The version of the report's data in every format; it grows when a reader of the old one would go wrong.
SCHEMA_VERSION: Final = 2

#: Failed or skipped users shown as examples of one class, and shortfalls listed one by one.
EXAMPLES, SHORTFALLS = 5, 100

#: Batches listed as the slowest.
SLOWEST: Final = 10


class UserDetail(NamedTuple):
    """What one run did to one user, by record id; names are never part of it.

    ``run`` is the run of the record: in the report of a rollback, that of the conversion it reversed.
    ``error`` is the class of a failure or the reason of a skip.  Times are ISO 8601 in UTC, to the second.
    None means the same in every format: there is no such thing, as there is no error of a migrated user.
    """

    record: int
    run: int
    status: str
    handled_at: str
    green: int
    blue: int
    red: int
    mana_before: int
    mana_credited: int
    error: str | None
    message: str | None
    reversal_run: int | None
    reversed_at: str | None
    mana_debited: int | None
    shortfall: int | None


class BeforeAfter(NamedTuple):
    """What a migrated user had before and has got for it, by user key: for a site's own mailing, not for reports."""

    user_key: str | int
    run: int
    converted_at: str
    green_before: int
    blue_before: int
    red_before: int
    mana_before: int
    mana_credited: int
    mana_after: int


#: Columns of a user that are amounts, which spreadsheets round beyond 15 digits.
AMOUNTS: Final = ("green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall")


class UserDetails(Protocol):
    """All users of a run, read anew at each use, in the order of the records' ids and in constant memory."""

    def __iter__(self) -> Iterator[UserDetail]:
        """Yield every user's line."""

    def problems(self, limit: int) -> list[UserDetail]:
        """Return the first ``limit`` users who failed or were skipped."""

    def copy_csv(self, stream: BinaryIO) -> bool:
        """Let the database write all lines as CSV, without a head; return False where it cannot."""


@dataclass(frozen=True, slots=True)
class ProblemClass:
    """Users who failed, or were skipped, for one reason: how many, the message, and record ids as examples."""

    name: str
    users: int
    message: str
    examples: Sequence[int]


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Conversions whose mana has so many digits: from ``low`` to ``high`` mana, both included; 0 is a class."""

    low: int
    high: int | None
    users: int
    mana: int


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One batch: its id, users, failures, times it was tried again, when it began and how long it took (seconds)."""

    batch: int
    users: int
    failed: int
    attempts: int
    started_at: datetime | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Performance:
    """How fast the run was; durations are seconds per batch, None where no batch was done.

    A batch's duration is that of the attempt that succeeded: ``failed_attempts`` counts the others, whose time is part
    of ``outside`` (seconds of the run, without pauses, beyond those of its batches; 0 where several worked at once).
    ``progress`` is (time, users handled so far) at equal distances, ``users_per_minute`` the rate
    between its points.
    """

    batches: int
    p50: float | None
    p95: float | None
    longest: float | None
    mean: float | None
    failed_attempts: int
    outside: float
    progress: Sequence[tuple[datetime, int]]
    users_per_minute: Sequence[tuple[datetime, float]]
    slowest: Sequence[BatchLine]


@dataclass(frozen=True, slots=True)
class Reversals:
    """What one rollback took back of this run, or this rollback of one run."""

    run: int
    users: int
    green: int
    blue: int
    red: int
    credited: int
    debited: int
    written_off: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One migration run among all of the database: a first part of the users, or the rest.

    ``cohort`` is its share in hundredths of a percent and ``limit`` its greatest number of users; None: no bound.
    """

    run: int
    status: str
    cohort: int | None
    limit: int | None
    started_at: datetime
    selected: int
    migrated: int
    skipped: int
    failed: int
    mana: int


@dataclass(frozen=True, slots=True)
class RecordSum:
    """The records of one run, outcome and rollback, summed up; ``reversal_run``: None where they were not reversed."""

    run: int
    status: str
    reversal_run: int | None
    users: int
    green: int
    blue: int
    red: int
    mana_before: int
    mana_credited: int
    mana_debited: int
    shortfall: int


@dataclass(frozen=True, slots=True)
class StatusSum:
    """The records of one outcome, summed up."""

    status: str
    users: int
    green: int
    blue: int
    red: int
    mana_before: int
    mana_credited: int
    mana_debited: int
    shortfall: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """One amount as two sources have it; they agree to the unit or the ledger is wrong."""

    what: str
    first: str
    first_value: int
    second: str
    second_value: int

    @property
    def ok(self) -> bool:
        """Say whether both sources have the same amount."""
        return self.first_value == self.second_value


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Value before and after, in mana at the run's rates, and the sources that must agree.

    before + written off = after: ``mana_after`` (credited and not debited since, or for a rollback
    what it could not debit) plus ``wishes_after`` (the worth of the wishes given back).
    """

    before: int
    converted: int
    written_off: int
    mana_after: int
    wishes_after: int
    agreements: Sequence[Agreement]

    @property
    def after(self) -> int:
        """Return the value afterwards."""
        return self.mana_after + self.wishes_after

    @property
    def difference(self) -> int:
        """Return what is missing (negative) or too much (positive); 0 where they agree."""
        return self.after - self.before - self.written_off

    @property
    def ok(self) -> bool:
        """Say whether everything agrees to the unit."""
        return self.difference == 0 and all(agreement.ok for agreement in self.agreements)


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run in full.  ``details`` streams its users; all else is small, whatever the run's size.

    ``records_deleted`` counts users whose records a rollback with --no-preserve-logs has deleted.
    ``since`` limits ``details`` to what was done to users from then on, and ``listed`` sums those up by outcome.
    ``validation`` is what the integrity checks found when the report was made, None if not asked for.
    """

    generated_at: datetime
    time_zone: str
    snapshot: RunSnapshot
    statuses: Sequence[StatusSum]
    records: int
    records_deleted: int
    errors: Sequence[ProblemClass]
    skips: Sequence[ProblemClass]
    sizes: Sequence[SizeClass]
    performance: Performance
    stages: Sequence[Stage]
    reversals: Sequence[Reversals]
    shortfalls: Sequence[UserDetail]
    shortfall_users: int
    reconciliation: Reconciliation
    validation: ValidationReport | None
    resources: Sequence[Figure]
    since: datetime | None
    listed: Sequence[StatusSum]
    details: UserDetails

    @property
    def users_listed(self) -> int:
        """Return how many users ``details`` yields."""
        return sum(part.users for part in self.listed)


@dataclass(frozen=True, slots=True)
class UsersLeft:
    """Users who are not migrated: what last became of them, why, how many, and record ids as examples."""

    state: str
    reason: str
    users: int
    examples: Sequence[int]


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run of the whole migration, with who started it and the head of its chain of digests."""

    run: int
    kind: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    actor: str
    reason: str
    totals: Totals
    chain_head: str


@dataclass(frozen=True, slots=True)
class Act:
    """What a person did: when, to which run (None: to none), what, who, and why."""

    at: datetime
    run: int | None
    what: str
    actor: str
    message: str


@dataclass(frozen=True, slots=True)
class WholeValue:
    """The value of all wallets from the start of the first run to now, in mana at the rates.

    ``changes`` are what was booked since, by what it was; ``after`` is what all wallets are worth now.
    """

    first_run: int
    before: int
    changes: Sequence[tuple[str, int]]
    after: int

    @property
    def difference(self) -> int:
        """Return what is in no ledger: too much, or missing (negative); 0 where there is no difference."""
        return self.after - self.before - sum(amount for _, amount in self.changes)


@dataclass(frozen=True, slots=True)
class WholeReport:
    """The whole migration: all runs, from the first to now.  ``details`` streams the users' final records.

    ``value`` is None where no run has taken the sums, or the rates have changed since.
    """

    generated_at: datetime
    time_zone: str
    statistics: Statistics
    left: Sequence[UsersLeft]
    value: WholeValue | None
    runs: Sequence[RunEntry]
    acts: Sequence[Act]
    validation: ValidationReport | None
    resources: Sequence[Figure]
    since: datetime | None
    listed: Sequence[StatusSum]
    details: UserDetails

    @property
    def users_listed(self) -> int:
        """Return how many users ``details`` yields."""
        return sum(part.users for part in self.listed)


AnyReport = RunReport | WholeReport


@dataclass(frozen=True, slots=True)
class ReportToCome:
    """What of a report is known at once; ``whole`` returns all of it, when it has been gathered.

    ``run`` is None of the report of the whole migration.
    """

    run: int | None
    generated_at: datetime
    details: UserDetails
    whole: Callable[[], AnyReport]
