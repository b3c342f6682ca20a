"""A report as tables of plain cells: the one source of every format, so that all of them say the same.

The report of one run names no person.  That of the whole migration, which is signed and kept for the audit, names who
started, changed, fixed and rolled back what; users are record ids in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from mana_migration.domain.progress import rates_over_time
from mana_migration.domain.report import (
    AMOUNTS,
    AnyReport,
    ProblemClass,
    RunReport,
    SizeClass,
    Stage,
    UserDetail,
    WholeReport,
)
from mana_migration.domain.validation import BY_ID, errors_in_words
from mana_migration.reports.formatting import number, one_line, when
from mana_migration.reports.run_lines import controls_words, headline

Cell = int | float | str | datetime | None

#: Lines of the table of users over time; the JSON has all points.
SPEED_ROWS: Final = 20

#: The largest whole number that a spreadsheet, which computes in floating point, keeps exactly.
SPREADSHEET_MAX: Final = 10**15

#: What is said beside users whose amounts a spreadsheet would round.
SPREADSHEET_NOTE: Final = (
    "Numbers of more than 15 digits are text here, because a spreadsheet would round them. "
    "SUM leaves text out: the exact sums are in the table 'Totals of the users'."
)

#: The same of a CSV file, which a spreadsheet may open.
CSV_NOTE: Final = (
    "Some numbers have more than 15 digits: a spreadsheet rounds them when it opens the file. "
    "--text-amounts keeps them; the exact sums are in the summary, section totals."
)

#: Columns that hold seconds, shares and moments are named so; all other numbers are counts or amounts.
USER_COLUMNS: Final = UserDetail._fields


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a report: a key for programs, a title, what it shows, and its rows.

    ``ok`` says whether what the table compares holds; None where it compares nothing.
    """

    key: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    ok: bool | None = None


def sections(report: AnyReport) -> list[Section]:
    """Return all tables of a report but the users; those without rows are left out, save the important ones."""
    found = _of_all(report) if isinstance(report, WholeReport) else _of_run(report)
    return [section for section in found if section.rows or section.key in ("reconciliation", "integrity", "errors")]


def title(report: AnyReport) -> str:
    """Return what a report is about, in a few words."""
    return "Whole migration" if isinstance(report, WholeReport) else headline(report.snapshot)


def _of_all(report: WholeReport) -> list[Section]:
    return [
        _site(report),
        _site_figures(report),
        _whole_value(report),
        _integrity(report),
        _left(report),
        _all_runs(report),
        _acts(report),
        _latest(report),
        _resources(report),
        _listed(report),
    ]


def _of_run(report: RunReport) -> list[Section]:
    return [
        _run(report),
        _users(report),
        _mana(report),
        _reconciliation(report),
        _agreements(report),
        _integrity(report),
        _problems("errors", "Errors", "Users who failed, by class.", report.errors),
        _problems("skipped", "Skipped", "Users who were left out, by reason.", report.skips),
        _sizes(report),
        _performance(report),
        _durations(report),
        _speed(report),
        _slowest(report),
        _stages(report),
        _rollbacks(report),
        _shortfalls(report),
        _events(report),
        _resources(report),
        _listed(report),
    ]


def contents(report: AnyReport, found: Sequence[Section]) -> Section:
    """Return the table of a report's tables, with what each comes to."""
    rows: list[tuple[Cell, ...]] = [(section.title, verdict(section), section.note) for section in found]
    rows.append(("Users", "", f"{number(report.users_listed)} users by record id. {spreadsheet_note(report)}".rstrip()))
    return Section("contents", "Contents", "", ("table", "verdict", "note"), rows)


def verdict(section: Section) -> str:
    """Return what a comparing table comes to."""
    return "" if section.ok is None else "OK" if section.ok else "NOT OK"


def spreadsheet_note(report: AnyReport) -> str:
    """Say where amounts of the users are too long for a spreadsheet, and where their sums are; empty: nowhere."""
    largest = max((abs(getattr(part, name)) for part in report.listed for name in AMOUNTS), default=0)
    if largest <= SPREADSHEET_MAX:
        return ""  # no single amount can be longer than the sum of all
    return SPREADSHEET_NOTE


def size_words(size: SizeClass) -> str:
    """Name a class of conversions by its mana: 1,000 to 9,999."""
    if size.high is None:
        return f"{number(size.low)} and more"
    return number(size.low) if size.low == size.high else f"{number(size.low)} to {number(size.high)}"


def _run(report: RunReport) -> Section:
    seen = report.snapshot
    rows: list[tuple[Cell, ...]] = [
        ("run", seen.run),
        ("kind", seen.kind),
        ("status", seen.status),
        ("started", seen.started_at),
        ("finished", seen.finished_at),
        ("seconds", round(seen.elapsed, 3)),
        ("seconds without pauses", round(seen.worked, 3)),
        ("settings", controls_words(seen)),
        ("reason", one_line(seen.reason)),
        ("ended because", one_line(seen.stop_reason)),
        ("rolls back run", seen.target_run),
        ("head of the chain of digests", "" if seen.chain is None else seen.chain.head),
        ("links in the chain", None if seen.chain is None else seen.chain.links),
        ("report made", report.generated_at),
        ("users listed since", report.since),
        ("time zone", report.time_zone),
    ]
    return Section("run", "Run", "", ("what", "value"), [row for row in rows if row[1] not in ("", None)])


def _users(report: RunReport) -> Section:
    totals = report.snapshot.totals
    rows: list[tuple[Cell, ...]] = [
        ("expected at the start", report.snapshot.progress.expected),
        ("selected", totals.selected),
        ("migrated", totals.migrated),
        ("rolled back by this run", totals.rolled_back),
        ("skipped", totals.skipped),
        ("failed", totals.failed),
        ("records kept", report.records),
    ]
    if report.records_deleted:
        rows.append(("records deleted by a rollback", report.records_deleted))
    rows += [(f"records now {part.status.replace('_', ' ')}", part.users) for part in report.statuses]
    note = "What the run did, from its batches; and the status of its users' records now, after any rollback."
    return Section("users", "Users by outcome", note, ("outcome", "users"), [row for row in rows if row[1] is not None])


def _mana(report: RunReport) -> Section:
    seen, totals = report.snapshot, report.snapshot.totals
    rows: list[tuple[Cell, ...]] = [
        (colour, getattr(totals, colour), seen.rates.get(colour), seen.mana_by_colour.get(colour))
        for colour in ("green", "blue", "red")
    ]
    rows.append(("total", totals.green + totals.blue + totals.red, None, totals.mana))
    if totals.shortfall:
        rows.append(("written off", None, None, totals.shortfall))
    what = "Wishes given back and mana debited" if seen.is_rollback else "Wishes converted and mana credited"
    return Section("mana", "Wishes and mana", f"{what}.", ("colour", "wishes", "rate", "mana"), rows)


def _reconciliation(report: RunReport) -> Section:
    books = report.reconciliation
    rows: list[tuple[Cell, ...]] = [
        ("before", books.before),
        ("converted", books.converted),
        ("written off", books.written_off),
        ("after, as mana", books.mana_after),
        ("after, as wishes given back", books.wishes_after),
        ("after", books.after),
        ("difference", books.difference),
    ]
    note = "Value in mana at the run's rates. Before + written off = after, to the unit: " + (
        "it agrees." if books.difference == 0 else f"it does NOT agree, by {number(books.difference)}."
    )
    return Section("reconciliation", "Reconciliation", note, ("what", "mana"), rows, ok=books.ok)


def _agreements(report: RunReport) -> Section:
    books = report.reconciliation
    rows = [
        (line.what, line.first, line.first_value, line.second, line.second_value, "yes" if line.ok else "NO")
        for line in books.agreements
    ]
    note = "The same amounts from independent sources."
    if report.records_deleted:
        note += f" {number(report.records_deleted)} deleted records could not be compared."
    ok = all(line.ok for line in books.agreements)
    columns = ("amount", "source", "value", "other source", "other value", "agree")
    return Section("agreements", "Sources compared", note, columns, rows, ok=ok)


def _integrity(report: AnyReport) -> Section:
    validation = report.validation
    if validation is None:
        made = [("all checks", "not made")]
        return Section("integrity", "Data integrity", "Not checked for this report.", ("check", "findings"), made)
    rows = [
        (check.id, check.severity, check.count, check.fixed, BY_ID[check.id].sentence if check.id in BY_ID else "")
        for check in validation.checks
    ]
    note = (
        "No error-level finding."
        if validation.ok
        else f"{errors_in_words(validation.error_count)}; see validate_migration."
    )
    if validation.kept_at is not None:
        moment = when(validation.kept_at, ZoneInfo(report.time_zone))
        note = f"{note} This was found at the end of the run, {moment}; --validate checks again."
    columns = ("check", "severity", "findings", "fixed", "meaning")
    return Section("integrity", "Data integrity", note, columns, rows, ok=validation.ok)


def _problems(key: str, title: str, note: str, problems: Sequence[ProblemClass]) -> Section:
    rows = [
        (problem.name, problem.users, one_line(problem.message, 10_100), " ".join(map(str, problem.examples)))
        for problem in problems
    ]
    return Section(key, title, note if rows else "None.", ("class", "users", "message", "example records"), rows)


def _sizes(report: RunReport) -> Section:
    rows = [(size_words(size), size.users, size.mana) for size in report.sizes]
    return Section("sizes", "Conversions by size", "", ("mana of one user", "users", "mana"), rows)


def _performance(report: RunReport) -> Section:
    seen, speed = report.snapshot, report.performance
    rows: list[tuple[Cell, ...]] = [
        ("batches", speed.batches),
        ("median batch, seconds", _rounded(speed.p50)),
        ("95 % of batches within, seconds", _rounded(speed.p95)),
        ("longest batch, seconds", _rounded(speed.longest)),
        ("mean batch, seconds", _rounded(speed.mean)),
        ("attempts that failed", speed.failed_attempts),
        ("seconds beyond the batches", _rounded(speed.outside, 3)),
        ("users per minute on average", _rounded(seen.progress.rate_average, 1)),
    ]
    note = (
        "A batch's duration is that of the attempt that succeeded. Failed attempts, planning, waiting and the checks "
        "at the end are beyond the batches."
    )
    return Section("performance", "Performance", note, ("what", "value"), [row for row in rows if row[1] is not None])


def _durations(report: RunReport) -> Section:
    rows = [("longer" if bound == "+Inf" else bound, batches) for bound, batches in report.snapshot.durations]
    return Section("durations", "Batch durations", "", ("up to seconds", "batches"), rows)


def _speed(report: RunReport) -> Section:
    start = report.snapshot.started_at
    shown = _thinned(start, report.performance.progress)
    rates = rates_over_time(start, shown)
    rows = [(at, users, round(rate, 1)) for (at, users), (_, rate) in zip(shown, rates, strict=True)]
    columns = ("time", "users handled so far", "users per minute")
    return Section("speed", "Users over time", "", columns, rows if len(rows) > 1 else [])


def _thinned(start: datetime, series: Sequence[tuple[datetime, int]]) -> list[tuple[datetime, int]]:
    """Return points of a series with at least a second between them, evenly spread, at most SPEED_ROWS; the last is in.

    A time is written to the second, so that points that are closer could not be distinguished.
    """
    if not series:
        return []
    end = series[-1][0]
    least = max((end - start).total_seconds() / SPEED_ROWS, 1.0) * 0.999  # the points are not quite evenly spread
    found: list[tuple[datetime, int]] = []
    for at, users in reversed(series):
        before = found[-1][0] if found else None
        far_enough = before is None or (before - at).total_seconds() >= least
        if far_enough and (before is None or (at - start).total_seconds() >= least):
            found.append((at, users))
    return found[::-1]


def _slowest(report: RunReport) -> Section:
    rows = [
        (line.batch, line.users, line.failed, line.attempts, line.started_at, _rounded(line.seconds))
        for line in report.performance.slowest
    ]
    columns = ("batch", "users", "failed", "tried again", "started", "seconds")
    return Section("slowest", "Slowest batches", "", columns, rows)


def _stages(report: RunReport) -> Section:
    rows = [
        (s.run, s.status, s.started_at, _share(s), s.selected, s.migrated, s.skipped, s.failed, s.mana)
        for s in report.stages
    ]
    columns = ("run", "status", "started", "part", "users", "migrated", "skipped", "failed", "mana")
    note = "The migration runs of this database, in which its users were converted part by part."
    return Section("stages", "Stages", note, columns, rows if len(rows) > 1 else [])


def _share(stage: Stage) -> str:
    parts = [] if stage.cohort is None else [f"{stage.cohort / 100:g} % of the users"]
    parts += [] if stage.limit is None else [f"at most {number(stage.limit)}"]
    return ", ".join(parts) or "all who are left"


def _rollbacks(report: RunReport) -> Section:
    rows = [
        (part.run, part.users, part.green, part.blue, part.red, part.credited, part.debited, part.written_off)
        for part in report.reversals
    ]
    rollback = report.snapshot.is_rollback
    note = "Conversions that this run reversed, by their run." if rollback else "Conversions reversed, by rollback."
    columns = ("run", "users", "green", "blue", "red", "mana credited", "mana debited", "written off")
    return Section("rollbacks", "Rollbacks", note, columns, rows)


def _shortfalls(report: RunReport) -> Section:
    rows = [
        (line.record, line.status, line.mana_credited, line.mana_debited, line.shortfall) for line in report.shortfalls
    ]
    note = f"{number(report.shortfall_users)} users had already spent mana"
    note += f"; the {number(len(rows))} largest shortfalls are listed." if len(rows) < report.shortfall_users else "."
    columns = ("record", "status", "mana credited", "mana debited", "shortfall")
    return Section("shortfalls", "Shortfalls", note, columns, rows)


def _events(report: RunReport) -> Section:
    rows = [(event.at, event.label, one_line(event.message)) for event in report.snapshot.events]
    return Section("events", "Latest events", "", ("time", "event", "message"), rows)


def _resources(report: AnyReport) -> Section:
    note = "The database and this process when the report was made. Where a run is slow, look here first."
    return Section("resources", "System resources", note, ("what", "value", "unit"), list(report.resources))


def _listed(report: AnyReport) -> Section:
    """Return the exact sums of the users' columns, which a spreadsheet cannot compute."""
    columns = ("status", "users", *AMOUNTS)
    rows: list[tuple[Cell, ...]] = [tuple(getattr(part, name) for name in columns) for part in report.listed]
    total: tuple[Cell, ...] = (
        "all",
        *(sum(int(getattr(part, name)) for part in report.listed) for name in columns[1:]),
    )
    note = "Exact sums over the users listed one by one"
    note += (
        "."
        if report.since is None
        else f", those handled or rolled back since {when(report.since, ZoneInfo(report.time_zone))}."
    )
    return Section("totals", "Totals of the users", note, columns, [*rows, total] if rows else [])


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


# --- The whole migration ----------------------------------------------------------------------------------------------


def _site(report: WholeReport) -> Section:
    counts = report.statistics.users
    never = counts.pending - counts.failed - counts.skipped - counts.rolled_back
    rows: list[tuple[Cell, ...]] = [
        ("all users with a wallet", counts.total),
        ("migrated", counts.migrated),
        ("pending", counts.pending),
        ("pending: failed", counts.failed),
        ("pending: skipped", counts.skipped),
        ("pending: rolled back", counts.rolled_back),
        ("pending: never handled", never),
    ]
    made = when(report.generated_at, ZoneInfo(report.time_zone))
    note = f"Where all users are now, whatever run handled them. Report made {made}."
    return Section("users", "Users by outcome", note, ("outcome", "users"), rows, ok=not counts.pending)


def _site_figures(report: WholeReport) -> Section:
    site = report.statistics
    rows: list[tuple[Cell, ...]] = [
        ("mana in the system", site.mana),
        ("green wishes left", site.green),
        ("blue wishes left", site.blue),
        ("red wishes left", site.red),
        ("average mana of migrated users", round(site.average_mana, 2)),
        ("largest mana of a migrated user", site.largest_mana),
        ("smallest mana of a migrated user", site.smallest_mana),
        ("wallets with a negative balance", site.negative_balances),
    ]
    return Section("site", "Site", "Over all wallets.", ("what", "value"), rows)


def _whole_value(report: WholeReport) -> Section:
    value = report.value
    columns = ("what", "mana")
    if value is None:
        note = "Not compared: no run has taken the sums before it began, or the rates have changed since."
        return Section("reconciliation", "Reconciliation", note, columns, [])
    rows: list[tuple[Cell, ...]] = [
        (f"before, at the start of run {value.first_run}", value.before),
        *value.changes,
        ("after, now", value.after),
        ("difference", value.difference),
    ]
    note = "Value of all wallets in mana at the rates. Before + what was booked since = after, to the unit: " + (
        "it agrees."
        if not value.difference
        else f"it does NOT agree, by {number(value.difference)}, which is in no ledger: writes to unmigrated wallets "
        "that do not go through the wallet service look like this."
    )
    return Section("reconciliation", "Reconciliation", note, columns, rows, ok=not value.difference)


def _left(report: WholeReport) -> Section:
    rows = [
        (part.state.replace("_", " "), part.reason, part.users, " ".join(map(str, part.examples)))
        for part in report.left
    ]
    note = "Users who are not migrated, by what last became of them and why." if rows else "None."
    return Section("left", "Users who are left", note, ("state", "reason", "users", "example records"), rows)


def _all_runs(report: WholeReport) -> Section:
    rows = [
        (
            run.run,
            run.kind,
            run.status,
            run.started_at,
            run.finished_at,
            run.actor,
            one_line(run.reason),
            run.totals.selected,
            run.totals.migrated,
            run.totals.rolled_back,
            run.totals.skipped,
            run.totals.failed,
            run.totals.mana,
            run.totals.shortfall,
            run.chain_head,
        )
        for run in report.runs
    ]
    columns = (
        "run", "kind", "status", "started", "finished", "by", "reason", "users", "migrated", "rolled back", "skipped",
        "failed", "mana", "written off", "head of the chain of digests",
    )  # fmt: skip
    return Section("runs", "Runs", "Every run, the oldest first.", columns, rows)


def _acts(report: WholeReport) -> Section:
    rows = [(act.at, act.run, act.what, act.actor, one_line(act.message)) for act in report.acts]
    columns = ("time", "run", "what", "by", "message")
    return Section("acts", "Who did what", "Starts, changes, fixes and ends of runs.", columns, rows)


def _latest(report: WholeReport) -> Section:
    rows = [(one.at, one.record, one.run, one.mana) for one in report.statistics.latest]
    return Section("latest", "Latest conversions", "", ("time", "record", "run", "mana"), rows)
