"""Approval of mass runs by a second person: what is asked for, approved, declined or withdrawn, each step an event.

# Note [One request, one run]
An approval opens the run in the transaction that marks the request as approved, with the request's row locked.  So of
two people who approve at once one opens the run and the other one reads that it was approved; a crash leaves neither.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _

from mana_migration import conf
from mana_migration.domain.options import Controls
from mana_migration.errors import MigrationError
from mana_migration.models import MigrationRun, RunEvent, RunRequest
from mana_migration.services import logs, notifications, runs
from mana_migration.services.context import Actor
from mana_migration.states import EventKind, RequestStatus, RunKind

_STEPS: Final = {RequestStatus.DECLINED: EventKind.DECLINED, RequestStatus.WITHDRAWN: EventKind.WITHDRAWN}


class ApprovalError(MigrationError):
    """A mass run lacks a second person's approval, or a request can no longer be decided on, or not by this person."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved a mass run, and why; ``request``: what was approved on the pages, None on the command line."""

    by: str = ""
    reason: str = ""
    request: int | None = None


def require(approval: Approval, *, actor: Actor, using: str) -> None:
    """Refuse a mass run that no second person has approved, where the site wants that.

    Raises:
        ApprovalError: nobody else is named, or the request was decided on, has expired or is the approver's own.
    """
    if approval.request is not None:
        get_waiting(approval.request, by=approval.by, using=using)
    elif conf.approval_hours() and not actor.differs_from(approval.by):
        own = _("--approved-by names yourself; ") if approval.by else ""
        raise ApprovalError(
            _(
                "a mass run needs a second person's approval here (MANA_MIGRATION_APPROVAL_HOURS); {own}ask for it on "
                "the staff pages, or name that person with --approved-by NAME"
            ).format(own=own)
        )


def ask(
    kind: RunKind,
    *,
    options: Mapping[str, Any],
    controls: Controls,
    workers: int | None = None,
    preview: Mapping[str, Any],
    reason: str,
    actor: Actor,
    using: str = "default",
) -> RunRequest:
    """Ask for a mass run.

    Args:
        kind: of the run.
        options, controls: as they are frozen on the run.
        workers: Celery tasks that are to share it; None for the setting's.
        preview: what the run would do now, by the names of figures.
        reason, actor: why, and who asks.
        using: the database's alias.
    """
    with transaction.atomic(using=using):
        request = RunRequest.objects.using(using).create(
            kind=kind,
            options=dict(options),
            controls=controls.as_dict(),
            workers=workers,
            preview=dict(preview),
            actor=actor.name,
            host=actor.host,
            reason=reason,
        )
        _add_event(request, EventKind.REQUESTED, actor=actor, message=reason, using=using)
        notifications.ask_for_approval(request.pk, str(request.get_kind_display()), using=using)
    return request


def get_waiting(request_id: int, *, by: str, using: str) -> RunRequest:
    """Return a request that this person may approve or decline.

    Raises:
        ApprovalError: there is no such request, it is decided on, it has expired or it is the person's own.
    """
    request = _get(request_id, using)
    if not Actor(request.actor, request.host).differs_from(by):
        raise ApprovalError(
            _("request {request} is your own: a second person approves or declines it").format(request=request.pk)
        )
    if is_expired(request, using):
        raise ApprovalError(
            _(
                "request {request} is more than {hours} h old: it cannot be approved any more; ask for the run again"
            ).format(request=request.pk, hours=conf.approval_hours())
        )
    return request


def is_expired(request: RunRequest, using: str) -> bool:
    """Say whether a request has waited for longer than the site allows."""
    hours = conf.approval_hours()
    waits = request.status == RequestStatus.WAITING
    return waits and bool(hours) and runs.database_now(using) - request.created_at > timedelta(hours=hours)


def lock(approval: Approval, using: str) -> None:
    """Lock the request that is being approved until the caller's transaction ends; see Note [One request, one run].

    Raises:
        ApprovalError: another person decided on it meanwhile.
    """
    if approval.request is not None:
        _get(approval.request, using, locked=True)


def record(approval: Approval, run: MigrationRun, *, actor: Actor, using: str) -> None:
    """Record on the run, and on its request, who approved it; in the transaction that opened the run."""
    if approval.request is not None:
        RunRequest.objects.using(using).filter(pk=approval.request).update(status=RequestStatus.APPROVED, run=run)
        approver, message = Actor(approval.by, actor.host), approval.reason
    elif approval.by:
        approver, message = actor, f"{approval.by} approved it, by --approved-by"
    else:
        return
    details = {} if approval.request is None else {"request": approval.request}
    runs.add_event(
        run.pk,
        EventKind.APPROVED,
        actor=approver,
        message=message,
        details=details,
        request=approval.request,
        using=using,
    )


def check_close(request_id: int, status: RequestStatus, *, actor: Actor, using: str) -> None:
    """Refuse to decline one's own request, or to withdraw another person's.

    Raises:
        ApprovalError: so it would be, there is no such request, or it is decided on.
    """
    request = _get(request_id, using)
    others = actor.differs_from(request.actor)
    if status == RequestStatus.DECLINED and not others:
        raise ApprovalError(_("request {request} is your own: withdraw it instead").format(request=request.pk))
    if status == RequestStatus.WITHDRAWN and others:
        raise ApprovalError(_("request {request} is another person's: decline it instead").format(request=request.pk))


def close(request_id: int, status: RequestStatus, *, actor: Actor, reason: str, using: str = "default") -> None:
    """Decline another person's request, or withdraw one's own.

    Raises:
        ApprovalError: see ``check_close``.
    """
    check_close(request_id, status, actor=actor, using=using)
    with transaction.atomic(using=using):
        request = _get(request_id, using, locked=True)
        request.status = status
        request.save(using=using, update_fields=["status"])
        _add_event(request, _STEPS[status], actor=actor, message=reason, using=using)


def _get(request_id: int, using: str, *, locked: bool = False) -> RunRequest:
    """Return a request that waits."""
    requests = RunRequest.objects.using(using)
    request = (requests.select_for_update() if locked else requests).filter(pk=request_id).first()
    if request is None:
        raise ApprovalError(_("there is no request {request}").format(request=request_id))
    if request.status != RequestStatus.WAITING:
        sentence = (
            _("request {request} was {status} already, which opened run {run}")
            if request.run_id
            else _("request {request} was {status} already")
        )
        status = str(request.get_status_display()).lower()
        raise ApprovalError(sentence.format(request=request.pk, status=status, run=request.run_id))
    return request


def _add_event(request: RunRequest, kind: EventKind, *, actor: Actor, message: str, using: str) -> None:
    RunEvent.objects.using(using).create(request=request, kind=kind, actor=actor.name, message=message)
    logs.write(logging.INFO, f"request {request.pk}: {kind}", kind=str(request.kind), event=str(kind))
