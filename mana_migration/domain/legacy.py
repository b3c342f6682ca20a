"""One row of the legacy export: a clean row, or every reason why it is not.

Plain Python.  Nothing is ever coerced: a value that is not exactly what its column holds makes the row a bad one, and
the operator decides.  Values never appear in a reason, because a shifted column may put a person's name anywhere.
"""

from __future__ import annotations

import datetime
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

from mana_migration.domain.shapes import LITERAL, SHAPES, Shape, character_shape, id_shape, letter_shape, number_shape

#: Our names of the columns, and what the export calls them.
COLUMNS: Final = {
    "id": "id",
    "green": "green_balance",
    "blue": "blue_balance",
    "red": "red_balance",
    "mana": "mana_balance",
    "migrated": "legacy_migration_completed",
}

#: Our names of the columns of the old ledger, and what it calls them.
LEDGER_COLUMNS: Final = {
    "ledger_user": "user_id",
    "ledger_kind": "transaction_category",
    "ledger_mana": "mana_amount",
}

#: Kinds of the old ledger that count, and whether they add a payment or take one back.
LEDGER_KINDS: Final = {"migration": 1, "migration_rollback": -1}

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

#: Why a row is bad, by the code that scripts read, and the cure; where a value has a shape, that one has the cure.
REASONS: Final = {
    "missing_id": ("there is no id", "give the user one, or leave the row out"),
    "invalid_id": ("not an id that an account can have", "correct it"),
    "id_too_long": ("the id is longer than a username may be", "correct it"),
    "not_a_number": ("not a whole number", "correct it"),
    "formula": ("a formula instead of a number", "replace formulas by their values"),
    "fraction": ("a fraction or an exponent instead of a plain whole number", "correct it"),
    "not_finite": ("NaN or infinity instead of a number", "give --null WORD if it means NULL"),
    "boolean": ("a truth value instead of a number", "correct the row; its fields may be shifted"),
    "inexact": ("the number has more digits than its format keeps and may be rounded", "export it as text or as CSV"),
    "out_of_range": ("the number is beyond the range of BIGINT", "correct it"),
    "negative_mana": ("the mana is negative", "correct it"),
    "unknown_flag": ("the flag is neither yes nor no", "write true or false"),
    "missing_value": ("the row lacks this column", "write null if there is no value"),
    "wrong_field_count": (
        "the row has more or fewer fields than the header",
        "enclose text that has separators or line ends in quotes",
    ),
    "broken_quotes": ("a quotation mark opens or ends a field in the wrong place", "correct the quotes of this line"),
    "spans_records": (
        "a quoted field contains lines that look like rows of their own",
        "add or remove the quotation mark that is missing or one too many in its first or last line",
    ),
    "row_too_long": (
        "the row is longer than any row of balances",
        "add the line end or quotation mark that is missing",
    ),
    "not_utf8": ("bytes that are not UTF-8", "convert the file to UTF-8 (in a spreadsheet: CSV UTF-8)"),
    "repeated_header": ("the header again", "remove the line"),
    "not_an_object": ("the entry is not an object", "export one object for each user"),
    "repeated_key": ("the object has a key twice", "remove one of them"),
    "flagged_unpaid": (
        "flagged as migrated, with wishes and no mana: paid and spent since, or never paid, which the flag alone "
        "cannot tell",
        "--legacy-ledger reads the old ledger, --unpaid-flag decides without it",
    ),
    "never_paid": (
        "flagged as migrated, with wishes, and the old ledger shows no payment",
        "--unpaid-flag pending lets migrate_users pay, --unpaid-flag migrated does not",
    ),
    "paid_unflagged": (
        "not flagged as migrated, but the old ledger shows a payment that was not rolled back",
        "correct the flag or the ledger",
    ),
    "no_such_user": ("no user of this site has this primary key", "create the user, or give --match username"),
    "duplicate_id": ("duplicate id", "keep one of the rows"),
}

FLAGS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), 0),
}

#: Different numbers that a parser remembers.
_CACHED: Final = 16_384
_ID = "id"
_NO: Final = frozenset(form for word, flag in FLAGS.items() if not flag for form in (word, word.title(), word.upper()))
#: Numbers and UUIDs: ids that need no further check.
_COMMON_ID: Final = re.compile(r"[0-9]+|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


class Typing(Enum):
    """How a source holds its numbers."""

    TEXT = "text"
    """Everything is text (CSV, TSV): digits are numbers; an empty field and ``\\N`` are NULL."""
    EXACT = "exact"
    """Whole numbers and fractions differ (JSON, YAML): text and 1.0 are not whole numbers."""
    FLOATS = "floats"
    """Whole numbers may come as floats or decimals (XLSX, databases): 1.0 is 1 below 2**53."""


class UnpaidFlag(Enum):
    """What a user is who was flagged as migrated but has wishes and no mana."""

    REJECT = "reject"
    MIGRATED = "migrated"
    PENDING = "pending"


class Marker(Enum):
    """What a reader found in the place of a value or of a whole row: a code, or a code and a shape."""

    ABSENT = "missing_value"
    FRACTION = "fraction"
    NOT_FINITE = "not_finite"
    HUGE = "out_of_range"
    TEXT = "not_a_number"
    FORMULA = "formula"
    INEXACT = "inexact"
    NOT_UTF8 = "not_utf8"
    DATE = "not_a_number.date"
    ERROR_CELL = "not_a_number.error_cell"
    FORMATTED = "not_a_number.formatted"
    PERCENT = "not_a_number.percent"
    AMBIGUOUS = "not_a_number.ambiguous"
    DISPUTED = "not_a_number.disputed"
    WRONG_FIELD_COUNT = "wrong_field_count"
    BROKEN_QUOTES = "broken_quotes"
    SPANS_RECORDS = "spans_records"
    ROW_TOO_LONG = "row_too_long"
    REPEATED_HEADER = "repeated_header"
    NOT_AN_OBJECT = "not_an_object"
    REPEATED_KEY = "repeated_key"

    @property
    def shape(self) -> str:
        """Return the shape of the value, as an id has it too."""
        code, _, shape = self.value.partition(".")
        return shape or {"formula": "formula", "inexact": "inexact", "fraction": "decimals"}.get(code, "")


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
    is what the list of rejected rows shows otherwise.  ``problem``: ``code:column`` or
    ``code.shape:column`` of each reason, separated by blanks.
    """

    id: str | None
    shown: str
    problem: str


#: Bits of ``GoodRow.nulls``, lowest first.
NULLABLE: Final = (*BALANCES, "migrated")


def normalised(text: str) -> str:
    """Return a username as Django's own user model stores it."""
    return unicodedata.normalize("NFKC", text)


@dataclass(frozen=True, slots=True)
class RowRules:
    """How rows are parsed.

    ``worth``: the mana that green, blue and red wishes are worth, to recognise a flag without payment; ``id_length``:
    characters that a username may have, None for any; ``unpaid``: what a row that is flagged without payment is;
    ``nulls``: texts that mean NULL beside the empty one; ``literal_ids``: accept ids that look mangled; ``normalise``:
    how the site's user model stores a username; ``with_ledger``: the old ledger decides later who was paid.
    """

    typing: Typing
    worth: Callable[[int, int, int], int]
    id_length: int | None = 150
    unpaid: UnpaidFlag = UnpaidFlag.REJECT
    nulls: frozenset[str] = frozenset()
    literal_ids: bool = False
    normalise: Callable[[str], str] = normalised
    with_ledger: bool = False


class RowParser:
    """Parse raw rows, one after the other; remembers the numbers it has seen, because most come again."""

    def __init__(self, rules: RowRules) -> None:
        self._rules = rules
        self._text = rules.typing is Typing.TEXT
        self._nulls = rules.nulls | {"", "\\N"} if self._text else rules.nulls
        self._no = _NO - self._nulls
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
        # Note [The common row]: a plain row needs a few look-ups only, because nearly all rows are plain.  Whatever is
        # not plain, even if good, takes the long way; both ways give the same row, which a property test compares.
        if type(key) is str and _COMMON_ID(key) and len(key) <= self._limit and key not in self._nulls:
            if self._text:
                known = self._known
                if green in known and blue in known and red in known and flag in self._no and known.get(mana, -1) >= 0:
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
        return self._parse_values(
            [None if isinstance(value, str) and value in self._nulls else value for value in values]
        )

    def _parse_values(self, values: Sequence[Any]) -> GoodRow | BadRow:
        problems: list[str] = []
        nulls = 0
        key = self._id(values[0])
        if isinstance(key, Shape):
            problems.append(_encoded(key, _ID))
        amounts: list[int] = []
        for bit, (name, value) in enumerate(zip(BALANCES, values[1:5], strict=True)):
            amount = self._number(value)
            if isinstance(amount, Shape):
                problems.append(_encoded(amount, COLUMNS[name]))
                amounts.append(0)
            else:
                nulls |= (amount is None) << bit
                amounts.append(amount or 0)
        if amounts[3] < 0:
            problems.append(_encoded(Shape("negative_mana"), COLUMNS["mana"]))
        flag = parse_flag(values[5])
        if isinstance(flag, Shape):
            problems.append(_encoded(flag, COLUMNS["migrated"]))
        elif flag is None:
            nulls |= 1 << len(BALANCES)
        green, blue, red, mana = amounts
        arrives = flagged = 1 if flag == 1 else 0
        if flagged and not problems and mana == 0 and self._rules.worth(green, blue, red) > 0:
            flagged = 2
            if self._rules.unpaid is UnpaidFlag.PENDING:
                arrives = 0
            elif self._rules.unpaid is UnpaidFlag.REJECT and not self._rules.with_ledger:
                problems.append(_encoded(Shape("flagged_unpaid"), COLUMNS["migrated"]))
        if problems or isinstance(key, Shape):
            sound = None if isinstance(key, Shape) else key
            return BadRow(sound, "" if sound is not None else shown_id(values[0]), " ".join(problems))
        return GoodRow(key, green, blue, red, mana, arrives, nulls, flagged)

    def _id(self, value: Any) -> str | Shape:
        if self._rules.typing is Typing.FLOATS and isinstance(value, (float, Decimal)):
            value = _whole(value)
        return parse_id(value, self._rules)

    def _number(self, value: Any) -> int | Shape | None:
        if self._text and isinstance(value, str):
            number = parse_digits(value)
            if isinstance(number, int) and len(self._known) < _CACHED:
                self._known[value] = number
            return number
        return parse_number(value, floats=self._rules.typing is Typing.FLOATS)


def parse_id(value: Any, rules: RowRules) -> str | Shape:
    """Return a row's id as text: text as it is, whole numbers and UUIDs as they are written."""
    if value is None or value == "":
        return Shape("missing_id")
    if value in (Marker.ABSENT, Marker.NOT_UTF8):
        return Shape(value.value)
    if isinstance(value, int) and not BIGINT_MIN <= value <= BIGINT_MAX:
        return Shape("invalid_id", "inexact")
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        return Shape("invalid_id", _shape_of(value))
    text = str(value)
    shape = _id_text_shape(text, rules)
    if rules.id_length is not None and len(text) > rules.id_length:
        return Shape("id_too_long")
    return text if not shape or (rules.literal_ids and shape in LITERAL) else Shape("invalid_id", shape)


def _id_text_shape(text: str, rules: RowRules) -> str:
    if text != text.strip():
        return "blanks"
    shape = character_shape(text) or id_shape(text)
    return shape or ("look_alike" if rules.normalise(text) != text else letter_shape(text))


def _shape_of(value: Any) -> str:
    """Return the shape of a typed value where text or a whole number is expected."""
    if isinstance(value, Marker):
        return value.shape
    if isinstance(value, bool):
        return "truth_word"
    if isinstance(value, (float, Decimal)):
        return "inexact" if isinstance(value, float) and abs(value) >= FLOAT_EXACT else "decimals"
    if isinstance(value, (dict, list, tuple)):
        return "nested"
    return "date" if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)) else ""


def parse_digits(text: str) -> int | Shape | None:
    """Return the whole number that a text writes in plain digits."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if digits.isascii() and digits.isdigit():
        if len(digits.lstrip("0")) > 19:
            return Shape("out_of_range")
        return _in_range(int(text))
    return number_shape(text)


def parse_number(value: Any, *, floats: bool) -> int | Shape | None:
    """Return the whole number that a typed value is, None for NULL.

    ``floats``: whether the source has floats only, so that 1.0 is a whole number.
    """
    if value is None:
        return None
    if isinstance(value, (float, Decimal)):
        whole = _whole(value) if floats else value
        return _in_range(whole) if isinstance(whole, int) else _kind_of_fraction(value, floats=floats)
    if isinstance(value, int):
        return Shape("boolean") if isinstance(value, bool) else _in_range(value)
    if isinstance(value, Marker):
        return Shape(*value.value.split("."))
    return _shape_of_text(value) if isinstance(value, str) else Shape("not_a_number", _shape_of(value))


def _shape_of_text(text: str) -> Shape:
    """Return why a text is not a number in a source that distinguishes the two."""
    if text == "":
        return Shape("not_a_number", "empty_text")
    found = parse_digits(text)
    return Shape("not_a_number", found.shape if isinstance(found, Shape) else "text_digits")


def _kind_of_fraction(value: float | Decimal, *, floats: bool) -> Shape:
    if not _is_finite(value):
        return Shape("not_finite")
    if floats and isinstance(value, float) and abs(value) >= FLOAT_EXACT:
        return Shape("inexact")
    if isinstance(value, Decimal) and int(value.as_tuple().exponent) > 0:
        return Shape("fraction", "exponent")
    return Shape("fraction", "decimals" if value == int(value) else "")


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


def _in_range(number: int) -> int | Shape:
    return number if BIGINT_MIN <= number <= BIGINT_MAX else Shape("out_of_range")


def parse_flag(value: Any) -> int | Shape | None:
    """Return 1 or 0 for the flag's words, numbers and truth values, None for NULL."""
    if value is None or value == "":
        return None
    if isinstance(value, Marker):
        return Shape(value.value) if value in (Marker.ABSENT, Marker.NOT_UTF8) else Shape("unknown_flag", value.shape)
    if isinstance(value, (bool, int, float, Decimal)):
        # REAL and numeric columns, and spreadsheets, write 1.0
        return int(value) if _is_finite(value) and value in (0, 1) else Shape("unknown_flag")
    if isinstance(value, str):
        flag = FLAGS.get(value.lower())
        return Shape("unknown_flag", _flag_shape(value)) if flag is None else flag
    return Shape("unknown_flag", _shape_of(value))


def _flag_shape(text: str) -> str:
    shape = "blanks" if text.strip().lower() in FLAGS else id_shape(text)
    return shape if shape in ("blanks", "null_word", "error_cell", "quotes") else ""


def _encoded(problem: Shape, column: str) -> str:
    return f"{problem.code}.{problem.shape}:{column}" if problem.shape else f"{problem.code}:{column}"


def shown_id(value: Any) -> str:
    """Return what the list of rejected rows shows of an unsound id: at most ``SHOWN_ID`` printable characters."""
    if value is None or isinstance(value, Marker):
        return ""
    if not isinstance(value, (str, int, float, Decimal)) or (isinstance(value, int) and abs(value) > 10**SHOWN_ID):
        return f"({type(value).__name__})"
    text = str(value)[: SHOWN_ID + 1]
    text = text if len(text) <= SHOWN_ID else text[:SHOWN_ID] + "…"
    return "".join(character if character.isprintable() else "�" for character in text)


class Reason(NamedTuple):
    """One reason why a row is bad; the column is the export's usual name, empty where the whole row is meant."""

    code: str
    shape: str
    column: str


def decode_problem(problem: str) -> list[Reason]:
    """Return the reasons of a bad row."""
    found = []
    for part in problem.split():
        what, _, column = part.partition(":")
        code, _, shape = what.partition(".")
        found.append(Reason(code, shape, column))
    return found


def describe(code: str, shape: str, *, cure: bool = True) -> str:
    """Return a reason as a sentence, with its cure or without."""
    what, remedy = REASONS[code]
    if shape:
        form, remedy = SHAPES[shape]
        what = f"{what}: {form}"
    if code == "invalid_id" and shape in LITERAL:
        remedy = f"{remedy}, or give --literal-ids if the id is right"
    return f"{what}; {remedy}" if cure else what


def explain(problem: str, first_row: int | None, columns: Mapping[str, str], *, cure: bool = True) -> str:
    """Return the reasons as one sentence for the operator, with the source's own column names.

    ``first_row``: the row that has the id already; ``columns``: the source's names by ours.
    """
    own = {standard: columns.get(name, standard) for name, standard in COLUMNS.items()}
    parts = [
        (f"{own.get(reason.column, reason.column)}: " if reason.column else "")
        + describe(reason.code, reason.shape, cure=cure)
        for reason in decode_problem(problem)
    ]
    if first_row is not None:
        parts.append(f"{own['id']}: {REASONS['duplicate_id'][0]}, first seen in row {first_row:,}")
    return "; ".join(parts)
