"""Closing the migration for good: what must hold before, what it forbids, and what may be removed afterwards."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from mana_migration.domain.chain import Walk
from mana_migration.domain.words import counted
from mana_migration.engine import chain
from mana_migration.errors import ArchiveError, MigrationError
from mana_migration.models import Closing, MigrationRun
from mana_migration.services import archive, logs, preflight, runs, validation
from mana_migration.services.context import Actor
from mana_migration.states import RunKind


class ClosingError(MigrationError):
    """The migration cannot be closed or reopened now, or is closed."""


def current(using: str) -> Closing | None:
    """Return how the migration was closed; None while it is open."""
    latest = Closing.objects.using(using).first()
    return latest if latest is not None and latest.closed else None


def close(*, actor: Actor, reason: str, using: str = "default") -> Closing:
    """Close the migration for good, after a clean validation of everything.

    Raises:
        ClosingError: it is closed already, a run is open, no user was ever migrated, or error-level findings remain.
    """
    preflight.check(using)
    if (before := current(using)) is not None:
        raise ClosingError(f"the migration is closed already, since {timezone.localtime(before.created_at):%Y-%m-%d}")
    run = runs.open_run_or_none(using)
    if run is not None:
        raise ClosingError(f"{run} is open; let it finish, or stop it, then close the migration")
    if not MigrationRun.objects.using(using).filter(kind=RunKind.MIGRATION).exists():
        raise ClosingError("there is no migration run, so there is nothing to close")
    report = validation.validate(using)
    if report.error_count:
        found = ", ".join(f"{check.id} {check.count:,}" for check in report.checks if check.blocks)
        remain, them = ("remains", "it") if report.error_count == 1 else ("remain", "them")
        raise ClosingError(
            f"{counted(report.error_count, 'error-level finding')} {remain} ({found}); "
            f"validate_migration lists {them}, --fix-issues corrects what can be proved"
        )
    details = {
        "totals": report.totals,
        "checks": {check.id: check.count for check in report.checks if check.count},
        "heads": _heads(report.walk),
    }
    with transaction.atomic(using=using):
        logs.write(logging.INFO, "the migration was closed", reason=reason)
        return _record(closed=True, actor=actor, reason=reason, details=details, using=using)


def reopen(*, actor: Actor, reason: str, using: str = "default") -> Closing:
    """Reopen the migration, so that mass runs and rollbacks are possible again.

    Raises:
        ClosingError: it is not closed.
    """
    if current(using) is None:
        raise ClosingError("the migration is not closed, so it cannot be reopened")
    logs.write(logging.INFO, "the migration was reopened", reason=reason)
    return _record(closed=False, actor=actor, reason=reason, details={}, using=using)


def require_open(using: str, *, actor: Actor, approved_by: str = "") -> None:
    """Refuse a mass run or a mass rollback once the migration is closed, unless a second person approved it.

    Raises:
        ClosingError: it is closed and no second person is named.
    """
    closing = current(using)
    if closing is None or actor.differs_from(approved_by):
        return
    since = f"{timezone.localtime(closing.created_at):%Y-%m-%d %H:%M %Z} by {closing.actor}"
    own = _("--approved-by names yourself; ") if approved_by else ""
    raise ClosingError(
        _(
            "the migration was closed on {since}; {own}reopen it with control_migration reopen, or for a rollback name "
            "a second person with rollback_migration --approved-by NAME"
        ).format(since=since, own=own)
    )


def removable(folder: Path, *, using: str = "default") -> list[str]:
    """Return what still keeps the tables of ``mana_migration`` from being removed; empty: nothing does.

    Args:
        folder: where ``archive_runs`` has put the archives of all runs; each is verified against the database.
        using: the database's alias.
    """
    problems = [] if current(using) is not None else ["the migration is not closed: control_migration close"]
    heads = _heads(chain.walk(using))
    for run in MigrationRun.objects.using(using).order_by("pk"):
        path = folder / archive.file_name(run.pk)
        expected = heads.get(str(run.pk), "")
        try:
            found = archive.verify(path, expected=expected)
        except ArchiveError as error:
            problems.append(f"run {run.pk} has no valid archive: {error}")
            continue
        if found.head != expected:
            problems.append(f"run {run.pk}: {path} ends with the head {found.head}, the database with {expected}")
    return problems


def _heads(walk: Walk | None) -> dict[str, str]:
    """Return the head of each run's chain, by the run's number; runs without batches have none."""
    return {str(head.run): head.head for head in walk.heads} if walk is not None else {}


def _record(*, closed: bool, actor: Actor, reason: str, details: dict[str, Any], using: str) -> Closing:
    return Closing.objects.using(using).create(
        closed=closed, reason=reason, details=details, actor=actor.name, host=actor.host
    )
