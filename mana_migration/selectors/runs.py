"""What there is to see of a run: one read-only snapshot whose cost does not depend on the number of users.

It reads the run's row with its folded figures, the few batches that are not folded yet, the latest
few hundred batches of an open run and a handful of events; never a wallet or a user's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from django.db import connections
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration.domain import progress as speed
from mana_migration.domain.chain import Head
from mana_migration.domain.pressure import Pressure, in_words
from mana_migration.domain.results import Splits, Totals
from mana_migration.domain.snapshot import BatchCheck, CheckOutcome, ErrorRate, EventLine, RunLine, RunSnapshot
from mana_migration.domain.time_series import UserSeries
from mana_migration.domain.timeline import spans
from mana_migration.engine import dialect
from mana_migration.engine import totals as figures
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.models.run import MigrationRunQuerySet
from mana_migration.selectors.batch_check import batch_check
from mana_migration.selectors.run_list import totals_of
from mana_migration.states import OPEN_STATUSES, BatchStatus, EventKind, RunKind, RunStatus
from wishes.moments import MomentField
from wishes.rates import COLOURS

#: Events shown, and batches looked at for the rate now.
EVENTS_SHOWN, RECENT_BATCHES = 10, 300

#: Events considered for times without progress, the latest ones.
MARKS: Final = 500

_HOLDS: Final = {EventKind.PAUSED: True, EventKind.RESUMED: False, EventKind.STOPPED: False}
_ENDS: Final = (EventKind.INTERRUPTED, EventKind.WINDOW_OVER)
_WAITS: Final = (EventKind.THROTTLED, EventKind.DATABASE_LOST)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read of a run, before it is judged."""

    run: MigrationRun
    now: datetime
    folded: dict[str, Any]
    splits: Splits
    totals: Totals
    batch_check: BatchCheck | None
    recent: list[speed.Finished]
    history: list[RunEvent]
    marks: list[RunEvent]
    checked: RunEvent | None
    wait: RunEvent | None
    events: list[RunEvent]


def run_snapshot(
    using: str = "default", run_id: int | None = None, *, now: datetime | None = None
) -> RunSnapshot | None:
    """Return everything there is to see of a run: without an id the open one, else the latest.

    None where there is no run at all.  ``now`` is the database's clock unless given.

    Raises:
        RunNotFoundError: there is no run with that id.
    """
    with read_only_snapshot(using):
        run = find_run(using, run_id)
        if run is None:
            return None
        return snapshot_of(run, using, now=now)


def snapshot_of(run: MigrationRun, using: str, *, now: datetime | None = None) -> RunSnapshot:
    """Return everything there is to see of a run that ``find_run`` found, inside the caller's snapshot."""
    return _judge(_read(run, using, now))


def find_run(using: str, run_id: int | None = None, *, since: datetime | None = None) -> MigrationRun | None:
    """Return a run with the database's time as ``now``: the one asked for, else the open one, else the latest.

    ``since`` leaves out runs that were started before.  None where there is none.

    Raises:
        RunNotFoundError: there is no run with that id.
    """
    runs = with_now(using)
    if run_id is not None:
        return runs.numbered(run_id)
    if since is not None:
        runs = runs.filter(created_at__gte=since)
    return runs.current()


def with_now(using: str) -> MigrationRunQuerySet:
    """Return all runs, with the database's time as ``now``."""
    return MigrationRun.objects.using(using).annotate(now=Now(output_field=MomentField(always_aware=True)))


def database_time(using: str) -> datetime:
    """Return the time by the database's clock."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {dialect.now(connections[using].vendor)}", [])
        (value,) = cursor.fetchone()
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def find_migration(using: str) -> MigrationRun | None:
    """Return the run that a report is about where none is named, with the database's time as ``now``.

    That is the latest mass migration which selected users; else the run that ``find_run`` finds.  A run of selected
    users, an empty one and the rollback of a migration whose breaker tripped are not what is asked for.
    """
    for run in with_now(using).migrations().order_by("-id").iterator(chunk_size=100):
        if not run.options.get("users") and (run.is_open or figures.run_totals(run, using).selected):
            return run
    return find_run(using)


def runs_since(using: str, since: datetime) -> list[RunLine]:
    """Return the runs that were at work at that moment or later, the latest first, with their totals."""
    at_work = Q(created_at__gte=since) | Q(finished_at__gte=since) | Q(status__in=OPEN_STATUSES)
    with read_only_snapshot(using):
        runs = list(MigrationRun.objects.using(using).filter(at_work).order_by("-id"))
        totals = totals_of(runs, using=using)
    return [
        RunLine(
            run=run.pk,
            kind_label=run.get_kind_display(),
            status=run.status,
            status_label=run.get_status_display(),
            started_at=run.created_at,
            finished_at=run.finished_at,
            actor=run.actor,
            reason=run.reason,
            totals=totals[run.pk],
        )
        for run in runs
    ]


def _read(run: MigrationRun, using: str, now: datetime | None) -> _Seen:
    events = RunEvent.objects.using(using).filter(run_id=run.pk).order_by("-id")
    latest = list(events[:MARKS])
    if len(latest) == MARKS:  # a run with many failing users splits many batches
        history = list(events.exclude(kind=EventKind.BATCH_SPLIT)[:MARKS])
    else:
        history = [event for event in latest if event.kind != EventKind.BATCH_SPLIT]
    history.reverse()
    folded = figures.folded_figures(run, using)
    totals = Totals.from_dict(folded["totals"])
    return _Seen(
        run=run,
        now=now or run.now,  # type: ignore[attr-defined]
        folded=folded,
        splits=figures.splits(run, using, folded),
        totals=totals,
        batch_check=batch_check(run, totals, int(folded["batches"]), using),
        recent=_recent_batches(run, using) if run.is_open else [],
        history=history,
        marks=[event for event in history if event.kind in (*_HOLDS, *_ENDS, EventKind.RESUMED_WORK)],
        checked=_latest(history, EventKind.CHECKED),
        wait=_latest(history, *_WAITS) if run.is_open else None,
        events=latest[:EVENTS_SHOWN],
    )


def _latest(events: Sequence[RunEvent], *kinds: EventKind) -> RunEvent | None:
    return next((event for event in reversed(events) if event.kind in kinds), None)


def _recent_batches(run: MigrationRun, using: str) -> list[speed.Finished]:
    latest = MigrationBatch.objects.using(using).filter(run_id=run.pk, status=BatchStatus.DONE).order_by("-id")
    rows = latest.values_list("finished_at", "selected", "started_at")[:RECENT_BATCHES]
    return [
        speed.Finished(finished, users, max(0.0, (finished - started).total_seconds()) if started else 0.0)
        for finished, users, started in rows
        if finished is not None
    ]


def _judge(seen: _Seen) -> RunSnapshot:
    """Turn what was read into what is shown; no query is made here."""
    run, now, totals = seen.run, seen.now, seen.totals
    series = UserSeries.from_json(seen.folded["series"])
    last = seen.folded["last_progress"]
    last_progress = datetime.fromisoformat(last) if last else None
    end = now if run.is_open else (run.finished_at or now)
    points, history = series.points(), [event_line(event) for event in seen.history]
    elapsed = max(0.0, (end - run.created_at).total_seconds())
    worked = max(0.0, elapsed - speed.paused_seconds(_marks(seen.marks, series, end), end))
    progress = speed.measure(
        handled=totals.selected,
        expected=None if run.kind == RunKind.IMPORT else run.expected,
        worked=worked,
        recent=speed.recent_rate(seen.recent, now),
        idle=max(0.0, (now - _latest_life(run, last_progress, seen.marks)).total_seconds()) if run.is_open else None,
        waits=run.status == RunStatus.PAUSED or bool(_window_over(run, now)),
        checking=run.status == RunStatus.CHECKING,
        complete=run.status in (RunStatus.CHECKING, RunStatus.COMPLETED, RunStatus.FAILED),
        checked_per_second=float(run.baseline["checked_per_second"]) if "checked_per_second" in run.baseline else None,
    )
    waiting = _waiting(seen.wait, last_progress)
    left = _left(seen.marks, last_progress)
    if waiting or left:  # it cannot be known for how long
        progress = replace(progress, remaining=None)
    return RunSnapshot(
        taken_at=now,
        run=run.pk,
        kind=run.kind,
        kind_label=run.get_kind_display(),
        status=run.status,
        status_label=run.get_status_display(),
        is_open=run.is_open,
        started_at=run.created_at,
        finished_at=run.finished_at,
        actor=run.actor,
        host=run.host,
        reason=run.reason,
        stop_reason=run.stop_reason,
        target_run=run.target_run_id,
        # JSON of PostgreSQL comes back in an order of its own
        rates={colour: run.rates[colour] for colour in COLOURS if colour in run.rates},
        options=run.options,
        controls=run.controls,
        totals=totals,
        imported=int(run.baseline["imported"]["users"]) if "imported" in run.baseline else None,
        progress=progress,
        elapsed=elapsed,
        worked=worked,
        batches=int(seen.folded["batches"]),
        splits=seen.splits,
        batch_seconds=float(seen.folded["seconds"]),
        durations=_durations(seen.folded["histogram"]),
        series=points,
        marks=history,
        spans=spans(history, points, end),
        last_progress=last_progress,
        error_rate=ErrorRate(totals.failed, totals.attempted, _limit(run)),
        check=_check(seen.checked),
        batch_check=seen.batch_check,
        chain=_chain(seen),
        standstill=_standstill(run, now, progress, waiting, seen.marks, left=left),
        waiting=waiting,
        waiting_for=_waiting_for(seen.wait) if waiting else "",
        events=[event_line(event) for event in seen.events],
    )


def _marks(events: Iterable[RunEvent], series: UserSeries, end: datetime) -> list[tuple[datetime, bool]]:
    """Return when the run was held: paused, or without progress until it was resumed.

    That is so after a window or a process ended, and after a process died, which leaves no event, for a minute or more.
    """
    marks: list[tuple[datetime, bool]] = []
    ended: datetime | None = None
    for event in events:
        if event.kind in _HOLDS:
            marks.append((event.created_at, _HOLDS[EventKind(event.kind)]))
        elif event.kind == EventKind.RESUMED_WORK:
            since, died = ended, None if ended else series.latest_before(event.created_at)
            if died is not None and (event.created_at - died).total_seconds() >= speed.STALLED_AFTER:
                since = died
            if since is not None and not series.handled_between(since, event.created_at):
                marks += [(since, True), (event.created_at, False)]
        ended = event.created_at if event.kind in _ENDS else None
    if ended is not None and not series.handled_between(ended, end):
        marks.append((ended, True))
    return marks


def _latest_life(run: MigrationRun, last_progress: datetime | None, marks: Sequence[RunEvent]) -> datetime:
    """Return when the run last progressed, or was last started, or resumed."""
    alive = [mark.created_at for mark in marks if mark.kind in (EventKind.RESUMED, EventKind.RESUMED_WORK)]
    latest: datetime = max([run.created_at, *alive[-1:], *([last_progress] if last_progress else [])])
    return latest


def _limit(run: MigrationRun) -> float | None:
    """Return the breaker's limit as a share; None for a rollback and for named users, who have no breaker."""
    if run.kind != RunKind.MIGRATION or run.options.get("users"):
        return None
    threshold = run.controls.get("error_threshold")
    return None if threshold is None else float(Decimal(str(threshold)) / 100)


def _durations(histogram: dict[str, int]) -> list[tuple[str, int]]:
    """Return the histogram in order, from the fastest bucket used to the slowest used."""
    order = [*(str(bound) for bound in figures.BUCKETS), "+Inf"]
    used = [place for place, name in enumerate(order) if histogram.get(name)]
    if not used:
        return []
    return [(name, int(histogram.get(name, 0))) for name in order[used[0] : used[-1] + 1]]


def _check(event: RunEvent | None) -> CheckOutcome | None:
    if event is None:
        return None
    ok = event.details.get("ok")
    return CheckOutcome(
        event.created_at, ok if isinstance(ok, bool) else None, event_line(event).message, event.details
    )


def _waiting(event: RunEvent | None, last_progress: datetime | None) -> str:
    """Return why the run goes slowly or not at all, if it said so after its last progress."""
    if event is None or (last_progress is not None and event.created_at <= last_progress):
        return ""
    if event.details.get("wait") == "none":  # it has recovered
        return ""
    if pressure := _pressure(event):  # events of earlier versions put it in other words
        return in_words(pressure, event.details["reason"])
    return event.message or EventKind(event.kind).label.lower()


def _pressure(event: RunEvent) -> Pressure:
    """Return the load of an event that has its reason; else none."""
    word = str(event.details.get("wait", "")).upper()
    known = event.kind == EventKind.THROTTLED and event.details.get("reason") and word in Pressure.__members__
    return Pressure[word] if known else Pressure.NONE


def _waiting_for(event: RunEvent | None) -> str:
    """Return the fixed word for what the run waits for; empty where the event has none."""
    if event is None:
        return ""
    return str(event.details.get("sign", "")) if event.kind == EventKind.THROTTLED else EventKind(event.kind).value


def _left(marks: Sequence[RunEvent], last_progress: datetime | None) -> bool:
    """Say whether a process was asked to end and nothing was done since."""
    if not marks or marks[-1].kind != EventKind.INTERRUPTED:
        return False
    return last_progress is None or last_progress <= marks[-1].created_at


def _window_over(run: MigrationRun, now: datetime) -> datetime | None:
    """Return when the window of an open run ended; None where it has none, or has not ended."""
    until = run.controls.get("until") if run.status == RunStatus.RUNNING else ""
    end = datetime.fromisoformat(until) if until else None
    return end if end is not None and end <= now else None


def _standstill(
    run: MigrationRun, now: datetime, progress: speed.Progress, waiting: str, marks: Sequence[RunEvent], *, left: bool
) -> str:
    """Return why an open run makes no progress; empty where it does."""
    if run.status == RunStatus.PAUSED:
        pause = next((mark for mark in reversed(marks) if mark.kind == EventKind.PAUSED), None)
        if pause is None or not pause.actor:
            return _("paused")
        sentence = _("paused by {actor} because {reason}") if pause.message else _("paused by {actor}")
        return sentence.format(actor=pause.actor, reason=pause.message)
    if over := _window_over(run, now):
        until = f"{timezone.localtime(over):%Y-%m-%d %H:%M %Z}"
        return _("its window ended at {until}; give the same command again to resume it, or change the window").format(
            until=until
        )
    if left and run.status == RunStatus.RUNNING:
        return _("its process was asked to end; give the same command again to resume")
    if not progress.stalled or waiting:
        return waiting if progress.stalled else ""
    return (
        _("no process seems to run its integrity checks; give the same command again to resume it")
        if run.status == RunStatus.CHECKING
        else _("no process seems to work on it; give the same command again to resume it")
    )


#: What a wait is called among the events, by what the event says of it.
_WAIT_LABELS: Final = {
    "hard": gettext_lazy("Waiting"),
    "wallets": gettext_lazy("Waiting"),
    "soft": gettext_lazy("Slowed down"),
    "none": gettext_lazy("Resuming"),
}


def event_line(event: RunEvent) -> EventLine:
    """Return an event in words, with a message made from its details where it has none."""
    details, message, label = event.details, event.message, event.get_kind_display()
    if event.kind == EventKind.THROTTLED and details.get("wait") in _WAIT_LABELS:
        label = str(_WAIT_LABELS[details["wait"]])
        message = _("the database has recovered") if details["wait"] == "none" else details.get("reason") or message
    if event.kind == EventKind.SETTING_CHANGED and "setting" in details:
        change = _("{setting} from {old} to {new}").format(
            setting=details["setting"], old=details.get("old"), new=details.get("new")
        )
        message = f"{change}: {message}" if message else change
    if event.kind == EventKind.CHECKED and not message and "ok" in details:
        broken = ", ".join(f"{name} {count:,}" for name, count in (details.get("checks") or {}).items())
        message = _("all checks passed") if details["ok"] else _("a check failed")
        message += f" ({broken})" if broken else ""
    return EventLine(
        at=event.created_at,
        kind=event.kind,
        label=label,
        actor=event.actor,
        message=message,
        details=details,
    )


def _chain(seen: _Seen) -> Head | None:
    known = seen.folded.get("chain")
    return Head(seen.run.pk, known["links"], known["head"]) if known else None
