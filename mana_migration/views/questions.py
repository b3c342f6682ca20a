"""Asking before something is done: a page that can be opened by GET, whose POST acts.

The page shows what would happen with what is typed into its form, and carries a token for exactly that.
Whatever goes wrong, the page is shown again with everything that was typed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration.errors import MigrationError, UsageError, for_database
from mana_migration.reports.formatting import one_line
from mana_migration.services import logs
from mana_migration.services.context import Actor, RunContext
from mana_migration.views import confirmation, typed
from mana_migration.views.page import alias_of, render

#: Characters of a reason that are kept.
REASON_LENGTH: Final = 500

USED_UP: Final = gettext_lazy(
    "This confirmation was used already, is too old or belongs to another page. Check the figures and confirm again."
)
CHANGED: Final = gettext_lazy("The form was changed after the preview. Check the new preview and confirm again.")
NO_REASON: Final = gettext_lazy("Give a reason: it is recorded with your account.")

Values = Mapping[str, str]


class RefusedError(MigrationError):
    """What is asked for cannot be done as things are; the message is for the page."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done: a sentence, where to go on, and whether anything was changed at all."""

    sentence: str
    address: str
    changed: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """What a confirmation page shows, and where its buttons lead.

    ``prepare`` gathers what the template needs for what is typed and raises MigrationError where the
    action cannot be done at all; ``perform`` does it, with what is typed and the reason.  ``terms``
    puts what is typed and decides about the effect into words that a token can carry.
    """

    action: str
    target: str
    title: str
    button: str
    template: str
    back: str
    prepare: Callable[[Values], Mapping[str, Any]]
    perform: Callable[[Values, str], Outcome]
    terms: Callable[[Values], str] = lambda values: ""
    danger: bool = False


def actor_of(request: HttpRequest) -> Actor:
    """Return the staff account, on this machine, as the one who acts."""
    return Actor(request.user.get_username()[:150], socket.gethostname()[:255])


def context_of(request: HttpRequest) -> RunContext:
    """Return how a page starts work: on its database, by the staff account."""
    return RunContext(using=alias_of(request), actor=actor_of(request))


def ask(request: HttpRequest, question: Question) -> HttpResponseBase:
    """Show what would happen, or do it where it was confirmed with a reason."""
    values = typed.values(request)
    token = request.POST.get("token")
    if token is None or "preview" in request.POST:
        return _show(request, question, values)
    reason = one_line(values.get("reason", ""), REASON_LENGTH)
    if not reason:
        return _show(request, question, values, error=NO_REASON, status=400)
    try:
        confirmation.redeem(request, question.action, question.target, token, question.terms(values))
        kind = logs.ROLLBACK if question.action.startswith("rollback") else logs.MIGRATION
        with logs.of_this_thread(kind, database=alias_of(request)):
            done = question.perform(values, reason)
    except (confirmation.StaleTokenError, confirmation.OtherTermsError, MigrationError) as error:
        status = 400 if isinstance(error, UsageError) else 409
        return _show(request, question, values, error=_words(request, error), status=status)
    (messages.success if done.changed else messages.warning)(request, done.sentence)
    return HttpResponseRedirect(done.address)


def _words(request: HttpRequest, error: Exception) -> str:
    if isinstance(error, confirmation.StaleTokenError):
        return str(USED_UP)
    if isinstance(error, confirmation.OtherTermsError):
        return str(CHANGED)
    values = getattr(error, "values", None)
    sentence = _(error.message).format(**values) if values and isinstance(error, MigrationError) else str(error)
    return for_database(sentence, alias_of(request))


def _show(
    request: HttpRequest, question: Question, values: Values, *, error: str | Promise = "", status: int = 200
) -> HttpResponseBase:
    context: dict[str, Any] = {
        "title": question.title,
        "question": question,
        "error": error,
        "reason": values.get("reason", ""),
        "reason_length": REASON_LENGTH,
        "typed": values,
    }
    try:
        context |= question.prepare(values)
        if not context.get("unusable"):
            context["token"] = confirmation.issue(request, question.action, question.target, question.terms(values))
    except UsageError as refusal:
        context |= {"error": _words(request, refusal), "unusable": True}
        status = 400
    except MigrationError as refusal:
        context |= {"error": _words(request, refusal), "refused": True}
        status = 409
    return render(request, question.template, context, status=status)
