"""Import the old system's balances: everything or nothing, in one transaction.

The rows are read into a temporary table, checked there, and written with set-based SQL; see
``engine.staging`` and ``engine.import_load``.

# Note [What an import adds]
An import is the only way in which value enters the wallets from outside.  It is recorded, in the
transaction that does it, as a run of kind import whose ``baseline["imported"]`` holds the exact
change of the sums over all wallets, so that "no value was created or lost" can be checked at any
later moment: what imports added is added to what must be there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from typing import Final

from django.db import DatabaseError, IntegrityError, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration import conf
from mana_migration.domain.import_results import (
    CREATED,
    GIVEN,
    SHOWN_ROWS,
    UPDATED,
    WRITTEN,
    ImportOptions,
    ImportProgress,
    ImportSummary,
    RejectedRow,
)
from mana_migration.domain.legacy import (
    BALANCES,
    COLUMNS,
    LEDGER_COLUMNS,
    NULLABLE,
    Reason,
    RowParser,
    RowRules,
    decode_problem,
    explain,
)
from mana_migration.domain.options import Controls
from mana_migration.engine import (
    chain,
    dialect,
    failures,
    foreign,
    import_load,
    legacy_ledger,
    rejects,
    staging,
    totals,
)
from mana_migration.engine.new_users import user_template, username_normaliser, with_equal_names
from mana_migration.engine.sources import LegacySource, open_ledger, open_source
from mana_migration.errors import (
    DatabaseUnavailableError,
    ImportConflictError,
    ImportRejectedError,
    PreflightError,
    RunConflictError,
    UsageError,
)
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import logs, preflight, runs
from mana_migration.services.context import Actor
from mana_migration.states import BatchStatus, RunKind, RunStatus
from wishes import conf as wishes_conf

#: Users who arrive migrated in one batch of the import's run.
RECORDS_IN_BATCH: Final = 10_000

#: Seconds between two reports of progress.
REPORT_EVERY: Final = 5.0


def import_balances(
    options: ImportOptions,
    *,
    actor: Actor,
    using: str = "default",
    progress: ImportProgress | None = None,
) -> ImportSummary:
    """Import a legacy export: create users and wallets, or say why not.

    Nothing at all is imported while there are bad rows, unless they are to be skipped; the summary's
    ``status`` then is ``rejected``.  A dry run does the same up to the writing, in a transaction that
    PostgreSQL keeps read-only.

    Raises:
        PreflightError, DatabaseUnavailableError: the database is not fit.
        RunConflictError: a run is open, whose sums an import would change.
        SourceError: the source is not there, or not an export.
        ImportRejectedError: ids may be primary keys or usernames of the site's users.
        ReportError: a file of rejected rows cannot be written.
        ImportConflictError: others changed the same users meanwhile.
    """
    preflight.check(using, read_only=options.dry_run)
    if not options.dry_run:
        refuse_open_run(using)
    targets = [path for path in (options.rejects, options.rejects_with_values) if path is not None]
    for path in targets:
        rejects.check_target(path)
    if len(set(targets)) < len(targets):
        raise UsageError("--rejects and --rejects-with-values are the same file; give two names")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            open_source(
                options.source,
                columns={name: options.columns[name] for name in COLUMNS},
                table=options.table,
                sheet=options.sheet,
                backslash=options.backslash,
            )
        )
        ledger = None
        if options.ledger is not None:
            columns = {name: options.columns.get(name, usual) for name, usual in LEDGER_COLUMNS.items()}
            ledger = stack.enter_context(open_ledger(options.ledger, source, columns=columns))
        stack.enter_context(_temporary_tables_on_disk(connections[using]))
        return _Import(options, source, ledger, actor=actor, using=using, progress=progress).run()


def refuse_open_run(using: str) -> None:
    """Refuse to change the wallets under a run whose check compares their sums with those at its start.

    Raises:
        RunConflictError: a run is open.
    """
    other = runs.open_run_or_none(using)
    if other is not None:
        raise RunConflictError(f"nothing was imported: {runs.describe_conflict(other)}")


class _Import:
    """One import under way."""

    def __init__(
        self,
        options: ImportOptions,
        source: LegacySource,
        ledger: LegacySource | None,
        *,
        actor: Actor,
        using: str,
        progress: ImportProgress | None,
    ) -> None:
        self._options, self._source, self._ledger = options, source, ledger
        self._actor, self._using, self._connection = actor, using, connections[using]
        self._template = user_template(self._connection)
        self._rates = wishes_conf.rates()
        self._summary = ImportSummary(kind=source.kind, dry_run=options.dry_run)
        self._since = 0
        self._ticker = _Ticker(progress)

    def run(self) -> ImportSummary:
        """Do it all and return the summary."""
        summary = self._summary
        try:
            if self._connection.vendor == "sqlite" and not self._connection.in_atomic_block:
                self._run_beside_writers()
            else:
                with transaction.atomic(using=self._using):
                    self._read()
                    if self._decide():
                        staging.drop(self._connection)
                    else:
                        transaction.set_rollback(True, using=self._using)
        except IntegrityError as error:
            raise ImportConflictError(
                f"the database refused the users or wallets ({failures.describe(error)}); nothing was imported"
            ) from error
        except (DatabaseError, InterfaceError) as error:
            raise DatabaseUnavailableError(
                f"the database failed ({failures.describe(error)}); an import is done as a whole or not at all: "
                "give the command again, what is there already is left alone"
            ) from error
        summary.seconds = self._ticker.seconds
        logs.write(
            logging.INFO,
            f"import {summary.status}",
            run=summary.run,
            rows=summary.rows,
            imported=summary.imported,
            bad=summary.bad,
            errors=dict(summary.reasons),
            dry_run=summary.dry_run,
            seconds=round(summary.seconds, 3),
        )
        return summary

    def _run_beside_writers(self) -> None:
        """Read the rows before SQLite's only writer's lock is taken; a dry run never takes it."""
        dry_run = self._options.dry_run
        try:
            with _deferred_transaction(self._connection):
                self._read()
                if dry_run:
                    self._decide()
            if not dry_run:
                with transaction.atomic(using=self._using):
                    self._decide()
        finally:
            staging.drop(self._connection)

    def _decide(self) -> bool:
        """Check what was read and write what is to be written; return whether anything was to be."""
        self._check()
        summary = self._summary
        writes = summary.status == "completed" and not self._options.dry_run
        if writes and summary.imported:
            self._write()
        if summary.bad:
            self._write_rejects()
        return writes

    def _write_rejects(self) -> None:
        options, summary = self._options, self._summary
        if options.rejects is not None:
            self._ticker.say("writing the rejected rows")
            rejects.write_rejects(options.rejects, self._rejected(limit=None))
            summary.rejects = str(options.rejects)
        if options.rejects_with_values is not None:
            self._ticker.say("writing the rejected rows with their values")
            rejects.write_originals(options.rejects_with_values, self._source.header, self._rejected(limit=None))
            summary.rejects_with_values = str(options.rejects_with_values)

    def _read(self) -> None:
        _prepare(self._connection)
        self._template = with_equal_names(self._connection, self._template)
        staging.create(self._connection, self._template)
        if self._options.dry_run and self._connection.vendor == "postgresql":
            with self._connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION READ ONLY")  # temporary tables excepted
        rules = RowRules(
            typing=self._source.typing,
            worth=self._rates.worth,
            id_length=self._template.username_length,
            unpaid=self._options.unpaid,
            nulls=self._options.nulls,
            literal_ids=self._options.literal_ids,
            normalise=username_normaliser(),
            with_ledger=self._ledger is not None,
        )
        summary, source = self._summary, self._source
        summary.rows = staging.load(
            self._connection,
            source,
            RowParser(rules),
            self._template,
            keep=self._options.rejects_with_values is not None,
            on_rows=self._ticker.rows,
        )
        summary.part, summary.spanning, summary.notes = source.part, source.spanning, source.notes
        if self._ledger is not None:
            self._ticker.say("reading the old ledger")
            summary.ledger = {
                "entries": staging.load_ledger(self._connection, legacy_ledger.payments(self._ledger, rules))
            }
            self._ledger.close()
        source.close()  # release a legacy database before the writing begins

    def _check(self) -> None:
        self._ticker.say("looking for duplicates and existing users")
        staging.mark_duplicates(self._connection, self._template)
        summary = self._summary
        if summary.ledger is not None:
            found = staging.apply_ledger(self._connection, rates=self._rates.as_dict(), unpaid=self._options.unpaid)
            summary.ledger |= dataclasses.asdict(found)
        self._choose_match()
        for problem, duplicate, count in staging.bad_rows_by_reason(self._connection):
            summary.bad += count
            reasons = _reasons(problem, duplicate)
            summary.reasons.update(dict.fromkeys({reason.code for reason in reasons}, count))
            summary.shapes.update(dict.fromkeys({(reason.code, reason.shape) for reason in reasons}, count))
        if summary.bad:
            summary.rejected = list(self._rejected(limit=SHOWN_ROWS))
        import_load.classify(self._connection, self._template, update_existing=self._options.update_existing)
        for name in (*BALANCES, "left_green", "left_blue", "left_red"):
            (summary.balances if name in BALANCES else summary.left_behind)[name.removeprefix("left_")] = 0
        summary.nulls = dict.fromkeys(NULLABLE, 0)
        for part in import_load.outcomes(self._connection):
            summary.wallets[part.outcome] = part.users
            summary.flagged += part.flagged
            summary.unpaid += part.unpaid
            _add(summary.nulls, part.nulls)
            if part.outcome in WRITTEN:
                summary.migrated += part.migrated
                _add(summary.balances, part.balances)
                _add(summary.left_behind, part.left_behind)
                self._since += part.since
        if summary.wallets[CREATED] and self._template.obstacle:
            raise PreflightError(self._template.obstacle)
        if summary.bad and not self._options.skip_bad_rows:
            summary.status = "rejected"

    def _choose_match(self) -> None:
        """Decide which column of the site's users the ids are.

        Raises:
            ImportRejectedError: they fit primary keys, and which is meant was never said.
        """
        summary, match = self._summary, self._options.match or self._match_of_last_import()
        if match is None:
            fitting = staging.fitting_users(self._connection, self._template)
            if fitting["pk"]:
                raise ImportRejectedError(
                    f"of {summary.rows:,} ids {fitting['pk']:,} are primary keys of users of this site and "
                    f"{fitting['username']:,} are usernames; nothing was imported. Give --match pk if the ids are "
                    "primary keys, --match username if they are or become usernames"
                )
        summary.match = match or "username"
        self._template = self._template.matching(summary.match, self._connection)
        if summary.match == "pk":
            staging.mark_unknown_users(self._connection, self._template)

    def _match_of_last_import(self) -> str | None:
        runs_before = MigrationRun.objects.using(self._using).filter(kind=RunKind.IMPORT).order_by("-pk")
        options = runs_before.values_list("options", flat=True).first()
        return None if options is None else str(options.get("match", "username"))

    def _write(self) -> None:
        summary, connection = self._summary, self._connection
        _keep_runs_out(connection)
        refuse_open_run(self._using)
        change = dict(summary.balances)
        if summary.wallets[UPDATED]:
            replaced = import_load.replaced_balances(connection, self._template)
            change = {name: value - replaced[name] for name, value in change.items()}
        if summary.wallets[CREATED]:
            self._ticker.say("creating users")
            import_load.create_users(connection, self._template)
        self._ticker.say("writing wallets")
        import_load.write_wallets(
            connection,
            self._template,
            opened=summary.wallets[CREATED] + summary.wallets[GIVEN],
            overwritten=summary.wallets[UPDATED],
        )
        # what users earned and spent since they were paid is booked as that, and counted there
        change["mana"] -= self._since
        run = self._record(change)
        self._ticker.say("checking the references")
        import_load.check_references(connection)
        if foreign.is_attached(connection):
            self._compare(run)

    def _compare(self, run: MigrationRun) -> None:
        """Compare the tables with what was written, as something of the site's own is attached to them.

        Raises:
            ImportConflictError: they differ.
        """
        self._ticker.say("comparing what was written")
        found = import_load.not_kept(self._connection, self._template, run=run.pk)
        counted = totals.run_totals(MigrationRun.objects.using(self._using).get(pk=run.pk), self._using)
        if (counted.selected, counted.migrated) != (self._summary.migrated, self._summary.migrated):
            found.append("the run's batches")
        if found:
            raise ImportConflictError(
                f"the database did not keep {', '.join(found)} as written: a trigger or a rule of the site's own on "
                f"{', '.join(foreign.WRITTEN)} drops or changes rows; nothing was imported"
            )

    def _record(self, change: dict[str, int]) -> MigrationRun:
        """Record what was added, and those who arrive migrated; see Note [What an import adds]."""
        summary = self._summary
        run = runs.create_run(
            using=self._using,
            kind=RunKind.IMPORT,
            status=RunStatus.COMPLETED,
            options={"source": summary.kind, "match": summary.match, **self._options.as_dict()},
            rates=self._rates.as_dict(),
            controls=Controls(),
            actor=self._actor,
            expected=summary.migrated,
            baseline={
                "imported": {"users": str(summary.imported), **{name: str(value) for name, value in change.items()}}
            },
            message=f"{summary.imported:,} users imported, {summary.migrated:,} of them migrated by the old system",
        )
        summary.run = run.pk
        if not summary.migrated:
            return run
        self._ticker.say("recording those whom the old system had migrated")
        connection, now = self._connection, runs.database_now(self._using)
        parts = import_load.migrated_slices(connection, self._template, size=RECORDS_IN_BATCH)
        with failures.keeping_rows("mana_migration_migrationbatch"):
            batches = MigrationBatch.objects.using(self._using).bulk_create(
                MigrationBatch(
                    run=run,
                    first_user=part.first,
                    last_user=part.last,
                    planned=part.users,
                    status=BatchStatus.DONE,
                    selected=part.users,
                    migrated=part.users,
                    started_at=now,
                    finished_at=now,
                )
                for part in parts
            )
        import_load.write_opening_entries(connection, self._template)
        import_load.write_records(
            connection, self._template, run=run.pk, batches=[batch.pk for batch in batches], size=RECORDS_IN_BATCH
        )
        for batch in batches:
            batch.digest = chain.digest_of(connection, batch.pk)
        MigrationBatch.objects.using(self._using).bulk_update(batches, ["digest"], batch_size=500)
        run.planned_users = summary.migrated
        totals.fold(run, self._using)
        run.save(using=self._using, update_fields=["planned_users", "folded"])
        return run

    def _rejected(self, *, limit: int | None) -> Iterator[RejectedRow]:
        sheets = self._source.starts if len(self._source.starts) > 1 else []
        for number, line, key, problem, first_row, original in staging.bad_rows(self._connection, limit=limit):
            yield RejectedRow(
                row=number,
                line=line,
                sheet=next((name for first, name in reversed(sheets) if first <= number), None),
                id=key,
                problems=tuple(_reasons(problem, first_row is not None)),
                message=explain(problem, first_row, self._options.columns),
                brief=explain(problem, first_row, self._options.columns, cure=False),
                original=original,
            )


def _reasons(problem: str, duplicate: bool) -> list[Reason]:
    return decode_problem(problem) + ([Reason("duplicate_id", "", COLUMNS["id"])] if duplicate else [])


def _add(sums: dict[str, int], more: dict[str, int]) -> None:
    for name, value in more.items():
        sums[name] += value


class _Ticker:
    """Report progress, not more often than every few seconds, except for a new phase."""

    def __init__(self, progress: ImportProgress | None) -> None:
        self._progress = progress
        self._begin = self._last = time.monotonic()
        self._rows = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def rows(self, count: int) -> None:
        """Report that so many rows were read."""
        self._rows = count
        if time.monotonic() - self._last >= REPORT_EVERY:
            self._report("reading")

    def say(self, phase: str) -> None:
        """Report that a phase begins, of an import that takes longer than seconds."""
        if self.seconds >= REPORT_EVERY:
            self._report(phase)

    def _report(self, phase: str) -> None:
        self._last = time.monotonic()
        if self._progress is not None:
            self._progress(phase=phase, rows=self._rows, seconds=self.seconds)


def _prepare(connection: BaseDatabaseWrapper) -> None:
    """Let this transaction's few large statements take the time and the memory that they need."""
    if connection.vendor == "postgresql":
        dialect.set_timeouts(connection, lock_ms=conf.lock_timeout_ms() * 10, statement_ms=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('work_mem', '128MB', true), set_config('jit', 'off', true)")


def _keep_runs_out(connection: BaseDatabaseWrapper) -> None:
    """Let no run start, and no second import write, before this transaction ends; reads are not blocked."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE mana_migration_migrationrun IN SHARE ROW EXCLUSIVE MODE")


@contextlib.contextmanager
def _deferred_transaction(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Run the block in one transaction that locks of a SQLite file what is needed: for temporary tables, nothing."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")
    try:
        yield
    except BaseException:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
        raise
    with connection.cursor() as cursor:
        cursor.execute("COMMIT")


@contextlib.contextmanager
def _temporary_tables_on_disk(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Keep SQLite's temporary tables out of memory: a million rows would fill it.

    The setting cannot be changed inside a transaction; where the caller has begun one, it stays as it is.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA temp_store")
        before = cursor.fetchone()[0]
        cursor.execute("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA temp_store = {int(before)}")
