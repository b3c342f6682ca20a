"""Sums over the whole ledger, and what everything together should be worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import dialect
from mana_migration.engine.integrity.scope import Scope, rows
from wishes.rates import COLOURS

#: The kinds of entries of mana that change the value of all wallets together.
BOOKED: Final = ("earn", "spend", "adjustment")


@dataclass(frozen=True, slots=True)
class LedgerSums:
    """All entries of the mana ledger by kind: their number and their exact sum; and how many had a negative balance."""

    numbers: dict[str, int]
    sums: dict[str, int]
    negative: int

    @property
    def entries(self) -> int:
        """Return the number of all entries."""
        return sum(self.numbers.values())

    def of(self, *kinds: str) -> int:
        """Return the sum over some kinds, in mana."""
        return sum(self.sums.get(kind, 0) for kind in kinds)


def ledger_sums(connection: BaseDatabaseWrapper, *, after: int = 0, scope: Scope | None = None) -> LedgerSums:
    """Sum up the mana ledger by kind, in one pass, or what of it has an id beyond ``after``; or some users' entries."""
    whole, _ = ledger_sums_twice(connection, after=after, later=after, scope=scope)
    return whole


def ledger_sums_twice(
    connection: BaseDatabaseWrapper, *, after: int, later: int, scope: Scope | None = None
) -> tuple[LedgerSums, LedgerSums]:
    """Sum up what of the mana ledger has an id beyond ``after``, and what of that beyond ``later``, in one pass."""
    scope = scope or Scope()
    vendor = connection.vendor
    found = rows(
        connection,
        "SELECT id > %(later)s, kind, COUNT(*), COUNT(*) FILTER (WHERE balance_after < 0), "
        f"{dialect.exact_sum(vendor, 'amount')} FROM wishes_manaentry "
        f"WHERE {scope.sql('user_id')}{' AND id > %(beyond)s' if after else ''} GROUP BY 1, kind",
        scope,
        beyond=after,  # "after" is a key of the scope
        later=later,
    )
    return _sums(vendor, found), _sums(vendor, [row for row in found if row[0]])


def _sums(vendor: str, found: Sequence[tuple[Any, ...]]) -> LedgerSums:
    numbers, sums, negatives = Counter[str](), Counter[str](), 0
    for _, kind, number, negative, first, second in found:
        numbers[kind] += int(number)
        sums[kind] += dialect.combine(vendor, first, second)
        negatives += int(negative)
    return LedgerSums(dict(numbers), dict(sums), negatives)


def booked_value(
    connection: BaseDatabaseWrapper, rates: Mapping[str, int], sums: LedgerSums, *, wishes_after: int = 0
) -> int:
    """Return what services, imports, write-offs and fixes have added to all wallets, in mana at these rates.

    ``sums`` and ``wishes_after``: of the ledgers' entries only those that were summed up, and those beyond an id.
    """
    return sum(booked_parts(connection, rates, sums, wishes_after=wishes_after).values())


def booked_parts(
    connection: BaseDatabaseWrapper, rates: Mapping[str, int], sums: LedgerSums, *, wishes_after: int = 0
) -> dict[str, int]:
    """Return the parts of ``booked_value`` by what they are."""
    written_off = _sum(
        connection,
        "b.shortfall",
        "mana_migration_migrationbatch b JOIN mana_migration_migrationrun o ON o.id = b.run_id "
        "WHERE o.kind = 'rollback' AND b.status = 'done'",
    )
    fixes = _sum(connection, "mana_change", "mana_migration_integrityfix") + sum(
        rate * _sum(connection, f"{colour}_change", "mana_migration_integrityfix") for colour, rate in rates.items()
    )
    return {
        "mana earned, spent or adjusted by the site": sums.of(*BOOKED),
        "wishes earned or spent by the site": _wishes_booked(connection, rates, wishes_after),
        "written off by rollbacks": written_off,
        "corrected by auto-fix": fixes,
        "imported": _imported(connection, rates),
    }


def booked_between(
    connection: BaseDatabaseWrapper, rates: Mapping[str, int], *, mana: tuple[int, int], wishes: tuple[int, int]
) -> int:
    """Return what entries with ids from one, excluded, to another added to all wallets, in mana at these rates."""
    vendor, (after, until) = connection.vendor, mana
    ((first, second),) = rows(
        connection,
        f"SELECT {dialect.exact_sum(vendor, 'amount')} FROM wishes_manaentry "
        f"WHERE kind IN {BOOKED} AND id > %(after)s AND id <= %(until)s",
        Scope(),
        after=after,
        until=until,
    )
    return dialect.combine(vendor, first, second) + _wishes_booked(connection, rates, *wishes)


def _wishes_booked(
    connection: BaseDatabaseWrapper, rates: Mapping[str, int], after: int, until: int | None = None
) -> int:
    found = rows(
        connection,
        f"SELECT colour, {dialect.exact_sum(connection.vendor, 'amount')} FROM wishes_wishentry "
        # adjustments are fixes, counted apart
        f"WHERE kind <> 'adjustment' AND id > %(after)s {'' if until is None else 'AND id <= %(until)s'} "
        "GROUP BY colour",
        Scope(),
        after=after,
        until=until,
    )
    return sum(rates[colour] * dialect.combine(connection.vendor, first, second) for colour, first, second in found)


def _imported(connection: BaseDatabaseWrapper, rates: Mapping[str, int]) -> int:
    """Return the value that imports brought in, as each has recorded it."""
    text = (
        "o.baseline->'imported'->>'{}'"
        if connection.vendor == "postgresql"
        else "json_extract(o.baseline, '$.imported.{}')"
    )
    columns = ", ".join(text.format(name) for name in (*COLOURS, "mana"))
    found = rows(connection, f"SELECT {columns} FROM mana_migration_migrationrun o WHERE o.kind = 'import'", Scope())
    worths = {**rates, "mana": 1}
    return sum(
        worths[name] * int(value) for row in found for name, value in zip((*COLOURS, "mana"), row, strict=True) if value
    )


def _sum(connection: BaseDatabaseWrapper, expression: str, source: str) -> int:
    ((first, second),) = rows(
        connection, f"SELECT {dialect.exact_sum(connection.vendor, expression)} FROM {source}", Scope()
    )
    return dialect.combine(connection.vendor, first, second)
