"""What staff can do from a page: shown first, confirmed with a reason, recorded with the account."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration import conf
from mana_migration.domain.forecast import Finding
from mana_migration.domain.options import (
    CELERY,
    MAX_SELECTED_USERS,
    SKIP,
    WRITE_OFF,
    Controls,
    MigrationOptions,
    RollbackOptions,
    parse_cohort,
    parse_workers,
)
from mana_migration.domain.results import Totals
from mana_migration.domain.validation import BY_ID
from mana_migration.engine import users
from mana_migration.errors import UsageError
from mana_migration.models import MigrationRun
from mana_migration.selectors import explanation, outcomes
from mana_migration.selectors.run_list import totals_of
from mana_migration.services import dry_run, operation, runs
from mana_migration.services.executors import background
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunStatus
from mana_migration.views import requests
from mana_migration.views.access import ACT, staff_only
from mana_migration.views.page import address, alias_of
from mana_migration.views.questions import Outcome, Question, RefusedError, Values, actor_of, ask, context_of
from mana_migration.views.words import read_window, window_end


def _run(request: HttpRequest, run_id: int) -> MigrationRun:
    run = MigrationRun.objects.using(alias_of(request)).filter(pk=run_id).first()
    if run is None:
        raise Http404(_("There is no run {run}.").format(run=run_id))
    return run


# --- Pause, resume, stop, send again, settings ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a run's status: where to, by which service, and what the page says."""

    target: RunStatus
    service: Callable[..., bool]
    title: Any
    button: Any
    done: Any
    before: Any


_CHANGES: Final = {
    "pause": _Change(
        RunStatus.PAUSED,
        runs.pause_run,
        gettext_lazy("Pause run {run}?"),
        gettext_lazy("Pause run {run}"),
        gettext_lazy("Run {run} is paused."),
        gettext_lazy("Run {run} was paused already."),
    ),
    "resume": _Change(
        RunStatus.RUNNING,
        runs.resume_run,
        gettext_lazy("Resume run {run}?"),
        gettext_lazy("Resume run {run}"),
        gettext_lazy("Run {run} is running again."),
        gettext_lazy("Run {run} was running already."),
    ),
    "stop": _Change(
        RunStatus.STOPPED,
        runs.stop_run,
        gettext_lazy("Stop run {run}?"),
        gettext_lazy("Stop run {run}"),
        gettext_lazy("Run {run} is stopped."),
        gettext_lazy("Run {run} was stopped already."),
    ),
}


def _change(request: HttpRequest, run_id: int, action: str) -> HttpResponseBase:
    using = alias_of(request)
    run = _run(request, run_id)
    change = _CHANGES[action]

    def check() -> None:
        if run.status == RunStatus.CHECKING and action != "stop":
            raise RefusedError(
                _("Run {run} is being checked. It ends by itself when the checks are done.").format(run=run.pk)
            )
        if action == "resume" and run.status != RunStatus.PAUSED:
            raise RefusedError(
                _("Run {run} is not paused. Its status is: {status}.").format(
                    run=run.pk, status=run.get_status_display()
                )
            )
        if change.target not in RunStatus(run.status).state.leads_to:
            raise RefusedError(
                _("Run {run} cannot be changed like that any more. Its status is: {status}.").format(
                    run=run.pk, status=run.get_status_display()
                )
            )

    def perform(values: Values, reason: str) -> Outcome:
        changed = change.service(run.pk, actor=actor_of(request), reason=reason, using=using)
        sentence = str(change.done if changed else change.before).format(run=run.pk)
        return Outcome(sentence, address(request, "run", run.pk), changed)

    labels = (str(change.title).format(run=run.pk), str(change.button).format(run=run.pk))
    return _ask_about(request, run, action, labels, check=check, perform=perform)


def _ask_about(
    request: HttpRequest,
    run: MigrationRun,
    action: str,
    labels: tuple[str, str],
    *,
    check: Callable[[], object],
    perform: Callable[[Values, str], Outcome],
    template: str = "confirm_change.html",
    terms: Callable[[Values], str] = lambda values: "",
) -> HttpResponseBase:
    """Ask before something is done about an open run; ``labels``: of the page and of its button."""
    title, button = labels

    def prepare(values: Values) -> Mapping[str, Any]:
        check()
        totals = totals_of([run], using=alias_of(request))[run.pk]
        controls = run.controls_in_force
        return {
            "run": run,
            "totals": totals,
            "action": action,
            "controls": controls,
            "window": window_end(controls.until),
        }

    return ask(
        request,
        Question(
            action=f"{action}_run",
            target=f"{alias_of(request)}:{run.pk}",
            title=title,
            button=button,
            template=template,
            back=address(request, "run", run.pk),
            prepare=prepare,
            perform=perform,
            terms=terms,
            danger=action == "stop",
        ),
    )


@staff_only("mana_migration.pause_run", methods=ACT)
def pause(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Hold a run."""
    return _change(request, run_id, "pause")


@staff_only("mana_migration.resume_run", methods=ACT)
def resume(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Let a paused run continue."""
    return _change(request, run_id, "resume")


@staff_only("mana_migration.stop_run", methods=ACT)
def stop(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """End an open run for good."""
    return _change(request, run_id, "stop")


@staff_only("mana_migration.resume_run", methods=ACT)
def send_again(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Send the workers the message of an open run once more, which may be lost."""
    using = alias_of(request)
    run = _run(request, run_id)

    def perform(values: Values, reason: str) -> Outcome:
        background.send_again(run.pk, context_of(request), reason=reason)
        return Outcome(_("Run {run} is sent to the workers again.").format(run=run.pk), address(request, "run", run.pk))

    labels = (
        _("Send run {run} to the workers again?").format(run=run.pk),
        _("Send run {run} again").format(run=run.pk),
    )
    check = partial(background.check_send_again, run.pk, using)
    return _ask_about(request, run, "send_again", labels, check=check, perform=perform)


_SETTINGS: Final = ("batch_size", "delay", "error_threshold")


def _controls(values: Values) -> dict[str, str]:
    """Return the settings that are filled in."""
    given = {name: values[name].strip() for name in _SETTINGS if values.get(name, "").strip()}
    return given | ({"until": read_window(values["until"].strip())} if values.get("until", "").strip() else {})


@staff_only("mana_migration.change_migrationrun", methods=ACT)
def settings(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Change the batch size, delay or error threshold of an open run."""
    using = alias_of(request)
    run = _run(request, run_id)
    before = Controls.from_dict(run.controls)

    def check() -> None:
        if not run.is_open:
            raise RefusedError(_("Run {run} is closed: its settings cannot be changed any more.").format(run=run.pk))

    def perform(values: Values, reason: str) -> Outcome:
        asked = _controls(values) | ({"until": ""} if values.get("no_window") == "on" else {})
        after = runs.change_controls(run.pk, asked, actor=actor_of(request), reason=reason, using=using)
        if after == before:
            sentence = _("The settings of run {run} were like this already.").format(run=run.pk)
            return Outcome(sentence, address(request, "run", run.pk), changed=False)
        return Outcome(
            _("The settings of run {run} are changed, from its next batch on.").format(run=run.pk),
            address(request, "run", run.pk),
        )

    labels = (_("Change the settings of run {run}").format(run=run.pk), _("Change the settings"))
    return _ask_about(request, run, "settings", labels, check=check, perform=perform, template="confirm_settings.html")


# --- Start ------------------------------------------------------------------------------------------------------------


@staff_only("mana_migration.start_run", methods=ACT)
def start(request: HttpRequest) -> HttpResponseBase:
    """Open a migration for a worker process, or ask for it, with options whose effect is shown as they are chosen."""
    using, needs_approval = alias_of(request), bool(conf.approval_hours())

    def prepare(values: Values) -> Mapping[str, Any]:
        open_run = runs.open_run_or_none(using)
        if open_run is not None:
            raise RefusedError(requests.describe_open(open_run))
        forecast = dry_run.forecast(_options(values), using=using)
        errors = sum(finding.count for finding in forecast.findings if finding.severity == "error")
        return {
            "forecast": forecast,
            "findings": _findings(forecast.findings),
            "errors": 0 if forecast.options.skip_invalid or forecast.options.auto_fix else errors,
            "default": Controls(),
            "celery": conf.executor() == CELERY,
            "workers": conf.celery_workers(),
            "fixes": requests.fix_figures(forecast.fixes),
            "needs_approval": needs_approval,
            "unusable": bool(forecast.blocked) or not forecast.totals.selected,
        }

    def perform(values: Values, reason: str) -> Outcome:
        workers = parse_workers(values["workers"]) if values.get("workers") else None
        if needs_approval:
            return requests.ask_for(request, _options(values), reason, workers=workers)
        run = background.open_run(Migration(_options(values), reason), context_of(request), workers=workers)
        return Outcome(
            _("Run {run} is open; a worker process takes it up.").format(run=run.pk), address(request, "run", run.pk)
        )

    return ask(
        request,
        Question(
            action="start_run",
            target=using,
            title=_("Ask for a migration") if needs_approval else _("Start a migration"),
            button=_("Ask for approval") if needs_approval else _("Start the migration"),
            template="confirm_start.html",
            back=address(request, "overview"),
            prepare=prepare,
            perform=perform,
            terms=lambda values: json.dumps(_terms(values), sort_keys=True),
        ),
    )


def _findings(findings: Iterable[Finding]) -> list[tuple[Finding, str, str]]:
    """Return what the check of the data found, with the severity and the meaning in words."""
    return [(each, _(each.severity), _(BY_ID[each.id].sentence)) for each in findings if each.count]


def _options(values: Values) -> MigrationOptions:
    return MigrationOptions(
        limit=_limit(values.get("limit", "")),
        cohort=parse_cohort(values["cohort"]) if values.get("cohort", "").strip() else None,
        skip_invalid=values.get("skip_invalid") == "on",
        auto_fix=values.get("auto_fix") == "on",
        retry_failed=values.get("retry_failed") == "on",
        controls=Controls.from_dict(_controls(values)),
    )


def _terms(values: Values) -> dict[str, Any]:
    try:
        options = _options(values)
    except UsageError:
        return {}
    return {**options.as_dict(), **options.controls.as_dict()}


def _limit(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 10**12):
        raise UsageError(
            _("Limit {value}: give a whole number of users, or leave it empty for all.").format(value=repr(text[:20]))
        )
    return int(text)


@staff_only("mana_migration.start_run", methods=ACT)
def retry(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Convert users of a run who failed for one reason, at once, as selected users."""
    using = alias_of(request)
    run = _run(request, run_id)
    error_class = request.GET.get("error_class", "").replace("\0", "")[:40]
    selected = outcomes.failed_users(run.pk, error_class, most=MAX_SELECTED_USERS, using=using)

    def prepare(values: Values) -> Mapping[str, Any]:
        if not selected:
            raise RefusedError(
                _("No user of run {run} with the error “{error}” is left to retry.").format(
                    run=run.pk, error=error_class
                )
            )
        forecast = dry_run.forecast(MigrationOptions(users=selected, auto_fix=_fixes(values)), using=using)
        fixes = requests.fix_figures(forecast.fixes)
        return {"forecast": forecast, "fixes": fixes, "unusable": bool(forecast.blocked), "most": MAX_SELECTED_USERS}

    def perform(values: Values, reason: str) -> Outcome:
        options = MigrationOptions(users=selected, auto_fix=_fixes(values))
        done = operation.execute(Migration(options, reason), context_of(request))
        sentence = _("Run {run}: {migrated} migrated, {failed} failed, {skipped} skipped.").format(
            run=done.run, migrated=done.totals.migrated, failed=done.totals.failed, skipped=done.totals.skipped
        )
        page = address(request, "run", run.pk if done.run is None else done.run)
        return Outcome(sentence, page, changed=bool(done.totals.migrated))

    return ask(
        request,
        Question(
            action="retry",
            target=f"{using}:{run.pk}:{error_class}",
            title=_("Retry users with the error “{error}”").format(error=error_class),
            button=_("Retry"),
            template="confirm_retry.html",
            back=address(request, "run", run.pk),
            prepare=prepare,
            perform=perform,
            terms=lambda values: json.dumps([*selected, _fixes(values)]),
        ),
    )


def _fixes(values: Values) -> bool:
    return values.get("auto_fix") == "on"


# --- Roll back --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a rollback would do now, and what it would do instead where spent mana is written off."""

    skipping: Totals
    writing_off: Totals
    shortfalls: list[tuple[int, int, int]]
    stops_run: int | None

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Return why users would stay migrated; a Counter itself cannot be walked through by a template."""
        return self.skipping.skips.most_common()


def outlook(options: RollbackOptions, *, using: str) -> Outlook:
    """Say what a rollback would do on either terms; one pass where no user has spent the mana."""
    plain = dry_run.forecast_rollback(options, using=using)
    other = plain.totals
    if plain.shortfalls:
        terms = RollbackOptions(users=options.users, run=options.run, on_shortfall=WRITE_OFF)
        other = dry_run.forecast_rollback(terms, using=using).totals
    return Outlook(plain.totals, other, plain.shortfalls, plain.stops_run)


def _policy(values: Values) -> str:
    """Return what happens to users who have spent the mana; where the page asked, it must be chosen."""
    chosen = values.get("on_shortfall", "")
    if chosen in (SKIP, WRITE_OFF):
        return chosen
    if values.get("shortfalls"):
        raise UsageError(_("Choose what happens to users who have spent the mana."))
    return SKIP


@staff_only("mana_migration.rollback_run", methods=ACT)
def roll_back_run(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Open a rollback of a run for a worker process, or ask for it."""
    using, needs_approval = alias_of(request), bool(conf.approval_hours())
    run = _run(request, run_id)

    def prepare(values: Values) -> Mapping[str, Any]:
        found = outlook(RollbackOptions(run=run.pk), using=using)
        if not found.skipping.selected:
            raise RefusedError(_("Nothing to roll back: no user is migrated by run {run} any more.").format(run=run.pk))
        return {"outlook": found, "in_background": True, "needs_approval": needs_approval}

    def perform(values: Values, reason: str) -> Outcome:
        options = RollbackOptions(run=run.pk, on_shortfall=_policy(values), reason=reason)
        if needs_approval:
            return requests.ask_for(request, options, reason)
        opened = background.open_run(Rollback(options), context_of(request))
        return Outcome(
            _("Rollback run {run} is open; a worker process takes it up.").format(run=opened.pk),
            address(request, "run", opened.pk),
        )

    return ask(
        request,
        Question(
            action="rollback_run",
            target=f"{using}:{run.pk}",
            title=_("Roll back run {run}?").format(run=run.pk),
            button=_("Ask for approval") if needs_approval else _("Roll back run {run}").format(run=run.pk),
            template="confirm_rollback.html",
            back=address(request, "run", run.pk),
            prepare=prepare,
            perform=perform,
            danger=True,
        ),
    )


@staff_only("mana_migration.rollback_user", methods=ACT)
def roll_back_user(request: HttpRequest, key: str) -> HttpResponseBase:
    """Roll one user's conversion back, at once."""
    using = alias_of(request)
    found = explanation.users_with_key(key, using)
    if not found:
        raise Http404(_("There is no user {user}.").format(user=key))
    user = users.to_text(found[0])
    page = address(request, "user", user)

    def prepare(values: Values) -> Mapping[str, Any]:
        seen = outlook(RollbackOptions(users=(user,)), using=using)
        if not seen.skipping.selected:
            raise RefusedError(_("Nothing to roll back: user {user} is not migrated.").format(user=user))
        return {"outlook": seen, "in_background": False}

    def perform(values: Values, reason: str) -> Outcome:
        options = RollbackOptions(users=(user,), on_shortfall=_policy(values), reason=reason)
        done = operation.execute(Rollback(options), context_of(request))
        if done.totals.rolled_back:
            return Outcome(_("User {user} is rolled back, by run {run}.").format(user=user, run=done.run), page)
        why = ", ".join([*done.totals.skips, *done.totals.errors]) or _("nothing to roll back")
        sentence = _("Nothing was changed: user {user} stays migrated ({why}). See run {run}.")
        return Outcome(sentence.format(user=user, why=why, run=done.run), page, changed=False)

    return ask(
        request,
        Question(
            action="rollback_user",
            target=f"{using}:{user}",
            title=_("Roll back user {user}?").format(user=user),
            button=_("Roll back user {user}").format(user=user),
            template="confirm_rollback.html",
            back=page,
            prepare=prepare,
            perform=perform,
            danger=True,
        ),
    )
