"""One row of the legacy export: a clean row, or every reason why it is none.

Plain Python: no Django, no database.  Nothing is ever coerced: a value that is not exactly what its
column holds makes the row a bad one, and the operator decides.  Values never appear in a reason,
because a shifted column may put a person's name anywhere.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

#: Our names of the columns, and what the export calls them.
COLUMNS: Final = {
    "id": "id",
    "green": "green_balance",
    "blue": "blue_balance",
    "red": "red_balance",
    "mana": "mana_balance",
    "migrated": "legacy_migration_completed",
}

#: Columns of the export that are known and never read.
IGNORED_COLUMNS: Final = ("name",)

BALANCES: Final = ("green", "blue", "red", "mana")

#: The range of a BIGINT column.
BIGINT_MAX: Final = 2**63 - 1
BIGINT_MIN: Final = -(2**63)

#: From here on a float no longer holds every whole number.
FLOAT_EXACT: Final = 2**53

#: Characters of a bad id that the list of rejected rows shows.
SHOWN_ID: Final = 200

#: Why a row is bad, by the code that scripts read.
REASONS: Final = {
    "missing_id": "there is no id",
    "invalid_id": "the id is no plain text or whole number (a fraction, a truth value, outer blanks, line ends)",
    "id_too_long": "the id is longer than a username may be",
    "not_a_number": "text or a date stands where a whole number belongs",
    "formula": "a formula stands where a whole number belongs",
    "fraction": "a fraction stands where a whole number belongs",
    "not_finite": "NaN or infinity stands where a whole number belongs",
    "boolean": "a truth value stands where a whole number belongs",
    "inexact": "the number is too large for the format it is stored in, which has rounded it",
    "out_of_range": "the number is beyond the range of BIGINT",
    "negative_mana": "the mana is negative",
    "unknown_flag": "the flag is neither yes nor no",
    "missing_value": "the row lacks this column",
    "wrong_field_count": "the row has more or fewer fields than the header",
    "not_an_object": "the entry is no JSON object",
    "repeated_key": "the JSON object has a key twice",
    "flagged_unpaid": "flagged as migrated, with wishes and no mana; --unpaid-flag says what such users are",
    "duplicate_id": "the id stands in an earlier row",
}

FLAGS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "0"), 0),
}

_CACHED: Final = 16_384
_ID = "id"
_NO: Final = frozenset(word for word, flag in FLAGS.items() if not flag)
_PLAIN_ID: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch


class Typing(Enum):
    """How a source holds its numbers."""

    TEXT = "text"
    """Everything is text (CSV): digits are numbers, an empty field is NULL."""
    EXACT = "exact"
    """Whole numbers and fractions are told apart (JSON): text and 1.0 are no whole numbers."""
    FLOATS = "floats"
    """Whole numbers may come as floats or decimals (XLSX, databases): 1.0 is 1 below 2**53."""


class UnpaidFlag(Enum):
    """What a user is who was flagged as migrated but has wishes and no mana."""

    REJECT = "reject"
    MIGRATED = "migrated"
    PENDING = "pending"


class Marker(Enum):
    """What a reader found in the place of a value or of a whole row."""

    ABSENT = "missing_value"
    FRACTION = "fraction"
    NOT_FINITE = "not_finite"
    HUGE = "out_of_range"
    TEXT = "not_a_number"
    FORMULA = "formula"
    WRONG_FIELD_COUNT = "wrong_field_count"
    NOT_AN_OBJECT = "not_an_object"
    REPEATED_KEY = "repeated_key"


class GoodRow(NamedTuple):
    """A user of the old system.

    ``migrated``: 1 for a user who arrives migrated, else 0; ``nulls``: a bit for each column that
    was NULL; ``flagged``: 0 no flag, 1 flagged, 2 flagged without having been paid.
    """

    id: str
    green: int
    blue: int
    red: int
    mana: int
    migrated: int
    nulls: int
    flagged: int


#: Makes a row of a tuple, in half the time of calling the class.
_good: Final[Callable[[tuple[Any, ...]], GoodRow]] = partial(tuple.__new__, GoodRow)


class BadRow(NamedTuple):
    """A row that is not imported.

    ``id`` is set where the id itself is sound, so that later rows with it are duplicates; ``shown``
    is what the list of rejected rows shows otherwise.  ``problem``: ``code:column`` of each reason,
    separated by blanks.
    """

    id: str | None
    shown: str
    problem: str


#: Bits of ``GoodRow.nulls``, lowest first.
NULLABLE: Final = (*BALANCES, "migrated")


@dataclass(frozen=True, slots=True)
class RowRules:
    """What a row is judged by.

    ``worth``: the mana that green, blue and red wishes are worth, to tell a flag without payment;
    ``id_length``: characters that a username may have, None for any; ``unpaid``: what a row that is
    flagged without payment is.
    """

    typing: Typing
    worth: Callable[[int, int, int], int]
    id_length: int | None = 150
    unpaid: UnpaidFlag = UnpaidFlag.REJECT


class RowParser:
    """Judge raw rows, one after the other; remembers the numbers it has seen, because most come again."""

    def __init__(self, rules: RowRules) -> None:
        self._rules = rules
        self._text = rules.typing is Typing.TEXT
        self._known: dict[str, int] = {}
        self._limit = rules.id_length if rules.id_length is not None else math.inf

    def parse(self, values: Sequence[Any] | Marker) -> GoodRow | BadRow:
        """Return the clean row, or what is wrong with it.

        ``values`` has the raw values of ``COLUMNS`` in their order; a marker stands for a row that
        has no values.
        """
        if isinstance(values, Marker):
            return BadRow(None, "", values.value)
        key, green, blue, red, mana, flag = values
        # Note [The common row]: nearly all rows are plain, and are told by a few look-ups.  Whatever is not plain,
        # even if good, takes the long way; both ways give the same row, which a property test compares.
        if type(key) is str and _PLAIN_ID(key) and len(key) <= self._limit:
            if self._text:
                known = self._known
                if green in known and blue in known and red in known and flag in _NO and known.get(mana, -1) >= 0:
                    return _good((key, known[green], known[blue], known[red], known[mana], 0, 0, 0))
            elif (
                type(green) is type(blue) is type(red) is type(mana) is int
                and flag is False
                and 0 <= mana <= BIGINT_MAX
                and BIGINT_MIN <= green <= BIGINT_MAX
                and BIGINT_MIN <= blue <= BIGINT_MAX
                and BIGINT_MIN <= red <= BIGINT_MAX
            ):
                return _good((key, green, blue, red, mana, 0, 0, 0))
        return self._judge(values)

    def _judge(self, values: Sequence[Any]) -> GoodRow | BadRow:
        problems: list[str] = []
        nulls = 0
        key = self._id(values[0])
        if isinstance(key, Problem):
            problems.append(f"{key.code}:{_ID}")
        amounts: list[int] = []
        for bit, (name, value) in enumerate(zip(BALANCES, values[1:5], strict=True)):
            amount = self._number(value)
            if isinstance(amount, Problem):
                problems.append(f"{amount.code}:{COLUMNS[name]}")
                amounts.append(0)
            else:
                nulls |= (amount is None) << bit
                amounts.append(amount or 0)
        if amounts[3] < 0:
            problems.append(f"negative_mana:{COLUMNS['mana']}")
        flag = parse_flag(values[5])
        if isinstance(flag, Problem):
            problems.append(f"{flag.code}:{COLUMNS['migrated']}")
        elif flag is None:
            nulls |= 1 << len(BALANCES)
        green, blue, red, mana = amounts
        arrives = flagged = 1 if flag == 1 else 0
        if flagged and not problems and mana == 0 and self._rules.worth(green, blue, red) > 0:
            flagged = 2
            if self._rules.unpaid is UnpaidFlag.REJECT:
                problems.append(f"flagged_unpaid:{COLUMNS['migrated']}")
            elif self._rules.unpaid is UnpaidFlag.PENDING:
                arrives = 0
        if problems or isinstance(key, Problem):
            sound = None if isinstance(key, Problem) else key
            return BadRow(sound, "" if sound is not None else shown_id(values[0]), " ".join(problems))
        return GoodRow(key, green, blue, red, mana, arrives, nulls, flagged)

    def _id(self, value: Any) -> str | Problem:
        if self._rules.typing is Typing.FLOATS and isinstance(value, (float, Decimal)):
            value = _whole(value)
        return parse_id(value, self._limit)

    def _number(self, value: Any) -> int | Problem | None:
        if self._text and isinstance(value, str):
            number = parse_digits(value)
            if isinstance(number, int) and len(self._known) < _CACHED:
                self._known[value] = number
            return number
        return parse_number(value, floats=self._rules.typing is Typing.FLOATS)


class Problem(NamedTuple):
    """Why a value is none; ``code`` is a key of ``REASONS``."""

    code: str


def parse_id(value: Any, limit: float = math.inf) -> str | Problem:
    """Return a row's id as text: text as it is, whole numbers and UUIDs as they are written."""
    if value is None or value == "" or value is Marker.ABSENT:
        return Problem("missing_id" if value is not Marker.ABSENT else "missing_value")
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        return Problem("invalid_id")
    if isinstance(value, int) and not BIGINT_MIN <= value <= BIGINT_MAX:
        return Problem("invalid_id")
    text = str(value)
    if len(text) > limit:
        return Problem("id_too_long")
    if text != text.strip() or not _is_plain(text):
        return Problem("invalid_id")
    return text


def _is_plain(text: str) -> bool:
    if text.isprintable():
        return True
    # joiners and marks of writing direction are part of some scripts; line ends, control characters and halves of
    # characters are part of none
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def parse_digits(text: str) -> int | Problem | None:
    """Return the whole number that a text writes in plain digits, None for an empty text."""
    if text == "":
        return None
    digits = text[1:] if text[0] in "+-" else text
    if digits.isascii() and digits.isdigit():
        if len(digits.lstrip("0")) > 19:
            return Problem("out_of_range")
        return _in_range(int(text))
    return Problem(_kind_of_text(text))


def _kind_of_text(text: str) -> str:
    """Tell a fraction and NaN from other text; all of them are refused."""
    if len(text) > 100 or not text.isascii() or "_" in text:
        return "not_a_number"
    try:
        number = float(text)
    except ValueError:
        return "not_a_number"
    if text != text.strip():
        return "not_a_number"
    spelled = text.strip("+-").lower().startswith(("inf", "nan"))
    return "not_finite" if spelled and not math.isfinite(number) else "fraction"


def parse_number(value: Any, *, floats: bool) -> int | Problem | None:
    """Return the whole number that a typed value is, None for NULL.

    ``floats``: whether the source has floats only, so that 1.0 is a whole number.
    """
    if isinstance(value, bool):
        return Problem("boolean")
    if isinstance(value, (float, Decimal)):
        whole = _whole(value) if floats else value
        return _in_range(whole) if isinstance(whole, int) else Problem(_kind_of_fraction(value, floats=floats))
    if isinstance(value, int):
        return _in_range(value)
    if isinstance(value, Marker):
        return Problem(value.value)
    return None if value is None else Problem("not_a_number")


def _kind_of_fraction(value: float | Decimal, *, floats: bool) -> str:
    if not _is_finite(value):
        return "not_finite"
    return "inexact" if floats and isinstance(value, float) and abs(value) >= FLOAT_EXACT else "fraction"


def _is_finite(value: float | Decimal) -> bool:
    # math.isfinite would turn a decimal into a float first
    return value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)


def _whole(value: float | Decimal) -> int | float | Decimal:
    """Return the whole number that a float or decimal holds exactly, else the value itself."""
    if not _is_finite(value):
        return value
    if isinstance(value, Decimal):
        if value.adjusted() > 40:  # never write out 1E+999999
            return BIGINT_MAX + 1
        return int(value) if value == value.to_integral_value() else value
    return int(value) if value.is_integer() and abs(value) < FLOAT_EXACT else value


def _in_range(number: int) -> int | Problem:
    return number if BIGINT_MIN <= number <= BIGINT_MAX else Problem("out_of_range")


def parse_flag(value: Any) -> int | Problem | None:
    """Return 1 or 0 for the flag's words, numbers and truth values, None for NULL."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return int(value)
    if isinstance(value, str):
        return FLAGS.get(value.lower(), Problem("unknown_flag"))
    return Problem("missing_value" if value is Marker.ABSENT else "unknown_flag")


def shown_id(value: Any) -> str:
    """Return what the list of rejected rows shows of an unsound id: at most ``SHOWN_ID`` printable characters."""
    if value is None or isinstance(value, Marker):
        return ""
    if not isinstance(value, (str, int, float, Decimal)) or (isinstance(value, int) and abs(value) > 10**SHOWN_ID):
        return f"({type(value).__name__})"
    text = str(value)[: SHOWN_ID + 1]
    text = text if len(text) <= SHOWN_ID else text[:SHOWN_ID] + "…"
    return "".join(character if character.isprintable() else "�" for character in text)


def decode_problem(problem: str) -> list[tuple[str, str]]:
    """Return (code, column) of each reason; the column is empty where the whole row is meant."""
    pairs = (part.partition(":") for part in problem.split())
    return [(code, column) for code, _, column in pairs]


def explain(problem: str, first_row: int | None, columns: Mapping[str, str]) -> str:
    """Return the reasons as one sentence for the operator, with the source's own column names.

    ``first_row``: the row that has the id already; ``columns``: the source's names by ours.
    """
    own = {standard: columns.get(name, standard) for name, standard in COLUMNS.items()}
    parts = [
        f"{own.get(column, column)}: {REASONS[code]}" if column else REASONS[code]
        for code, column in decode_problem(problem)
    ]
    if first_row is not None:
        parts.append(f"{own['id']}: the id stands in row {first_row:,} already")
    return "; ".join(parts)
