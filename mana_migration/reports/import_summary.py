"""What an import did, as lines of text."""

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
from mana_migration.domain.legacy import COLUMNS, describe

_WALLETS = {
    CREATED: ("new user", "new users"),
    GIVEN: ("user of this site without a wallet", "users of this site without a wallet"),
    UPDATED: ("unused wallet overwritten", "unused wallets overwritten"),
    UNCHANGED: ("already there with the same balances",),
    CONVERTED: ("already converted, left as it is", "already converted, left as they are"),
    DIFFERS: (
        "differs and was left as it is (--update-existing would overwrite it)",
        "differ and were left as they are (--update-existing would overwrite them)",
    ),
    IN_USE: ("differs because it is used, left as it is", "differ because they are used, left as they are"),
}


def as_lines(done: ImportSummary) -> Iterator[str]:
    """Yield the summary, one fact a line."""
    yield _figure("rows read", done.rows) + _source(done)
    for message in done.notes.values():
        yield f"  note: {message}"
    if done.spanning:
        yield _part(done.spanning, "spans lines", "span lines")
    yield _figure("good rows", done.rows - done.bad)
    for name, words in _WALLETS.items():
        if done.wallets[name]:
            yield _part(done.wallets[name], *words)
    yield from _flagged(done)
    for name, count in done.nulls.items():
        if count:
            meaning = f"in {COLUMNS[name]}, taken as {'not migrated' if name == 'migrated' else '0'}"
            yield _part(count, f"NULL {meaning}", f"NULLs {meaning}")
    yield _figure("bad rows", done.bad)
    for (code, shape), count in done.shapes.most_common():
        yield _part(count, f"{code}: {describe(code, shape)}")
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


def _flagged(done: ImportSummary) -> Iterator[str]:
    if done.flagged:
        # the flag alone does not show who was paid
        which = "with wishes and no mana, taken as not paid" if done.ledger is None else "not paid"
        unpaid = f", {done.unpaid:,} of them {which}" if done.unpaid else ""
        yield _part(done.flagged, f"flagged as migrated by the old system{unpaid}")
    for name, words in _LEDGER.items():
        if done.ledger is not None and done.ledger[name]:
            yield _part(done.ledger[name], *words)


_LEDGER = {
    "entries": ("payment or rollback in the old ledger", "payments and rollbacks in the old ledger"),
    "paid_and_spent": ("paid by the old system and spent since",),
    "never_paid": ("flagged with wishes and never paid, by the old ledger",),
    "paid_twice": (
        "paid more than once by the old system; the user keeps it",
        "paid more than once by the old system; they keep it",
    ),
    "paid_unflagged": ("paid by the old system but not flagged",),
}


def _source(done: ImportSummary) -> str:
    """Say what was read where there was something to choose, and as what."""
    if not done.rows:
        return "  (the source has no rows)"
    words = [f"from {done.part}"] if done.part is not None else []
    words += ["by primary key"] if done.match == "pk" else []
    return f"  {', '.join(words)}" if words else ""


def _figure(name: str, value: int) -> str:
    return f"{name:<18}{value:>12,}"


def _part(count: int, words: str, plural: str = "") -> str:
    return f"{count:>30,}  {words if count == 1 else plural or words}"


def _rejected(done: ImportSummary) -> Iterator[str]:
    for row in done.rejected:
        sheet = f"sheet {row.sheet!r}, " if row.sheet is not None else ""
        place = f" ({sheet}line {row.line:,})" if row.line is not None else ""
        yield f"  row {row.row:,}{place}: {row.brief}"
    if done.bad > len(done.rejected):
        where = f"in {done.rejects}" if done.rejects else "listed with --rejects FILE"
        yield f"  and {done.bad - len(done.rejected):,} more, all {where}"
    elif done.rejects:
        yield f"  listed in {done.rejects}"
    if done.rejects_with_values:
        yield f"  to be corrected and imported: {done.rejects_with_values} (personal data: delete it afterwards)"


def _verdict(done: ImportSummary) -> str:
    if done.status == "rejected":
        rows, them = ("row", "it") if done.bad == 1 else ("rows", "them")
        return (
            f"{'Nothing would be' if done.dry_run else 'Nothing was'} imported: correct the {done.bad:,} bad {rows}, "
            f"or leave {them} out with --skip-bad-rows"
        )
    if done.dry_run:
        return "Dry run: nothing was written."
    return "Nothing to import." if not done.imported else f"Imported (run {done.run})."
