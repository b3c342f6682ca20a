"""What staff can do from a page: always by POST, shown first, confirmed with a reason, recorded with the account.

The first POST shows what would happen; the second one, with the token of that page, does it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.contrib import messages
from django.db import DEFAULT_DB_ALIAS
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from mana_migration.domain.options import SKIP, WRITE_OFF, MigrationOptions, RollbackOptions
from mana_migration.domain.results import Totals
from mana_migration.engine import users
from mana_migration.errors import MigrationError, UsageError, for_database
from mana_migration.models import MigrationRun
from mana_migration.reports.formatting import one_line
from mana_migration.selectors import explanation
from mana_migration.selectors.run_list import totals_of
from mana_migration.services import dry_run, rollback, runs
from mana_migration.services.executors import background
from mana_migration.services.runs import Actor
from mana_migration.states import RunStatus, check_transition
from mana_migration.views import confirmation
from mana_migration.views.access import alias_of, staff_only
from mana_migration.views.page import render

#: Characters of a reason that are kept.
REASON_LENGTH: Final = 500

USED_UP: Final = "This confirmation was used already, is too old or belongs to another page. Look again and confirm."
NO_REASON: Final = "Give a reason: it is recorded with your account."


@dataclass(frozen=True, slots=True)
class Question:
    """What a confirmation page shows, and where its buttons lead.

    ``prepare`` gathers what the template needs and raises MigrationError where the action cannot be
    done at all; ``perform`` does it, with the reason, and returns what to say and where to go.
    """

    action: str
    target: str
    title: str
    button: str
    template: str
    back: str
    prepare: Callable[[], Mapping[str, Any]]
    perform: Callable[[str], tuple[str, str]]
    danger: bool = False


def actor_of(request: HttpRequest) -> Actor:
    """Return the staff account, on this machine, as the one who acts."""
    return Actor(request.user.get_username()[:150], socket.gethostname()[:255])


def ask(request: HttpRequest, question: Question) -> HttpResponseBase:
    """Show what would happen, or do it where it was confirmed with a reason."""
    token = request.POST.get("token")
    if token is None:
        return _show(request, question)
    reason = one_line(request.POST.get("reason", ""), REASON_LENGTH)
    if not reason:
        return _show(request, question, error=NO_REASON, status=400)
    if not confirmation.redeem(request, question.action, question.target, token):
        return _show(request, question, error=USED_UP, status=409, reason=reason)
    try:
        sentence, address = question.perform(reason)
    except UsageError as error:
        return _show(request, question, error=_said(request, error), status=400, reason=reason)
    except MigrationError as error:
        return _show(request, question, error=_said(request, error), status=409, reason=reason)
    messages.success(request, sentence)
    return HttpResponseRedirect(address)


def _said(request: HttpRequest, error: MigrationError) -> str:
    return for_database(str(error), alias_of(request))


def _show(
    request: HttpRequest, question: Question, *, error: str = "", status: int = 200, reason: str = ""
) -> HttpResponseBase:
    context: dict[str, Any] = {
        "title": question.title,
        "question": question,
        "error": error,
        "reason": reason,
        "reason_length": REASON_LENGTH,
        "posted": request.POST,
    }
    try:
        context |= question.prepare()
    except MigrationError as refusal:
        context |= {"error": _said(request, refusal), "refused": True}
        status = 409
    else:
        context["token"] = confirmation.issue(request, question.action, question.target)
    return render(request, question.template, context, status=status)


def _run(request: HttpRequest, run_id: int) -> MigrationRun:
    run = MigrationRun.objects.using(alias_of(request)).filter(pk=run_id).first()
    if run is None:
        raise Http404(f"there is no run {run_id}")
    return run


def address(request: HttpRequest, name: str, *args: Any) -> str:
    """Return the address of a page about the same database."""
    alias = alias_of(request)
    path = reverse(f"mana_migration:{name}", args=args)
    return path if alias == DEFAULT_DB_ALIAS else f"{path}?database={alias}"


# --- Pause, resume, stop ----------------------------------------------------------------------------------------------

_CHANGES: Final = {
    "pause": (RunStatus.PAUSED, runs.pause_run, "paused"),
    "resume": (RunStatus.RUNNING, runs.resume_run, "running again"),
    "stop": (RunStatus.STOPPED, runs.stop_run, "stopped"),
}


def _change(request: HttpRequest, run_id: int, action: str) -> HttpResponseBase:
    using = alias_of(request)
    run = _run(request, run_id)
    target, service, outcome = _CHANGES[action]
    page = address(request, "run", run.pk)

    def check() -> None:
        check_transition(run.pk, run.status, target)

    def perform(reason: str) -> tuple[str, str]:
        changed = service(run.pk, actor=actor_of(request), reason=reason, using=using)
        return f"Run {run.pk} is {outcome}." if changed else f"Run {run.pk} was {outcome} already.", page

    label = f"{action.capitalize()} run {run.pk}"
    return _ask_about(request, run, action, (f"{label}?", label), check=check, perform=perform)


def _ask_about(
    request: HttpRequest,
    run: MigrationRun,
    action: str,
    labels: tuple[str, str],
    *,
    check: Callable[[], object],
    perform: Callable[[str], tuple[str, str]],
) -> HttpResponseBase:
    """Ask before something is done about an open run; ``labels``: of the page and of its button."""
    title, button = labels

    def prepare() -> Mapping[str, Any]:
        check()
        totals = totals_of([run], using=alias_of(request))[run.pk]
        return {"run": run, "totals": totals, "action": action}

    return ask(
        request,
        Question(
            action=f"{action}_run",
            target=f"{alias_of(request)}:{run.pk}",
            title=title,
            button=button,
            template="confirm_change.html",
            back=address(request, "run", run.pk),
            prepare=prepare,
            perform=perform,
            danger=action == "stop",
        ),
    )


@require_POST
@staff_only("mana_migration.pause_run")
def pause(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Hold a run."""
    return _change(request, run_id, "pause")


@require_POST
@staff_only("mana_migration.resume_run")
def resume(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Let a paused run go on."""
    return _change(request, run_id, "resume")


@require_POST
@staff_only("mana_migration.stop_run")
def stop(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """End an open run for good."""
    return _change(request, run_id, "stop")


# --- Send again -------------------------------------------------------------------------------------------------------


@require_POST
@staff_only("mana_migration.resume_run")
def send_again(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Send the workers the message of an open run once more, which may be lost."""
    using = alias_of(request)
    run = _run(request, run_id)

    def perform(reason: str) -> tuple[str, str]:
        background.send_again(run.pk, actor=actor_of(request), reason=reason, using=using)
        return f"Run {run.pk} is sent to the workers again.", address(request, "run", run.pk)

    return _ask_about(
        request,
        run,
        "send_again",
        (f"Send run {run.pk} to the workers again?", f"Send run {run.pk} again"),
        check=partial(background.check_send_again, run.pk, using),
        perform=perform,
    )


# --- Start ------------------------------------------------------------------------------------------------------------


@require_POST
@staff_only("mana_migration.start_run")
def start(request: HttpRequest) -> HttpResponseBase:
    """Open a migration for a worker process."""
    using = alias_of(request)

    def prepare() -> Mapping[str, Any]:
        open_run = runs.open_run_or_none(using)
        if open_run is not None:
            raise MigrationError(runs.describe_conflict(open_run))
        return {"forecast": dry_run.forecast(MigrationOptions(), using=using)}

    def perform(reason: str) -> tuple[str, str]:
        options = MigrationOptions(limit=_limit(request), skip_invalid=request.POST.get("skip_invalid") == "on")
        run = background.ask_for_migration(options, actor=actor_of(request), reason=reason, using=using)
        return f"Run {run.pk} is open; a worker process takes it up.", address(request, "run", run.pk)

    return ask(
        request,
        Question(
            action="start_run",
            target=using,
            title="Start a migration?",
            button="Start the migration",
            template="confirm_start.html",
            back=address(request, "overview"),
            prepare=prepare,
            perform=perform,
        ),
    )


def _limit(request: HttpRequest) -> int | None:
    text = request.POST.get("limit", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 10**12):
        raise UsageError(f"limit {text[:20]!r}: give a whole number of users, or leave it empty for all")
    return int(text)


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
    """Say what a rollback would do on either terms; one look where nobody has spent the mana."""
    plain = rollback.forecast_rollback(options, using=using)
    other = plain.totals
    if plain.shortfalls:
        terms = RollbackOptions(users=options.users, run=options.run, on_shortfall=WRITE_OFF)
        other = rollback.forecast_rollback(terms, using=using).totals
    return Outlook(plain.totals, other, plain.shortfalls, plain.stops_run)


def _policy(request: HttpRequest) -> str:
    return WRITE_OFF if request.POST.get("on_shortfall") == WRITE_OFF else SKIP


@require_POST
@staff_only("mana_migration.rollback_run")
def roll_back_run(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Open a rollback of a run for a worker process."""
    using = alias_of(request)
    run = _run(request, run_id)

    def prepare() -> Mapping[str, Any]:
        found = outlook(RollbackOptions(run=run.pk), using=using)
        if not found.skipping.selected:
            raise MigrationError(f"no conversion of run {run.pk} is left to take back")
        return {"outlook": found, "write_off": WRITE_OFF, "handed_over": True}

    def perform(reason: str) -> tuple[str, str]:
        options = RollbackOptions(run=run.pk, on_shortfall=_policy(request), reason=reason)
        opened = background.ask_for_rollback(options, actor=actor_of(request), using=using)
        return f"Rollback run {opened.pk} is open; a worker process takes it up.", address(request, "run", opened.pk)

    return ask(
        request,
        Question(
            action="rollback_run",
            target=f"{using}:{run.pk}",
            title=f"Roll back run {run.pk}?",
            button=f"Roll back run {run.pk}",
            template="confirm_rollback.html",
            back=address(request, "run", run.pk),
            prepare=prepare,
            perform=perform,
            danger=True,
        ),
    )


@require_POST
@staff_only("mana_migration.rollback_user")
def roll_back_user(request: HttpRequest, key: str) -> HttpResponseBase:
    """Take one user's conversion back, at once."""
    using = alias_of(request)
    found = explanation.users_with_key(key, using)
    if not found:
        raise Http404(f"there is no user {key}")
    user = users.to_text(found[0])
    page = address(request, "user", user)

    def prepare() -> Mapping[str, Any]:
        seen = outlook(RollbackOptions(users=(user,)), using=using)
        if not seen.skipping.selected:
            raise MigrationError(f"user {user} is not migrated: there is nothing to take back")
        return {"outlook": seen, "write_off": WRITE_OFF, "handed_over": False}

    def perform(reason: str) -> tuple[str, str]:
        options = RollbackOptions(users=(user,), on_shortfall=_policy(request), reason=reason)
        done = rollback.roll_back(options, actor=actor_of(request), using=using)
        if done.totals.rolled_back:
            return f"User {user} is rolled back, by run {done.run}.", page
        why = ", ".join([*done.totals.skips, *done.totals.errors]) or "nothing to take back"
        return f"User {user} was left as they are ({why}), see run {done.run}.", page

    return ask(
        request,
        Question(
            action="rollback_user",
            target=f"{using}:{user}",
            title=f"Roll back user {user}?",
            button=f"Roll back user {user}",
            template="confirm_rollback.html",
            back=page,
            prepare=prepare,
            perform=perform,
            danger=True,
        ),
    )
