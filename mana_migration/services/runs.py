"""The life of a run: the only writer of runs and their events."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now
from django.utils import timezone
from django.utils.translation import gettext as _

from mana_migration.domain.options import Controls
from mana_migration.domain.results import FIGURES
from mana_migration.engine import chain, dialect, totals
from mana_migration.engine.failures import keeping_rows
from mana_migration.engine.integrity import quick
from mana_migration.errors import RunConflictError, RunNotFoundError
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import logs, notifications
from mana_migration.services.context import Actor
from mana_migration.states import Action, BatchStatus, EventKind, RunKind, RunStatus, StopCause, check_transition
from wishes.moments import from_database

#: Checks among which one is searched for that says how long a check takes, and the users that it was of at least.
CHECKS_CONSIDERED, LEAST_CHECKED = 20, 1_000


def get_run(run_id: int | None, *, using: str) -> MigrationRun:
    """Return a run; without an id the open one, else the latest.

    Raises:
        RunNotFoundError: there is no such run.
    """
    runs = MigrationRun.objects.using(using)
    if run_id is not None:
        return runs.numbered(run_id)
    found = runs.exclude(kind=RunKind.IMPORT).current()
    if found is None:
        raise RunNotFoundError("there is no run yet; start one with migrate_users")
    return found


def open_or_named_run(run_id: int | None, *, using: str, already: RunStatus | None = None) -> MigrationRun:
    """Return a run to be controlled: the one named, else the open one, else the latest if it is ``already`` so.

    Raises:
        RunNotFoundError: there is no such run, or none is named and none is open.
    """
    if run_id is not None:
        return get_run(run_id, using=using)
    found = open_run_or_none(using)
    if found is None:
        found = get_run(None, using=using)
        if found.status != already:
            raise RunNotFoundError(f"no run is open; the latest is run {found.pk}, which is {found.status_words}")
    return found


def open_run_or_none(using: str) -> MigrationRun | None:
    """Return the open mass run, None where there is none."""
    return MigrationRun.objects.using(using).open().first()


def create_run(
    *,
    using: str,
    kind: RunKind,
    options: Mapping[str, Any],
    rates: Mapping[str, int],
    controls: Controls,
    actor: Actor,
    reason: str = "",
    status: RunStatus = RunStatus.RUNNING,
    target_run: int | None = None,
    expected: int | None = None,
    baseline: Mapping[str, Any] | None = None,
    message: str = "",
) -> MigrationRun:
    """Create a run with its first event; an open one takes the database's one slot.

    Raises:
        RunConflictError: another mass run is open.
    """
    try:
        with transaction.atomic(using=using):
            run = MigrationRun(
                kind=kind,
                status=status,
                options=dict(options),
                rates=dict(rates),
                controls=controls.as_dict(),
                actor=actor.name,
                host=actor.host,
                reason=reason,
                target_run_id=target_run,
                expected=expected,
                baseline={**(baseline or {}), **(_speed_of_checks(using) if status.is_open else {})},
                folded=totals.empty(),
                finished_at=None if status.is_open else Now(),
            )
            with keeping_rows("mana_migration_migrationrun"):
                run.save(using=using, force_insert=True)
            if run.finished_at is not None:
                run.refresh_from_db(using=using, fields=["finished_at"])  # the database's own time
            with logs.written_to(logs.ROLLBACK if run.is_rollback else logs.MIGRATION):  # the breaker's as well
                add_event(run.pk, EventKind.STARTED, actor=actor, message=message or reason, using=using)
                logs.write(logging.INFO, f"run {run.pk}: {_asked(run)}", run=run.pk, kind=str(kind), users=expected)
    except IntegrityError as error:
        if "one_open_run" not in str(error):
            raise
        other = open_run_or_none(using)
        raise RunConflictError(describe_conflict(other)) from error
    return run


def _speed_of_checks(using: str) -> dict[str, str]:
    """Return how many users the latest check of a run that says something about others checked in a second.

    It is kept with the run, so that looking at the run does not search for it.
    """
    checks = RunEvent.objects.using(using).filter(kind=EventKind.CHECKED).select_related("run").order_by("-id")
    for event in checks[:CHECKS_CONSIDERED]:
        users = int(event.run.folded.get("totals", {}).get("selected", 0)) if event.run else 0
        if users >= LEAST_CHECKED and (seconds := event.details.get("seconds")):
            return {"checked_per_second": str(max(1, round(users / float(seconds))))}
    return {}


def _asked(run: MigrationRun) -> str:
    """Return what a run was asked for, in a line: its controls, and the options that differ from the usual."""
    asked = {name: value for name, value in run.options.items() if value not in (None, False, "", [])}
    selected = asked.pop("users", None)
    if selected:
        asked["selected_users"] = len(selected)
    return ", ".join(f"{name} {value}" for name, value in (run.controls | asked).items())


def describe_conflict(other: MigrationRun | None) -> str:
    """Say which run holds the slot and what to do about it."""
    if other is None:
        return _("another run was open a moment ago; give the command again")
    return _(
        "{run} is {status} since {moment} on {host}; let it finish, or stop it with control_migration stop {number}"
    ).format(
        run=other.description,
        status=other.status_words,
        moment=f"{timezone.localtime(other.created_at):%Y-%m-%d %H:%M}",
        host=other.host,
        number=other.pk,
    )


def refuse_paused(run: MigrationRun) -> None:
    """Refuse to work on a run that an operator has paused.

    Raises:
        RunConflictError: it is paused.
    """
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(
            _("run {run} is paused; resume it with control_migration resume {run}").format(run=run.pk)
        )


def add_event(
    run_id: int,
    kind: EventKind,
    *,
    actor: Actor | None = None,
    message: str = "",
    details: Mapping[str, Any] | None = None,
    request: int | None = None,
    using: str,
) -> RunEvent:
    """Record what happened to a run; ``request``: the one that it was opened by."""
    logs.run_event(run_id, kind, details or {})
    notifications.announce(run_id, kind, reason=message, using=using)
    event = RunEvent(
        run_id=run_id,
        request_id=request,
        kind=str(kind),
        actor=actor.name if actor else "",
        message=message,
        details=dict(details or {}),
    )
    with transaction.atomic(using=using):
        event.link = chain.event_link(using, run_id, event)
        with keeping_rows("mana_migration_runevent"):
            event.save(using=using, force_insert=True)
    return event


def note_resumed_work(run_id: int, *, actor: Actor, using: str) -> None:
    """Record that a process joins an open run."""
    add_event(run_id, EventKind.RESUMED_WORK, actor=actor, message=f"on {actor.host}", using=using)


def lock_run(run_id: int, using: str) -> MigrationRun:
    """Return a run with its row locked; the caller is in a transaction.

    Raises:
        RunNotFoundError: there is no such run.
    """
    return MigrationRun.objects.using(using).locked().numbered(run_id)


def lock_run_if_free(run_id: int, using: str) -> MigrationRun | None:
    """Return a run with its row locked, None where another process holds it; the caller is in a transaction."""
    return MigrationRun.objects.using(using).locked(skip_locked=True).filter(pk=run_id).first()


def change_status(
    run_id: int,
    target: RunStatus,
    *,
    actor: Actor,
    cause: StopCause | None = None,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    using: str,
) -> bool:
    """Change a run's status, with its event; return False where it has that status already.

    Args:
        run_id: the run.
        target: the new status.
        actor: who changes it.
        cause: why it ends early, or failed; None for any other change.
        reason: the same in words; for the event alone where there is no cause.
        details: more for the event.
        using: database alias.

    Raises:
        RunNotFoundError: there is no such run.
        TransitionError: the run cannot change to it from the status that it has.
    """
    with transaction.atomic(using=using):
        run = lock_run(run_id, using)
        if run.status == target:
            return False
        check_transition(run.pk, run.status, target)
        run.status = target
        if cause is not None:
            run.stop_cause, run.stop_reason = cause, reason
        ends = not target.is_open
        if ends and run.finished_at is None:
            run.finished_at = Greatest(Now(), F("created_at"))  # the clock may have been set back
        run.save(using=using, update_fields=["status", "stop_cause", "stop_reason", "finished_at"])
        if ends:
            cancel_planned(run, using)
            totals.fold(run, using)
            run.folded = {**run.folded, quick.RECORDS_UNTIL: quick.newest_record(connections[using])}
            run.save(using=using, update_fields=["folded"])
            figures = totals.run_totals(run, using)
            logs.write(
                logging.INFO,
                f"run {run.pk}: {run.status_words}",
                run=run.pk,
                status=str(target),
                **{name: getattr(figures, name) for name in FIGURES},
            )
        if target.state.event is not None:
            add_event(run.pk, target.state.event, actor=actor, message=reason, details=details, using=using)
    return True


def to_checking(run_id: int, *, actor: Actor, using: str, joining: bool = False) -> bool:
    """Change a run whose users are all processed to ``checking``; return whether the caller is to check it.

    False where another process ended it meanwhile, and with ``joining`` also where another one is checking it.
    """
    with transaction.atomic(using=using):
        run = lock_run(run_id, using)
        if run.status == RunStatus.RUNNING:
            change_status(run_id, RunStatus.CHECKING, actor=actor, using=using)
            return True
        return run.status == RunStatus.CHECKING and not joining


def find_breaker_rollback(run_id: int, *, using: str) -> MigrationRun | None:
    """Return the open rollback of a run whose breaker tripped; None where there is none."""
    run = open_run_or_none(using)
    return run if run is not None and run.tripped_run == run_id else None


def end_check(run_id: int, *, broken: str = "", actor: Actor, details: Mapping[str, Any], using: str) -> bool:
    """Record what the checks of a run found and close it; return False where another process did so meanwhile.

    ``broken``: the checks that failed, with their counts; empty where all passed.
    """
    with transaction.atomic(using=using):
        run = lock_run(run_id, using)
        if run.status != RunStatus.CHECKING:
            return False
        add_event(run_id, EventKind.CHECKED, actor=actor, details=details, using=using)
        if not broken:
            return change_status(run_id, RunStatus.COMPLETED, actor=actor, using=using)
        reason = f"the check after the {run.get_kind_display().lower()} found {broken}"
        logs.write(logging.ERROR, "the check after the run found violations", run=run_id, reason=broken)
        return change_status(
            run_id, RunStatus.FAILED, actor=actor, cause=StopCause.INTEGRITY, reason=reason, using=using
        )


def database_now(using: str) -> datetime:
    """Return the database's own time, by which records are dated: machines need not agree on theirs."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {dialect.now(connection.vendor)}", [])
        (moment,) = cursor.fetchone()
    return from_database(moment if isinstance(moment, datetime) else datetime.fromisoformat(moment), connection)


def share_open_migration(using: str, *, wait: bool = True) -> MigrationRun | None:
    """Return the open migration run, kept from ending until the caller's transaction does; None where there is none.

    ``FOR SHARE`` on the run's row: any number of application transactions hold it side by side, and
    pausing, stopping or tripping the run waits for them.  Without ``wait`` a run whose row is locked
    by another transaction counts as none.
    """
    connection = connections[using]
    lock = ("FOR SHARE" if wait else "FOR SHARE SKIP LOCKED") if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM mana_migration_migrationrun "
            f"WHERE kind = 'migration' AND status IN ('running', 'paused') {lock}"
        )
        row = cursor.fetchone()
    return None if row is None else MigrationRun.objects.using(using).get(pk=row[0])


def seconds_since(moment: str) -> float:
    """Return the seconds since a moment kept as ISO text; never negative."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def cancel_planned(run: MigrationRun, using: str) -> None:
    """Cancel the batches that are not handled yet; waits for those being handled, which stay done.

    One that is split while this waits for it leaves a batch that the same UPDATE does not see.
    """
    planned = MigrationBatch.objects.using(using).planned().filter(run=run)
    while planned.exists():
        planned.update(status=BatchStatus.CANCELLED, finished_at=Now(), folded=True)


def end_window(run_id: int, *, using: str) -> bool:
    """Record, once for each window, that it is over and the run stays open; return whether that is so.

    False where the window was moved meanwhile, or another process ended the run or is checking it.
    """
    with transaction.atomic(using=using):
        run = lock_run(run_id, using)
        controls = run.controls_in_force
        if not run.is_open or run.status == RunStatus.CHECKING or not controls.window_is_over():
            return False
        latest = run.events.order_by("-id").first()
        if latest is None or latest.kind != EventKind.WINDOW_OVER:
            add_event(run_id, EventKind.WINDOW_OVER, message=f"the window ended at {controls.until}", using=using)
    return True


def set_window(run: MigrationRun, until: str, *, actor: Actor, using: str) -> None:
    """Give an open run the window of the command that resumes it, or none."""
    if run.controls_in_force.until != until:
        change_controls(run.pk, {"until": until}, actor=actor, using=using)


def pause_run(run_id: int, *, actor: Actor, reason: str, using: str = "default") -> bool:
    """Pause a run: its workers finish their current batch and wait.  Returns False where it is paused already.

    Raises:
        RunNotFoundError, TransitionError: there is no such run, or it is not running.
    """
    return change_status(run_id, RunStatus.PAUSED, actor=actor, reason=reason, using=using)


def resume_run(run_id: int, *, actor: Actor, reason: str, using: str = "default") -> bool:
    """Resume a paused run: its workers continue within seconds.  Returns False where it is running already.

    Raises:
        RunNotFoundError, TransitionError: there is no such run, or it is closed.
    """
    return change_status(run_id, RunStatus.RUNNING, actor=actor, reason=reason, using=using)


def stop_run(run_id: int, *, actor: Actor, reason: str, using: str = "default") -> bool:
    """End an open run for good: what it did is kept, the rest is for the next run.

    Raises:
        RunNotFoundError, TransitionError: there is no such run, or it is closed.
    """
    return change_status(run_id, RunStatus.STOPPED, actor=actor, cause=StopCause.OPERATOR, reason=reason, using=using)


def change_controls(
    run_id: int, changes: Mapping[str, Any], *, actor: Actor, reason: str = "", using: str = "default"
) -> Controls:
    """Change the batch size, delay, error threshold or window of an open run, in force from its next planning or batch.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: it is closed.
        UsageError: a value is out of range.
    """
    with transaction.atomic(using=using):
        run = lock_run(run_id, using)
        if not run.allows(Action.SET):
            raise RunConflictError(
                _("run {run} is {status}: its settings can no longer be changed").format(
                    run=run_id, status=run.status_words
                )
            )
        old = run.controls_in_force
        new = Controls.from_dict({**old.as_dict(), **changes})
        before, after = old.as_dict(), new.as_dict()
        for name in Controls.NAMES:
            if after.get(name) != before.get(name):
                add_event(
                    run.pk,
                    EventKind.SETTING_CHANGED,
                    actor=actor,
                    message=reason,
                    details={"setting": name, "old": before.get(name, "none"), "new": after.get(name, "none")},
                    using=using,
                )
        run.controls = after
        run.save(using=using, update_fields=["controls"])
    return new
