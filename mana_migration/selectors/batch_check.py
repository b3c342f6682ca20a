"""Whether the batches of a run conserved value, from their own rows: known while the run works, at no cost."""

from __future__ import annotations

from mana_migration.domain.results import Totals
from mana_migration.domain.snapshot import BatchCheck
from mana_migration.models import MigrationRun
from mana_migration.states import RunKind
from wishes.rates import COLOURS, Rates


def batch_check(run: MigrationRun, totals: Totals, batches: int, using: str) -> BatchCheck | None:
    """Compare the mana that a run's batches moved with the worth of the wishes they converted or gave back.

    A batch is done only where the rows that it wrote are those that it picked, and its row says what they add up to.
    Sums are compared first; single batches are read only where these differ.  None for an import, which converts
    nothing.

    Args:
        run: the run.
        totals: the sums over its batches.
        batches: how many are done.
        using: the alias of the database.
    """
    if run.kind == RunKind.IMPORT:
        return None
    rates = _rates(run, using)
    if rates is None:  # conversions at different rates are reversed, each at its own
        return BatchCheck(batches, conserved=None)
    if _moved(totals) == rates.worth(totals.green, totals.blue, totals.red):
        return BatchCheck(batches, conserved=True)
    wrong = [
        batch
        for batch, mana, shortfall, *wishes in run.batches.using(using)
        .done()
        .order_by("pk")
        .values_list("pk", "mana", "shortfall", *COLOURS)
        .iterator()
        if mana + shortfall != rates.worth(*wishes)
    ]
    return BatchCheck(batches - len(wrong), conserved=False, first_wrong=wrong[0] if wrong else None)


def _moved(totals: Totals) -> int:
    return totals.mana + totals.shortfall


def _rates(run: MigrationRun, using: str) -> Rates | None:
    """Return the rates that all conversions of a run, or all that it reverses, have; None where they differ."""
    if not run.is_rollback:
        return Rates.from_mapping(run.rates)
    runs = MigrationRun.objects.using(using).migrations()
    if run.target_run_id is not None:
        runs = runs.filter(pk=run.target_run_id)
    found = list(runs.order_by().values_list("rates", flat=True).distinct()[:2])
    return Rates.from_mapping(found[0]) if len(found) == 1 else None
