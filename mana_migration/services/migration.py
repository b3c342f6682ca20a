"""Migrating users: what is checked before, how a batch and a selected user are converted, when too many have failed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from django.db import connections, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from mana_migration.domain import breaker
from mana_migration.domain.forecast import NONE_FAILED
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.repairs import FIXABLE
from mana_migration.domain.results import RunSummary, Totals
from mana_migration.domain.validation import Finding, FixReport, ValidationReport, by_check, remaining
from mana_migration.domain.words import counted
from mana_migration.engine import conversion, pipeline, planning, records, totals
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.integrity import quick
from mana_migration.engine.planning import Slice
from mana_migration.errors import FindingsError, NothingToMigrateError, RunConflictError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import (
    approval,
    autofix,
    checklist,
    closing,
    logs,
    preflight,
    runs,
    selected_users,
    validation,
)
from mana_migration.services.approval import Approval
from mana_migration.services.context import Actor, RunContext
from mana_migration.states import RunKind, RunStatus
from wishes import conf as wishes_conf
from wishes.rates import Rates


@dataclass(frozen=True, slots=True)
class MigrationWork:
    """What a worker does for a migration; see ``worker.context.Work``."""

    terms: ConversionTerms
    limit: int | None = None
    throttled: bool = True

    @classmethod
    def of(cls, run: MigrationRun) -> MigrationWork:
        """Return the work on an open migration."""
        return cls(terms_of(run), run.migration_options.limit)

    def plan(self, using: str, *, after: str, size: int, limit: int, first_pass: bool) -> list[Slice]:
        """Cut the next users that are still to be converted.

        In the first pass of a run of so many users, those who failed earlier do not take the place of others.
        """
        never_failed = first_pass and self.limit is not None and not self.terms.retry_failed
        return planning.plan_migration(
            connections[using], self.terms, after=after, size=size, limit=limit, never_failed=never_failed
        )

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys of a range that are still to be converted."""
        return planning.migration_keys(connections[using], self.terms, first=first, last=last)

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Convert the users of a batch in one transaction: claim it, convert them, mark it."""
        with transaction.atomic(using=using, durable=True):
            return conversion.convert(connections[using], self.terms, task, limits)

    def handle_several(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Convert the users of batches, a transaction each."""
        return pipeline.convert_several(connections[using], self.terms, tasks, limits)

    def verdict(self, using: str, *, final: bool = False) -> breaker.BreakerVerdict:
        """Judge the run by all users it attempted and by its latest ones."""
        run = MigrationRun.objects.using(using).get(pk=self.terms.run)
        whole = totals.run_totals(run, using)
        latest = totals.latest(run.pk, using, attempted=breaker.WINDOW)
        threshold = run.controls_in_force.error_threshold
        verdict = breaker.judge(whole, latest, threshold, final=final)
        if not verdict.tripped:
            return verdict
        # users who failed before, and now for the same class, say nothing about this run
        again = records.failed_again(connections[using], run.pk)
        if not again:
            return verdict
        whole.failed -= again
        latest.failed -= min(again, latest.failed)
        return breaker.judge(whole, latest, threshold, final=final)

    def before_check(self, context: RunContext) -> None:
        """Do nothing: a migration leaves nothing to do."""

    def on_close(self, context: RunContext) -> None:
        """Do nothing: a migration closes by itself."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration as it is asked for; see ``operation.Operation``."""

    options: MigrationOptions
    reason: str = ""
    approval: Approval = field(default_factory=Approval)

    @property
    def controls(self) -> Controls:
        """The pace, the error threshold and the window that are asked for."""
        return self.options.controls

    @property
    def selected_users(self) -> tuple[str, ...]:
        """The users that are selected one by one, empty for a mass run."""
        return self.options.users

    @property
    def reverses(self) -> bool:
        """Whether conversions may be reversed: the breaker does so, and selected users have none."""
        return not self.options.users

    def shown_run(self, run: MigrationRun) -> int:
        """Return the run whose outcome is reported: for a rollback by the breaker, the migration that it tripped."""
        return run.tripped_run or run.pk

    def can_resume(self, run: MigrationRun) -> bool:
        """Say that any open run is resumed or refused; see ``refuse_to_resume``."""
        return True

    def refuse_to_resume(self, run: MigrationRun) -> None:
        """Refuse a request that cannot mean the open run; a rollback that the breaker opened can be meant.

        Raises:
            RunConflictError: it is another rollback, it is paused, or its options or rates contradict the request.
        """
        if run.is_rollback and run.tripped_run is None:
            raise RunConflictError(runs.describe_conflict(run))
        runs.refuse_paused(run)
        if run.is_rollback:
            return
        frozen, asked, default = run.options, self.options.as_dict(), MigrationOptions().as_dict()
        contradictions = [
            f"{name} is {frozen.get(name)!r}, not {value!r}"
            for name, value in asked.items()
            if name != "auto_fix" and value != default[name] and value != frozen.get(name)
        ]
        if run.rates != wishes_conf.rates().as_dict():
            now = _rates_text(wishes_conf.rates().as_dict())
            contradictions.append(f"its rates are {_rates_text(run.rates)}, not {now}")
        in_force = run.controls_in_force.contradictions(self.options.controls, self.options.given)
        if contradictions or in_force:
            raise RunConflictError(
                f"run {run.pk} is open with other options: {'; '.join([*contradictions, *in_force])}. "
                "Leave them out to resume it, "
                + (f"change them with control_migration set {run.pk} NAME=VALUE, " if in_force else "")
                + f"or stop it with control_migration stop {run.pk}"
            )

    def describe_resumed(self, run: MigrationRun, using: str) -> str:
        """Say which run is resumed."""
        if run.tripped_run is not None:
            return f"run {run.pk} is rolling back run {run.tripped_run}, whose breaker tripped: resuming it"
        last = totals.folded_figures(run, using)["last_progress"]
        progress = f"last progress {runs.seconds_since(last):.0f} s ago" if last else "no progress yet"
        return f"run {run.pk}, opened {timezone.localtime(run.created_at):%H:%M} on {run.host}, {progress}: resuming"

    def open(self, context: RunContext) -> MigrationRun:
        """Check everything that must hold before and open a run; no user is converted yet.

        Raises:
            NothingToMigrateError: no user is left whom these options select.
            FindingsError: error-level findings block the run.
            RunConflictError: another mass run is open, or the rates differ from those of live conversions.
            ApprovalError: a second person's approval is needed.
        """
        options, using = self.options, context.using
        approval.require(self.approval, actor=context.actor, using=using)
        require_go(using, actor=context.actor)
        rates = wishes_conf.rates()
        refuse_other_rates(rates, using)
        failed = _failed_before(options, rates, using) if options.retry_failed else None
        report = validation.precheck(using)
        if not planning.plan_migration(connections[using], terms_of_request(options, rates), after="", size=1, limit=1):
            raise NothingToMigrateError(_nothing(describe_nothing(report, using)))
        fixes = None
        if options.auto_fix and report.error_count:
            _refuse_findings(options, forecast_fixes(options, rates, report, using=using)[1])  # before any is fixed
            fixes = _fix(context, select=_selection(options, rates, using))
            report = validation.precheck(using)
        _refuse_findings(options, _errors(options, rates, report, using))
        with transaction.atomic(using=using):
            approval.lock(self.approval, using)
            run = runs.create_run(
                using=using,
                kind=RunKind.MIGRATION,
                options=options.as_dict(),
                rates=rates.as_dict(),
                controls=options.controls,
                actor=context.actor,
                reason=self.reason,
                expected=report.expected(limit=options.limit, cohort=options.cohort) if failed is None else failed,
                baseline={**report.baseline, **quick.marks(context.connection)},
            )
            approval.record(self.approval, run, actor=context.actor, using=using)
        if fixes is not None:
            autofix.assign_to_run(run.pk, fixes, actor=context.actor.name, using=using)
        checklist.attach(run, actor=context.actor, using=using)
        context.notice(
            f"run {run.pk} is open on {context.actor.host}: about {counted(run.expected or 0, 'user')} to migrate"
        )
        return run

    def handle_selected(self, context: RunContext) -> RunSummary:
        """Convert selected users at once, whatever migration is open; there is no breaker, failures are reported.

        Raises:
            UsageError: more users are selected than one transaction should hold.
            RunConflictError: a mass rollback is open, or the rates differ from those of live conversions.
            DatabaseUnavailableError: another session held a wallet for too long; no user was converted.
        """
        using = context.using
        open_run = runs.open_run_or_none(using)
        if open_run is not None and open_run.is_rollback:
            raise RunConflictError(runs.describe_conflict(open_run))
        rates = wishes_conf.rates()
        refuse_other_rates(rates, using)
        fixes = _fix(context, self.options.users) if self.options.auto_fix else None

        def convert(run: MigrationRun, task: Task) -> Totals:
            terms = terms_of_request(self.options, rates, run=run.pk, per_user=True)
            handled = conversion.convert(connections[using], terms, task)
            return selected_users.left_out(run, task, "already_migrated", using) if handled is None else handled.totals

        done = selected_users.execute(
            self.options.users,
            convert,
            kind=RunKind.MIGRATION,
            options=self.options.as_dict(),
            rates=rates.as_dict(),
            reason=self.reason,
            context=context,
        )
        if fixes is not None and done.run is not None:
            autofix.assign_to_run(done.run, fixes, actor=context.actor.name, using=using)
        return done


def require_go(using: str, *, actor: Actor) -> None:
    """Refuse a mass run of a migration that is closed, or that lacks the checklist that the site wants.

    Raises:
        ClosingError, NoGoError: that is so.
    """
    closing.require_open(using, actor=actor)
    checklist.require(using)


def terms_of(run: MigrationRun) -> ConversionTerms:
    """Return what is frozen on a migration run, as the engine takes it."""
    return terms_of_request(run.migration_options, Rates.from_mapping(run.rates), run=run.pk)


def terms_of_request(
    options: MigrationOptions, rates: Rates, *, run: int = conversion.NO_RUN, per_user: bool = False
) -> ConversionTerms:
    """Return what a migration that is asked for would freeze; ``run``: the open one that it would resume."""
    return ConversionTerms(
        run=run,
        rates=rates,
        skip_invalid=options.skip_invalid,
        cohort=options.cohort,
        retry_failed=options.retry_failed,
        per_user=per_user,
    )


def forecast_fixes(
    options: MigrationOptions, rates: Rates, report: ValidationReport, *, using: str
) -> tuple[FixReport, dict[str, int]]:
    """Return what auto-fix would do for a run with these options, and which findings would block the run all the same.

    Nothing is written.
    """
    fixes = foresee_fixes(options, using=using)
    return fixes, remaining(_errors(options, rates, report, using), fixes)


def foresee_fixes(options: MigrationOptions, *, using: str) -> FixReport:
    """Return what auto-fix would do for the users that a run with these options selects; nothing is written."""
    select = _selection(options, wishes_conf.rates(), using)
    return autofix.fix_all(using=using, actor="", users=options.users, select=select, dry_run=True)


def fix_findings(options: MigrationOptions, context: RunContext) -> FixReport:
    """Correct the findings that have one right answer, of the users that a run with these options selects; log each.

    Raises:
        PreflightError, DatabaseUnavailableError: the database is not fit.
    """
    preflight.check(context.using)
    return _fix(context, options.users, _selection(options, wishes_conf.rates(), context.using))


def _errors(options: MigrationOptions, rates: Rates, report: ValidationReport, using: str) -> dict[str, int]:
    """Return the error-level findings that concern a run: those of all users, or with auto-fix of whom it selects."""
    found = {check.id: check.count for check in report.checks if check.blocks}
    select = _selection(options, rates, using) if options.auto_fix and found else None
    return found if select is None else autofix.remaining(list(found), select, using=using)


def _refuse_findings(options: MigrationOptions, found: Mapping[str, int]) -> None:
    if found and not options.skip_invalid:
        raise FindingsError(describe_findings(options, found))


def describe_findings(options: MigrationOptions, found: Mapping[str, int]) -> str:
    """Say which findings block a run, and what to do about them."""
    number = sum(found.values())
    blocks = ngettext(
        "{number} error-level finding blocks the run", "{number} error-level findings block the run", number
    )
    advice = [
        ngettext("validate_migration --pre-migration lists it", "validate_migration --pre-migration lists them", number)
    ]
    if not options.auto_fix and not set(FIXABLE).isdisjoint(found):
        advice.append(_("--auto-fix corrects what has one right answer"))
    advice.append(ngettext("--skip-invalid leaves that user out", "--skip-invalid leaves those users out", number))
    return f"{blocks.format(number=f'{number:,}')} ({by_check(found)}); {', '.join(advice)}"


def _selection(options: MigrationOptions, rates: Rates, using: str) -> autofix.Select | None:
    """Return what keeps, of some users, those whom a run with these options selects; None where it selects all."""
    if options.cohort is None and options.limit is None and not options.retry_failed:
        return None
    terms = terms_of_request(options, rates)
    return lambda keys: planning.selected_among(connections[using], terms, keys, limit=options.limit)


def _fix(context: RunContext, users: Sequence[str] = (), select: autofix.Select | None = None) -> FixReport:
    """Correct the findings that have one right answer, of selected users, of those a run selects, or of all."""
    fixes = autofix.fix_all(
        using=context.using, actor=context.actor.name, users=users, select=select, on_finding=_log_fix
    )
    kept = "the values before and after are kept as integrity fixes"
    context.notice(
        f"auto-fix corrected {counted(fixes.fixed, 'finding')}; {kept}"
        if fixes.fixed
        else "auto-fix found nothing that it could correct"
    )
    return fixes


def _log_fix(finding: Finding) -> None:
    logs.write(logging.INFO, f"auto-fix: {finding.reason}", check=finding.check, record=finding.record)


def _failed_before(options: MigrationOptions, rates: Rates, using: str) -> int:
    """Return how many of the users who failed in an earlier run this one would attempt.

    Raises:
        NothingToMigrateError: there are none.
    """
    terms = terms_of_request(options, rates)
    users = conversion.forecast(connections[using], terms, limit=options.limit).selected
    if not users:
        raise NothingToMigrateError(_nothing(_(NONE_FAILED)))
    return users


def _nothing(why: str) -> str:
    return why + ": " + _("no run was opened, nothing was changed")


def describe_nothing(report: ValidationReport, using: str) -> str:
    """Say why there is no user to migrate."""
    left, migrated = report.totals.get("unmigrated", 0), report.totals.get("migrated", 0)
    if left:
        return _("no user is left whom these options select")
    if not migrated:
        return _("there is no user to migrate")
    run = MigrationRun.objects.using(using).filter(kind=RunKind.MIGRATION, finished_at__isnull=False).first()
    whom = _("the only user is migrated") if migrated == 1 else _("all {number} users are migrated")
    said = whom.format(number=f"{migrated:,}")
    if run is None:
        return said
    at = f"{timezone.localtime(run.finished_at):%Y-%m-%d %H:%M}"
    return said + _("; run {run} finished {moment}").format(run=run.pk, moment=at)


def refuse_other_rates(rates: Rates, using: str) -> None:
    """Refuse to convert at rates that differ from those of the users already converted.

    Raises:
        RunConflictError: they differ.
    """
    migrations = MigrationRun.objects.using(using).migrations().exclude(status=RunStatus.ROLLED_BACK)
    for run in migrations.order_by("-id"):
        if run.rates == rates.as_dict() or not totals.run_totals(run, using).migrated:
            continue
        if UserMigration.objects.using(using).live().filter(run=run).exists():
            raise RunConflictError(
                _(
                    "run {run} converted users at {before}, the rates in force are {now}: users would be treated "
                    "differently. Set the rates back, or roll back run {run} first"
                ).format(run=run.pk, before=_rates_text(run.rates), now=_rates_text(rates.as_dict()))
            )


def _rates_text(rates: dict[str, int]) -> str:
    return "/".join(str(rates[colour]) for colour in ("green", "blue", "red"))
