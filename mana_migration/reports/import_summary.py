"""What an import did, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from mana_migration.domain.import_results import (
    CONVERTED,
    CREATED,
    DIFFERS,
    GIVEN,
    IN_USE,
    UNCHANGED,
    UPDATED,
    ImportSummary,
)
from mana_migration.domain.legacy import COLUMNS, REASONS

_WALLETS = {
    CREATED: "new users",
    GIVEN: "users who were there without a wallet",
    UPDATED: "unused wallets overwritten",
    UNCHANGED: "already there with the same balances",
    CONVERTED: "already converted, left as they are",
    DIFFERS: "differ and were left as they are (--update-existing would overwrite them)",
    IN_USE: "differ because they are used, left as they are",
}


def as_lines(done: ImportSummary) -> Iterator[str]:
    """Yield the summary, one fact a line."""
    yield _figure("rows read", done.rows) + ("" if done.rows else "  (the source has no rows)")
    yield _figure("good rows", done.rows - done.bad)
    for name, words in _WALLETS.items():
        if done.wallets[name]:
            yield _part(done.wallets[name], words)
    if done.flagged:
        unpaid = f", {done.unpaid:,} of them never paid" if done.unpaid else ""
        yield _part(done.flagged, f"flagged as migrated by the old system{unpaid}")
    for name, count in done.nulls.items():
        if count:
            yield _part(count, f"NULLs in {COLUMNS[name]}, taken as {'not migrated' if name == 'migrated' else '0'}")
    yield _figure("bad rows", done.bad)
    for code, count in done.reasons.most_common():
        yield _part(count, f"{code}: {REASONS[code]}")
    yield from _rejected(done)
    yield _figure("would be imported" if done.dry_run else "imported", done.imported)
    if done.imported:
        for name, total in done.balances.items():
            yield _part(total, name)
        if any(done.left_behind.values()):
            left = ", ".join(f"{total:,} {name}" for name, total in done.left_behind.items())
            yield f"left behind: {left} wishes that the old system left at users whom it had migrated"
    yield f"{'seconds':<18}{done.seconds:>12,.1f}"
    yield _verdict(done)


def _figure(name: str, value: int) -> str:
    return f"{name:<18}{value:>12,}"


def _part(count: int, words: str) -> str:
    return f"{count:>30,}  {words}"


def _rejected(done: ImportSummary) -> Iterator[str]:
    for row in done.rejected:
        place = f" (line {row.line:,})" if row.line is not None else ""
        yield f"  row {row.row:,}{place}: {row.message}"
    if done.bad > len(done.rejected):
        where = f"in {done.rejects}" if done.rejects else "listed with --rejects FILE"
        yield f"  and {done.bad - len(done.rejected):,} more, all {where}"
    elif done.rejects:
        yield f"  listed in {done.rejects}"


def _verdict(done: ImportSummary) -> str:
    if done.status == "rejected":
        return (
            f"{'Nothing would be' if done.dry_run else 'Nothing was'} imported: correct the {done.bad:,} bad rows, "
            "or leave them out with --skip-bad-rows"
        )
    if done.dry_run:
        return "Dry run: nothing was written."
    return "Nothing to import." if not done.imported else f"Imported (run {done.run})."
