"""Mass runs that need a second person's approval: what is asked for, what it would do now, and the decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models.functions import Now
from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration import conf
from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.models import MigrationRun, RunRequest
from mana_migration.selectors.runs import event_line
from mana_migration.services import approval, dry_run, runs
from mana_migration.services.executors import background
from mana_migration.states import RequestStatus, RunKind
from mana_migration.views.access import ACT, staff_only
from mana_migration.views.page import address, alias_of, render
from mana_migration.views.questions import Outcome, Question, RefusedError, Values, actor_of, ask, context_of
from mana_migration.views.words import option_words, setting_words, window_end

#: The figures of a preview, in their order.
_FIGURES: Final = {
    "selected": gettext_lazy("Users selected"),
    "migrated": gettext_lazy("Would be migrated"),
    "rolled_back": gettext_lazy("Would be rolled back"),
    "failed": gettext_lazy("Cannot be converted"),
    "skipped": gettext_lazy("Would be skipped"),
    "mana": gettext_lazy("Mana"),
    "shortfall": gettext_lazy("Mana written off because it was spent"),
    "fixed": gettext_lazy("Users whose data would be fixed first"),
    "debt": gettext_lazy("Wishes of debt cancelled"),
    "written_off": gettext_lazy("Mana without ledger entries written off"),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a preview: what it was when the run was asked for, and what it is now."""

    label: Any
    then: int
    now: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do now, by the names of figures; ``blocked``: why it would be refused."""

    figures: Mapping[str, int]
    blocked: str


def preview_of(options: MigrationOptions | RollbackOptions, *, using: str) -> Preview:
    """Say what a mass run would do now; an open run blocks it, but for a migration that a rollback stops."""
    if options.controls.window_is_over():
        return Preview({}, _("Its window ended at {until}.").format(until=window_end(options.controls.until)))
    open_run = runs.open_run_or_none(using)
    if open_run is not None and (open_run.is_rollback or isinstance(options, MigrationOptions)):
        return Preview({}, describe_open(open_run))
    if isinstance(options, RollbackOptions):
        reversal = dry_run.forecast_rollback(options, using=using)
        names, totals, blocked = (
            ("selected", "rolled_back", "skipped", "mana", "shortfall"),
            reversal.totals,
            reversal.blocked,
        )
        return Preview({name: getattr(totals, name) for name in names}, blocked)
    found = dry_run.forecast(options, using=using)
    figures = {name: getattr(found.totals, name) for name in ("selected", "migrated", "failed", "skipped", "mana")}
    blocked = found.blocked
    if not blocked and not found.totals.selected:
        blocked = _("There is nothing to migrate: no user fits these settings.")
    return Preview(figures | fix_figures(found.fixes), blocked)


def describe_open(run: MigrationRun) -> str:
    """Say that an open run keeps another one from starting."""
    return _("{kind} run {run} is open. Let it finish or stop it first.").format(
        kind=run.get_kind_display(), run=run.pk
    )


def fix_figures(fixes: Any) -> dict[str, int]:
    """Return what auto-fix would cost, by the names of figures; empty where it is not asked for."""
    if fixes is None:
        return {}
    debt = sum(max(0, fixes.changes.get(colour, 0)) for colour in ("green", "blue", "red"))
    return {"fixed": fixes.users, "debt": debt, "written_off": max(0, -fixes.changes.get("mana", 0))}


def ask_for(
    request: HttpRequest, options: MigrationOptions | RollbackOptions, reason: str, *, workers: int | None = None
) -> Outcome:
    """Ask for a mass run that a second person is to approve."""
    kind = RunKind.ROLLBACK if isinstance(options, RollbackOptions) else RunKind.MIGRATION
    asked = approval.ask(
        kind,
        options=options.as_dict(),
        controls=options.controls,
        workers=workers,
        preview=preview_of(options, using=alias_of(request)).figures,
        reason=reason,
        actor=actor_of(request),
        using=alias_of(request),
    )
    return Outcome(
        _("Request {request} waits for a second person's approval.").format(request=asked.pk),
        address(request, "request", asked.pk),
    )


def waiting(using: str) -> list[RunRequest]:
    """Return the requests that wait, the latest first; none where the site wants no approval."""
    if not conf.approval_hours():
        return []
    return list(RunRequest.objects.using(using).filter(status=RequestStatus.WAITING)[:10])


def _get(request: HttpRequest, request_id: int) -> RunRequest:
    found = RunRequest.objects.using(alias_of(request)).filter(pk=request_id).annotate(now=Now()).first()
    if found is None:
        raise Http404(_("There is no request {request}.").format(request=request_id))
    return found


def _options(asked: RunRequest) -> MigrationOptions | RollbackOptions:
    kind = RollbackOptions if asked.kind == RunKind.ROLLBACK else MigrationOptions
    return kind.from_dict(asked.options, asked.controls)


def _details(request: HttpRequest, asked: RunRequest) -> dict[str, Any]:
    """Return what a page shows of a request; of one that waits also what it would do now."""
    using = alias_of(request)
    waits, expired = asked.status == RequestStatus.WAITING, approval.is_expired(asked, using)
    now = preview_of(_options(asked), using=using) if waits and not expired else None
    compared = now is not None and bool(now.figures)
    shown = now.figures if now is not None and compared else asked.preview
    figures = [
        Figure(label, asked.preview.get(name, 0), shown.get(name, 0))
        for name, label in _FIGURES.items()
        if name in asked.preview or name in shown
    ]
    own = not actor_of(request).differs_from(asked.actor)
    return {
        "asked": asked,
        "expired": expired,
        "figures": figures,
        "changed": any(figure.then != figure.now for figure in figures),
        "compared": compared,
        "blocked": "" if now is None else now.blocked,
        "selection": option_words(asked.options),
        "settings": setting_words(asked.controls, rollback=asked.kind == RunKind.ROLLBACK),
        "can_decide": waits and not own,
        "can_approve": waits and not own and not expired,
        "can_withdraw": waits and own,
    }


@staff_only()
def request_page(request: HttpRequest, request_id: int) -> HttpResponseBase:
    """Show what one person asks for, what it would do now, and every step since."""
    asked = _get(request, request_id)
    events = [event_line(event) for event in asked.events.order_by("-id")]
    title = _("{kind} request {request}").format(kind=asked.get_kind_display(), request=asked.pk)
    return render(request, "request.html", {"title": title, "events": events, **_details(request, asked)})


def _decide(
    request: HttpRequest, request_id: int, status: RequestStatus, *, title: str, button: str, done: str
) -> HttpResponseBase:
    """Ask before a request is approved, declined or withdrawn; ``done``: what is said then."""
    using, actor = alias_of(request), actor_of(request)
    asked = _get(request, request_id)

    def prepare(values: Values) -> Mapping[str, Any]:
        found = _details(request, asked)
        if status != RequestStatus.APPROVED:
            approval.check_close(asked.pk, status, actor=actor, using=using)
            return found
        approval.get_waiting(asked.pk, by=actor.name, using=using)
        if found["blocked"]:
            raise RefusedError(found["blocked"])
        return found

    def perform(values: Values, reason: str) -> Outcome:
        if status == RequestStatus.APPROVED:
            run = background.approve(asked.pk, context_of(request), reason=reason)
            return Outcome(done.format(request=asked.pk, run=run.pk), address(request, "run", run.pk))
        approval.close(asked.pk, status, actor=actor, reason=reason, using=using)
        return Outcome(done.format(request=asked.pk), address(request, "request", asked.pk))

    return ask(
        request,
        Question(
            action=f"{asked.kind}_request_{status}",
            target=f"{using}:{asked.pk}",
            title=title.format(request=asked.pk),
            button=button.format(request=asked.pk),
            template="confirm_request.html",
            back=address(request, "request", asked.pk),
            prepare=prepare,
            perform=perform,
            danger=status == RequestStatus.APPROVED and asked.kind == RunKind.ROLLBACK,
        ),
    )


@staff_only("mana_migration.approve_run", methods=ACT)
def approve(request: HttpRequest, request_id: int) -> HttpResponseBase:
    """Open the run that another person asks for."""
    return _decide(
        request,
        request_id,
        RequestStatus.APPROVED,
        title=_("Approve request {request}?"),
        button=_("Approve request {request}"),
        done=_("Request {request} is approved. Run {run} is open; a worker process takes it up."),
    )


@staff_only("mana_migration.approve_run", methods=ACT)
def decline(request: HttpRequest, request_id: int) -> HttpResponseBase:
    """Decline what another person asks for."""
    return _decide(
        request,
        request_id,
        RequestStatus.DECLINED,
        title=_("Decline request {request}?"),
        button=_("Decline request {request}"),
        done=_("Request {request} is declined."),
    )


@staff_only(methods=ACT)
def withdraw(request: HttpRequest, request_id: int) -> HttpResponseBase:
    """Withdraw what this account asked for."""
    return _decide(
        request,
        request_id,
        RequestStatus.WITHDRAWN,
        title=_("Withdraw request {request}?"),
        button=_("Withdraw request {request}"),
        done=_("Request {request} is withdrawn."),
    )
