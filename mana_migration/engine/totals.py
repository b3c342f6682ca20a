"""A run's figures: what is folded on the run, plus the few batches that are not folded yet.

# Note [Folding]
A hundred million users in batches of fifty are two million batches: too many to sum up each
time.  The worker that plans the next batches, holding the run's row lock, also adds the figures of the
batches done since to ``run.folded`` and marks them.  At any time only the batches of the last
planning or two are unfolded, so that reading a run costs the same whatever its size.  Figures
are kept as JSON because sums over users may pass BIGINT, and stay exact there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.db import connections

from mana_migration.domain.results import FIGURES, Splits, Totals
from mana_migration.domain.time_series import UserSeries
from mana_migration.engine import chain
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.states import BatchStatus
from wishes.moments import from_database

#: Upper bounds, in seconds, of the histogram of batch durations; the last is open.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Batches read first to find the latest ones, a thousand users at the usual size; then twice as many.
PAGE: Final = 20

_COLUMNS = (*FIGURES, "errors", "skips", "started_at", "finished_at", "digest")


def empty() -> dict[str, Any]:
    """Return the folded figures of a run that has not begun."""
    return {
        "totals": Totals().as_dict(),
        "batches": 0,
        "seconds": 0.0,
        "histogram": {},
        "series": UserSeries().as_json(),
        "last_progress": None,
    }


def unfolded(run_id: int, using: str) -> list[dict[str, Any]]:
    """Return the figures of the batches done but not folded yet, oldest first; at most a few hundred."""
    batches = MigrationBatch.objects.using(using).filter(run_id=run_id, folded=False, status=BatchStatus.DONE)
    return list(batches.order_by("finished_at", "id").values("id", *_COLUMNS))


def add_batches(folded: dict[str, Any], batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return folded figures with those of these batches added; the argument is left as it was."""
    result = {**empty(), **folded}
    totals = Totals.from_dict(result["totals"])
    histogram = dict(result["histogram"])
    series = UserSeries.from_json(result["series"])
    last: datetime | None = None
    for batch in batches:
        for name in FIGURES:
            if batch[name]:
                setattr(totals, name, getattr(totals, name) + batch[name])
        totals.errors.update(batch["errors"])
        totals.skips.update(batch["skips"])
        result["batches"] += 1
        last = batch["finished_at"]
        seconds = max(0.0, (last - batch["started_at"]).total_seconds()) if last and batch["started_at"] else 0.0
        result["seconds"] += seconds
        bucket = next((str(bound) for bound in BUCKETS if seconds <= bound), "+Inf")
        histogram[bucket] = histogram.get(bucket, 0) + 1
        if last is not None:
            series.start = series.start or batch["started_at"]
            series.add(last, batch["selected"])
    result["totals"], result["histogram"] = totals.as_dict(), histogram
    if last is not None:
        result["series"] = series.as_json()
        result["last_progress"] = last.isoformat()
    return result


def folded_figures(run: MigrationRun, using: str) -> dict[str, Any]:
    """Return the run's figures as of now, in the shape of ``run.folded``."""
    return add_batches(run.folded, unfolded(run.pk, using))


def run_totals(run: MigrationRun, using: str) -> Totals:
    """Return the run's totals as of now."""
    return Totals.from_dict(folded_figures(run, using)["totals"])


def fold(run: MigrationRun, using: str) -> None:
    """Fold and link the batches done so far; the caller holds the run's row and saves ``folded``."""
    batches = _read_unfolded(run.pk, using)
    if not batches:
        return
    known = dict(run.folded.get("chain", {}))
    chain.write_links(connections[using], chain.link(run, known, batches))
    run.folded = {**add_batches(run.folded, batches), "chain": known}


def count_planned(run: MigrationRun, batches: int) -> None:
    """Count batches that were planned; the caller holds the run's row and saves ``folded``."""
    known = run.folded.get("planned_batches", None if run.planned_users else 0)
    if known is not None and batches:  # None: it was opened by an earlier version, which did not count
        run.folded = {**run.folded, "planned_batches": known + batches}


def splits(run: MigrationRun, using: str, figures: dict[str, Any]) -> Splits:
    """Return how often a batch of this run was split, of which there is no count: each time makes one batch more.

    ``figures``: what ``folded_figures`` returned just now.
    """
    planned = figures.get("planned_batches")
    if planned is None:
        return Splits()
    others = MigrationBatch.objects.using(using).filter(run_id=run.pk, folded=False).exclude(status=BatchStatus.DONE)
    batches = figures["batches"] + others.count()
    return Splits(max(0, batches - planned), batches)


def _read_unfolded(run_id: int, using: str) -> list[dict[str, Any]]:
    """Return what ``unfolded`` returns; on PostgreSQL without the cost of making Django's values."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return unfolded(run_id, using)
    names = ("id", *_COLUMNS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(names)} FROM mana_migration_migrationbatch "
            "WHERE run_id = %s AND NOT folded AND status = 'done' ORDER BY finished_at, id",
            [run_id],
        )
        batches = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    for batch in batches:
        batch["errors"], batch["skips"] = json.loads(batch["errors"]), json.loads(batch["skips"])
        for name in ("started_at", "finished_at"):
            batch[name] = batch[name] and from_database(batch[name], connection)
    return batches


def latest(run_id: int, using: str, *, attempted: int) -> Totals:
    """Return the totals of the latest batches that together attempted at least this many users."""
    totals, batches = Totals(), MigrationBatch.objects.using(using).filter(run_id=run_id, status=BatchStatus.DONE)
    newest, size, left = batches.order_by("-id").values("id", *_COLUMNS), PAGE, attempted + 1
    while page := list(newest[: min(size, left)]):
        for batch in page:
            totals.add(Totals.from_dict(batch))
            if totals.attempted >= attempted:
                return totals
        newest, size, left = newest.filter(id__lt=page[-1]["id"]), 2 * size, left - len(page)
    return totals
