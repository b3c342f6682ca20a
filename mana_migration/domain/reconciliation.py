"""Do the figures of one run agree?  Figures from several sources in, every disagreement out; no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mana_migration.domain.report import Agreement, Reconciliation, RecordSum
from mana_migration.domain.results import Totals
from wishes.rates import COLOURS


def _worth(rates: Mapping[str, int], part: Any) -> int:
    return sum(getattr(part, colour) * int(rates.get(colour, 0)) for colour in COLOURS)


def of_migration(
    totals: Totals,
    rates: Mapping[str, int],
    sums: Sequence[RecordSum],
    ledger: tuple[int, int],
    *,
    complete: bool,
) -> Reconciliation:
    """Compare a migration's batches, records and ledger entries; rollbacks since then count as given back.

    Args:
        totals: what its batches say.
        rates: its frozen rates, in mana per wish.
        sums: what its records say.
        ledger: mana credited, and debited of it since, as its ledger entries say.
        complete: the record of every user is still there.
    """
    credited, debited = ledger
    converted = [part for part in sums if part.status in ("migrated", "rolled_back")]
    reversed_ = [part for part in converted if part.reversal_run is not None]
    worth = _worth(rates, totals)
    agreements = [
        Agreement("mana credited", "wishes converted x rates", worth, "batches", totals.mana),
        Agreement("mana credited", "batches", totals.mana, "ledger entries", credited),
    ]
    if complete:
        records = sum(part.mana_credited for part in converted)
        standing = sum(part.mana_credited for part in converted if part.status == "migrated")
        written_off = sum(part.shortfall for part in reversed_)
        wishes_after = sum(_worth(rates, part) for part in reversed_)
        agreements += [
            Agreement("mana credited", "batches", totals.mana, "users' records", records),
            Agreement(
                "worth of what was converted",
                "pre-images x rates",
                sum(_worth(rates, part) for part in converted),
                "mana credited by the records",
                records,
            ),
            Agreement(
                "mana debited since",
                "users' records",
                sum(part.mana_debited for part in reversed_),
                "ledger entries",
                debited,
            ),
            Agreement(
                "mana that stands",
                "live records",
                standing,
                "credited - debited - written off",
                credited - debited - written_off,
            ),
        ]
    else:
        # Deleted records no longer say what was written off; a conversion whose mana was debited in full left 0.
        kept = sum(part.mana_credited for part in converted if part.status == "migrated")
        wishes_after = totals.mana - kept
        written_off = wishes_after - debited
    return Reconciliation(
        before=worth,
        converted=totals.mana,
        written_off=written_off,
        mana_after=credited - debited,
        wishes_after=wishes_after,
        agreements=agreements,
    )


def of_rollback(
    totals: Totals,
    sums: Sequence[RecordSum],
    rates_of: Mapping[int, Mapping[str, int]],
    *,
    complete: bool,
) -> Reconciliation:
    """Compare a rollback's batches with the records that it took back; ``rates_of`` are those of each record's run."""
    taken = [part for part in sums if part.reversal_run is not None and part.status == "rolled_back"]
    agreements: list[Agreement] = []
    wishes_after = totals.mana + totals.shortfall
    if complete:
        wishes_after = sum(_worth(rates_of.get(part.run, {}), part) for part in taken)
        agreements = [
            Agreement(
                "mana debited", "batches", totals.mana, "users' records", sum(part.mana_debited for part in taken)
            ),
            Agreement(
                "written off", "batches", totals.shortfall, "users' records", sum(part.shortfall for part in taken)
            ),
            Agreement(
                "mana once credited",
                "users' records",
                sum(part.mana_credited for part in taken),
                "debited + written off",
                totals.mana + totals.shortfall,
            ),
        ]
        agreements += [
            Agreement(
                f"{colour} wishes given back",
                "batches",
                getattr(totals, colour),
                "users' records",
                sum(getattr(part, colour) for part in taken),
            )
            for colour in COLOURS
        ]
    return Reconciliation(
        before=totals.mana,
        converted=totals.mana,
        written_off=totals.shortfall,
        mana_after=0,
        wishes_after=wishes_after,
        agreements=agreements,
    )
