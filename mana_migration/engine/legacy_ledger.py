"""The old system's ledger: which users it paid, as far as that was not rolled back."""

from __future__ import annotations

from collections.abc import Iterator

from mana_migration.domain.legacy import (
    LEDGER_KINDS,
    Marker,
    RowRules,
    Typing,
    describe,
    parse_digits,
    parse_id,
    parse_number,
)
from mana_migration.domain.shapes import Shape
from mana_migration.engine.sources import LegacySource
from mana_migration.errors import SourceError


def payments(source: LegacySource, rules: RowRules) -> Iterator[tuple[str, int, int]]:
    """Yield (user, 1 or -1, mana with that sign) of each payment and each payment that was rolled back.

    Raises:
        SourceError: an entry that counts is not clean; who was paid is then not certain.
    """
    for number, (line, values) in enumerate(source.rows(), 1):
        where = f"legacy ledger, row {number:,}" + (f" (line {line:,})" if line is not None else "")
        if isinstance(values, Marker):
            raise SourceError(f"{where}: {describe(values.value, '')}")
        key, kind, amount = values
        sign = LEDGER_KINDS.get(kind) if isinstance(kind, str) else None
        if sign is None:
            continue
        user = parse_id(key, rules)
        if isinstance(user, Shape):
            raise SourceError(f"{where}, user: {describe(*user)}")
        mana = _number(amount, source.typing)
        if isinstance(mana, Shape):
            raise SourceError(f"{where}, mana: {describe(*mana)}")
        yield user, sign, sign * abs(mana)


def _number(value: object, typing: Typing) -> int | Shape:
    if typing is Typing.TEXT and isinstance(value, str):
        found = 0 if value in ("", "\\N") else parse_digits(value)
    else:
        found = parse_number(value, floats=typing is Typing.FLOATS)
    return 0 if found is None else found
