"""A run without progress: recorded and announced once by the first who notices, a monitor or a worker."""

from __future__ import annotations

from datetime import timedelta

from django.db import DatabaseError, InterfaceError, transaction
from django.utils import timezone

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.services import runs
from mana_migration.states import EventKind

#: What says already why a run makes no progress.
_KNOWN = (EventKind.STALLED, EventKind.INTERRUPTED, EventKind.WINDOW_OVER)


def note(seen: RunSnapshot | None, *, using: str, reason: str = "") -> bool:
    """Record that a run is stalled and announce it, once until it progresses again; return whether this call did.

    Nothing is recorded of a run that is closed, paused, waiting for what it has reported, or locked by another process,
    nor where this session cannot write: on a standby, or as a role that only reads.

    Args:
        seen: the run as it was just read; None where there is none.
        using: database alias.
        reason: why it makes no progress; default: what the snapshot says.
    """
    if seen is None or seen.progress.idle is None or not seen.progress.stalled or seen.waiting:
        return False
    since = seen.taken_at - timedelta(seconds=seen.progress.idle)
    message = f"no progress since {timezone.localtime(since):%Y-%m-%d %H:%M:%S %Z}: {reason or seen.standstill}"
    try:
        with transaction.atomic(using=using):
            run = runs.lock_run_if_free(seen.run, using)
            if run is None or run.events.filter(kind__in=_KNOWN, created_at__gte=since).exists():
                return False
            runs.add_event(run.pk, EventKind.STALLED, message=message, using=using)
    except (DatabaseError, InterfaceError):
        return False
    return True
