"""Figures of many runs at once: for lists of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mana_migration.domain.results import Totals
from mana_migration.engine.totals import add_batches
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.states import BatchStatus


def totals_of(runs: Iterable[MigrationRun], *, using: str) -> dict[int, Totals]:
    """Return the totals of each run as of now, by id; one query, whatever their number and size."""
    shown = {run.pk: run for run in runs}
    unfolded: dict[int, list[dict[str, Any]]] = defaultdict(list)
    batches = MigrationBatch.objects.using(using).filter(run__in=shown, folded=False, status=BatchStatus.DONE)
    for batch in batches.order_by("finished_at", "id").values():
        unfolded[batch["run_id"]].append(dict(batch))
    return {key: Totals.from_dict(add_batches(run.folded, unfolded[key])["totals"]) for key, run in shown.items()}
