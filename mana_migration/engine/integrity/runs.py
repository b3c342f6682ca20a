"""The checks of whole runs: sums of records, batches and ledger, and every selected user processed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.validation import Finding
from mana_migration.engine import dialect
from mana_migration.engine.integrity.ledger import FORGETFUL
from mana_migration.engine.integrity.records import RecordScan, RecordSums
from mana_migration.engine.integrity.scope import Scope, rows
from mana_migration.engine.integrity.value import LedgerSums
from mana_migration.states import RunStatus
from wishes.rates import COLOURS

_MONEY: Final = (*COLOURS, "mana", "shortfall")
_NUMBERS: Final = ("migrated", "rolled_back", "skipped", "failed")


@dataclass(slots=True)
class RunSums:
    """What the batches, the records and the ledger say of one run, side by side.

    ``records`` are sums over the run's own records; ``reversed`` over the records it took back.
    ``credited`` and ``debited`` are what the ledger's entries of those say.
    """

    run: int
    kind: str
    status: str
    finished: bool
    rates: Mapping[str, int] | None
    forgetful: bool
    planned: int = 0
    batches: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    records: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    reversed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    credited: int = 0
    debited: int = 0

    def worth(self, figures: Mapping[str, int]) -> int | None:
        """Return what wishes are worth at the run's own rates, None where it has none."""
        return None if self.rates is None else sum(figures[colour] * self.rates[colour] for colour in COLOURS)


def gather(connection: BaseDatabaseWrapper, scan: RecordScan, run: int | None) -> dict[int, RunSums]:
    """Return the sums of every run, or of one, by run."""
    only = Scope(run=run)
    found = {int(row[0]): _run(row) for row in _runs(connection, only)}
    for run_id, figures in _batches(connection, only):
        found[run_id].planned = figures.pop("planned")
        found[run_id].batches.update(figures)
    for part in scan.parts:
        _add_records(found, part)
    return found


def add_unrecorded(connection: BaseDatabaseWrapper, found: Mapping[int, RunSums]) -> None:
    """Add what the ledger says of conversions without a record: they name their run in their reference."""
    for run_id, credited in _entries(connection):
        if run_id in found:
            found[run_id].credited = credited


def _add_records(found: dict[int, RunSums], part: RecordSums) -> None:
    own = found.get(part.run)
    if own is not None:
        for name in _NUMBERS:
            own.records[name] += part.numbers[name]
        for name in (*COLOURS, "mana"):
            own.records[name] += part.sums[name]
        own.credited += part.sums["credited_entries"]
    back = None if part.reversal_run is None else found.get(part.reversal_run)
    if back is not None:
        back.reversed["users"] += part.numbers["rolled_back"]
        for name in COLOURS:
            back.reversed[name] += part.sums[name]
        back.reversed["mana"] += part.sums["debited"]
        back.reversed["shortfall"] += part.sums["shortfall"]
        back.debited += part.sums["debited_entries"]


def _runs(connection: BaseDatabaseWrapper, scope: Scope) -> list[tuple[Any, ...]]:
    vendor = connection.vendor
    rate = "o.rates->>'{}'" if vendor == "postgresql" else "json_extract(o.rates, '$.{}')"
    rates = ", ".join(rate.format(colour) for colour in COLOURS)
    only = "" if scope.run is None else "WHERE o.id = %(run)s"
    return rows(
        connection,
        f"SELECT o.id, o.kind, o.status, o.finished_at IS NOT NULL, {FORGETFUL[vendor]}, {rates} "
        f"FROM mana_migration_migrationrun o {only}",
        scope,
    )


def _run(row: tuple[Any, ...]) -> RunSums:
    run, kind, status, finished, forgetful, *rates = row
    frozen = None if None in rates else {colour: int(rate) for colour, rate in zip(COLOURS, rates, strict=True)}
    return RunSums(int(run), kind, status, bool(finished), frozen, bool(forgetful))


def _batches(connection: BaseDatabaseWrapper, scope: Scope) -> Iterator[tuple[int, dict[str, int]]]:
    vendor = connection.vendor
    done = "CASE WHEN b.status = 'done' THEN b.{} ELSE 0 END"
    numbers = ", ".join(f"SUM({done.format(name)})" for name in (*_NUMBERS, "selected"))
    money = ", ".join(dialect.exact_sum(vendor, done.format(name)) for name in _MONEY)
    # users without a wallet are counted in a batch, but have no record
    reason = "b.skips->>'no_wallet'" if vendor == "postgresql" else "json_extract(b.skips, '$.no_wallet')"
    only = "" if scope.run is None else "WHERE b.run_id = %(run)s"
    found = rows(
        connection,
        f"SELECT b.run_id, COUNT(*) FILTER (WHERE b.status = 'planned'), {numbers}, "
        f"COALESCE(SUM(CASE WHEN b.skipped > 0 THEN CAST({reason} AS bigint) END), 0), {money} "
        f"FROM mana_migration_migrationbatch b {only} GROUP BY b.run_id",
        scope,
    )
    for run, planned, *rest in found:
        names = (*_NUMBERS, "selected", "unrecorded")
        figures = {"planned": int(planned)} | dict(zip(names, map(int, rest[: len(names)]), strict=True))
        parts = rest[len(names) :]
        for name, first, second in zip(_MONEY, parts[::2], parts[1::2], strict=True):
            figures[name] = dialect.combine(vendor, first, second)
        yield int(run), figures


def _entries(connection: BaseDatabaseWrapper) -> Iterator[tuple[int, int]]:
    vendor = connection.vendor
    run = "split_part(e.reference, ':', 2)" if vendor == "postgresql" else "substr(e.reference, 12)"
    shape = "e.reference ~ '^conversion:[0-9]{1,18}:'" if vendor == "postgresql" else "e.reference LIKE 'conversion:%%'"
    found = rows(
        connection,
        f"SELECT CAST({run} AS bigint), {dialect.exact_sum(vendor, 'e.amount')} FROM wishes_manaentry e "
        f"WHERE e.kind = 'conversion' AND {shape} GROUP BY 1",
        Scope(),
    )
    for run_id, first, second in found:
        yield int(run_id), dialect.combine(vendor, first, second)


# --- What must agree --------------------------------------------------------------------------------------------------


def incomplete(found: Iterable[RunSums]) -> Iterator[Finding]:
    """Yield a finding for everything that a run's batches do not account for."""
    runs = list(found)
    opened = [run for run in runs if RunStatus(run.status).is_open]
    for run in opened[1:]:
        yield _finding("run_incomplete", run, "open beside another open run", other_run=opened[0].run)
    for run in runs:
        batches, records = run.batches, run.records
        if run.status == RunStatus.COMPLETED and run.planned:
            yield _finding("run_incomplete", run, "completed although batches are left to do", batches_left=run.planned)
        if run.status == RunStatus.COMPLETED and not run.finished:
            yield _finding("run_incomplete", run, "completed without a moment when it was")
        accounted = sum(batches[name] for name in _NUMBERS)
        if accounted != batches["selected"]:
            yield _finding(
                "run_incomplete", run, "outcomes do not add up", selected=batches["selected"], accounted=accounted
            )
        for name, counted in (("skipped", batches["skipped"] - batches["unrecorded"]), ("failed", batches["failed"])):
            if counted != records[name]:
                yield _finding(
                    "run_incomplete", run, f"batches and records count other users as {name}",
                    batches=counted, records=records[name],
                )  # fmt: skip


def not_conserved(found: Mapping[int, RunSums], *, forgetful: bool, booked: LedgerSums | None) -> Iterator[Finding]:
    """Yield a finding for every sum that differs.

    ``forgetful``: some rollback has deleted its records (--no-preserve-logs), so that those of a run may be gone.
    ``booked``: sums over the whole ledger, see ``ledger_sums``; None where not all runs are looked at.
    """
    missing = 0
    for run in found.values():
        if run.kind == "rollback":
            yield from _reversals(run)
            missing -= run.batches["rolled_back"] - run.reversed["users"]
            continue
        missing += run.batches["migrated"] - _converted(run)
        if run.kind == "migration":
            yield from _conversions(run, may_lack_records=forgetful)
    if booked is None:
        return
    if missing:
        yield Finding(
            "value_not_conserved",
            figures={"users": missing},
            reason="records of conversions are missing that no rollback has deleted"
            if missing > 0
            else "there are more records of conversions than batches counted",
        )
    yield from _ledger(found, booked)


def _converted(run: RunSums) -> int:
    return run.records["migrated"] + run.records["rolled_back"]


def _conversions(run: RunSums, *, may_lack_records: bool) -> Iterator[Finding]:
    batches = run.batches
    worth = run.worth(batches)
    if worth != batches["mana"]:
        yield _finding(
            "value_not_conserved", run, "the batches' wishes are not worth the batches' mana",
            worth=worth, mana=batches["mana"],
        )  # fmt: skip
    if run.credited != batches["mana"]:
        yield _finding(
            "value_not_conserved", run, "the ledger's conversions are not the batches' mana",
            ledger=run.credited, batches=batches["mana"],
        )  # fmt: skip
    # Of a run whose records were deleted, the ledger and the batches above are what is left to compare.
    if batches["migrated"] > _converted(run) and may_lack_records:
        return
    for name, label in (*((colour, f"{colour} wishes") for colour in COLOURS), ("mana", "mana")):
        if run.records[name] != batches[name]:
            yield _finding(
                "value_not_conserved", run, f"records and batches converted different {label}",
                records=run.records[name], batches=batches[name],
            )  # fmt: skip
    if batches["migrated"] != _converted(run):
        yield _finding(
            "value_not_conserved", run, "records and batches count different conversions",
            records=_converted(run), batches=batches["migrated"],
        )  # fmt: skip


def _reversals(run: RunSums) -> Iterator[Finding]:
    if run.forgetful:
        return  # its records are gone; the ledger as a whole is compared instead
    if run.debited != run.batches["mana"]:
        yield _finding(
            "value_not_conserved", run, "the ledger's reversals are not the batches' mana",
            ledger=run.debited, batches=run.batches["mana"],
        )  # fmt: skip
    pairs = [("users", "rolled_back"), *((name, name) for name in _MONEY)]
    for name, column in pairs:
        if run.reversed[name] != run.batches[column]:
            yield _finding(
                "value_not_conserved", run, f"records and batches took back different {name}",
                records=run.reversed[name], batches=run.batches[column],
            )  # fmt: skip


def _ledger(found: Mapping[int, RunSums], booked: LedgerSums) -> Iterator[Finding]:
    back = [run for run in found.values() if run.kind == "rollback"]
    debited = sum(run.batches["mana"] for run in back)
    converted, taken_back = booked.of("conversion"), -booked.of("reversal")
    if debited != taken_back:
        yield Finding(
            "value_not_conserved",
            figures={"ledger": taken_back, "batches": debited},
            reason="the ledger's reversals are not the mana of the rollbacks' batches",
        )
    credited = sum(run.batches["mana"] for run in found.values() if run.kind == "migration")
    if credited != converted:
        yield Finding(
            "value_not_conserved",
            figures={"ledger": converted, "batches": credited},
            reason="the ledger's conversions are not the mana of the migrations' batches",
        )
    # Conversions less reversals that are explained by no record any more are what was written off with them.
    live = sum(run.records["mana"] for run in found.values()) - sum(run.reversed["mana"] for run in back)
    kept = sum(run.reversed["shortfall"] for run in back)
    written_off = sum(run.batches["shortfall"] for run in back)
    if converted - taken_back - live != written_off - kept:
        yield Finding(
            "value_not_conserved",
            figures={
                "ledger": converted - taken_back,
                "records": live,
                "written_off": written_off - kept,
            },
            reason="what the ledger converted and took back is neither on records nor written off",
        )


def _finding(check: str, run: RunSums, reason: str, **figures: int | None) -> Finding:
    return Finding(check, run=run.run, figures=figures, reason=reason)
