"""What a value that is not clean looks like, and what the operator can do about it.

Plain Python.  A shape is named by its form alone, so that a message can teach without showing a value.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final, NamedTuple

#: What each shape is, and its cure.
SHAPES: Final = {
    "ambiguous": (
        "backslashes or quotation marks that can be read in two ways",
        "give --backslash escape if a database wrote the file (psql, MySQL), --backslash literal if a spreadsheet did",
    ),
    "blanks": ("blanks or invisible characters around it", "remove them"),
    "control": ("a line end or another control character", "remove it"),
    "currency": ("a number with a currency or a unit", "write the number alone"),
    "date": ("a date, or what a spreadsheet turned into one", "format the column as text and export it again"),
    "decimals": ("decimals behind a point or comma", "export the column as whole numbers (bigint)"),
    "double_encoded": (
        "UTF-8 text that a program took for another encoding",
        "export it again as UTF-8, and open it as UTF-8",
    ),
    "empty_text": ("an empty text", "write null, or a number"),
    "error_cell": ("a spreadsheet's error value", "correct the formula behind it"),
    "exponent": ("a number with an exponent", "export the column in plain digits; digits may be lost already"),
    "escape": (
        "an escape such as _x000D_, which some spreadsheets read as a character",
        "write the character itself",
    ),
    "formatted": (
        "a number whose cell format shows something else, such as leading zeros or thousands",
        "make ids text as they are shown, and give numbers a plain format",
    ),
    "formula": ("a formula", "replace formulas by their values"),
    "hexadecimal": ("a hexadecimal number", "write it in plain digits"),
    "infinity": ("infinity", "correct it"),
    "inexact": ("a number of more digits than its format keeps", "export it as text or as CSV from the database"),
    "invisible": ("an invisible character", "remove it; it would make a second account that looks the same"),
    "look_alike": (
        "characters that Django's sign-up would replace by others",
        "write it as Django normalises usernames (NFKC)",
    ),
    "minus": ("a minus sign that is not the plain one before the number", "write -5"),
    "nested": ("a list or an object", "write a number or a text"),
    "null_word": ("a word for NULL", "give --null WORD if it means NULL, or leave the field empty"),
    "disputed": ("a value that versions of YAML read differently", "quote ids, and write numbers in plain digits"),
    "other_digits": ("digits of another script", "write 0 to 9"),
    "parentheses": ("a number in parentheses", "write it with a minus sign"),
    "percent": ("a percentage", "write the number alone"),
    "quotes": ("quotation marks as part of the value", "remove them"),
    "replacement": ("the character that stands for text lost in a conversion", "export it again as UTF-8"),
    "text_digits": ("digits stored as text", "store them as a number"),
    "thousands": ("a number with separators between its digits", "write it in plain digits"),
    "total_word": ("a word for a row of totals", "remove the row"),
    "truth_word": ("a truth value", "correct the row; its fields may be shifted"),
}  # fmt: skip

#: Shapes of an id that --literal-ids accepts as they are.
LITERAL: Final = frozenset(
    {"date", "decimals", "double_encoded", "error_cell", "escape", "exponent", "formula", "infinity", "invisible",
     "look_alike", "minus", "nested", "null_word", "other_digits", "quotes", "thousands", "total_word", "truth_word"}
)  # fmt: skip

_MONTH: Final = r"(?:jan|feb|mar|mrz|m\xe4r|apr|ma[iy]|jun|jul|aug|sept?|o[ck]t|nov|de[cz])[a-z\xe4]*"
_DAY: Final = r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*"
_NULL: Final = (
    r"null|\(null\)|<null>|\[null\]|none|nil|nan|nat|n/?a|n\.a\.|<na>|pd\.na|undefined|\\n|--?|\?"
    r"|\((?:blank|empty|none|leer|vide)\)"
)
_MINUS: Final = "[\u2212\u2010-\u2015\ufe63\uff0d]"
_MANGLED: Final = re.compile(
    rf"""
      (?P<thousands>   [+-]? \d{{1,3}} (?: (?: [.,'\u2019_ \xa0\u202f] \d{{3}} )+ | (?: , \d\d )+ , \d{{3}} )
                           (?: [.,] \d+ )?
                     | [+-]? \d+ (?: _ \d+ )+ )
    | (?P<decimals>    [+-]? (?: \d+ [.,] \d* | [.,] \d+ ) )
    | (?P<exponent>    [+-]? \d+ (?: [.,]\d+ )? e [+-]? \d+ )
    | (?P<infinity>    [+-]? inf (?: inity )? )
    | (?P<date>        \d{{1,2}} [-/.\ ]+ {_MONTH} (?: [-/.\ ]+ \d{{2,4}} )? | {_MONTH} [-/.\ ]+ \d{{1,4}}
                     | \d{{4}} (?P<mark> [-/.] ) \d{{2}} (?P=mark) \d{{2}} (?: [T\ ] \d{{2}}:\d{{2}} .* )?
                     | \d{{1,2}} (?P<sign> [-/.] ) \d{{1,2}} (?P=sign) \d{{2,4}} (?: \ \d{{1,2}}:\d{{2}} .* )?
                     | {_DAY} ,? \ (?: {_MONTH} \ \d | \d{{1,2}} \ {_MONTH} ) .*
                     | \d{{1,2}} : \d{{2}} (?: : \d{{2}} )? (?: \ ?[ap]m )? )
    | (?P<error_cell>  \# (?: n/a | nv | getting_data | [a-z0-9_]{{2,20}} (?: /0 )? [!?] | \#+ ) | err:\d+ )
    | (?P<null_word>   {_NULL} )
    | (?P<truth_word>  true | false | wahr | falsch | vrai | faux )
    | (?P<total_word>  (?: grand\ )? totals? :? | sub-?totals? :? | sum :? | summe :? | gesamt :? )
    | (?P<nested>      \[object\ [a-z]+\] | \[\] | {{}} )
    | (?P<formula>     = .+ )
    | (?P<minus>       {_MINUS} \s* \d+ )
    | (?P<escape>      .* _x [0-9a-f]{{4}} _ .* )
    | (?P<quotes>      b? ".*" | b? '.*' | '\d+ | " [^"]* | [^"]* " )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
).fullmatch

#: Characters without a shape of their own, beyond Unicode's category of format characters.
_BLANK_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_LONGEST: Final = 100


class Shape(NamedTuple):
    """A reason's code and the shape that explains it; empty where the code says it all."""

    code: str
    shape: str = ""


def id_shape(text: str) -> str:
    """Return the shape of an id that a tool has mangled, empty where it is none."""
    if len(text) > _LONGEST:
        return ""
    found = _MANGLED(text)
    return next((name for name, part in found.groupdict().items() if part is not None), "") if found else ""


def character_shape(text: str) -> str:
    """Return the shape of the first character that no id may hold, empty where there is none."""
    if text.isascii() and text.isprintable():
        return ""
    for place, character in enumerate(text):
        if is_invisible(character) and not _joins_emoji(text, place):
            return "invisible"
        category = unicodedata.category(character)
        if category in ("Cc", "Cs", "Zl", "Zp"):
            return "control"
        if category == "Zs" and character != " ":
            return "invisible"
        if character == "\ufffd":
            return "replacement"
    return ""


def letter_shape(text: str) -> str:
    """Return the shape of an id of letters that are rarely meant, empty where it is none."""
    if text.isascii():
        return ""
    if _is_other_digits(text):
        return "other_digits"
    return "double_encoded" if any(_is_double_encoded(text, encoding) for encoding in ("cp1252", "latin-1")) else ""


def _is_double_encoded(text: str, encoding: str) -> bool:
    """Say whether the characters are the bytes of UTF-8 text; other text hardly ever is."""
    try:
        text.encode(encoding).decode("utf-8")
    except UnicodeError:
        return False
    return True


def _joins_emoji(text: str, place: int) -> bool:
    """Say whether a character joins two emoji to one that looks different."""
    parts = (text[place - 1 : place], text[place + 1 : place + 2])
    return text[place] == "\u200d" and all(part and unicodedata.category(part) in ("So", "Sk") for part in parts)


def is_invisible(character: str) -> bool:
    """Say whether a character has no shape of its own, so that two texts with and without it look the same."""
    return (
        unicodedata.category(character) == "Cf"
        or character in _BLANK_LETTERS
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0000" <= character <= "\U000e0fff"
    )


def number_shape(text: str) -> Shape:
    """Return why a text is not a whole number in plain digits, with its shape."""
    if len(text) > _LONGEST:
        return Shape("not_a_number")
    core = text.strip("".join(c for c in text if not c.isprintable() or c.isspace() or is_invisible(c)))
    if core != text and (core == "" or _is_digits(core)):
        return Shape("not_a_number", "blanks")
    mangled = id_shape(core)
    if core.strip("+-").lower() in ("nan", "inf", "infinity"):
        shape = Shape("not_finite")
    elif mangled == "decimals":
        # a fraction explains itself; 12.0 does not
        shape = Shape("fraction", "decimals" if core.rstrip("0")[-1] in ".," else "")
    elif mangled == "exponent":
        shape = Shape("fraction", mangled)
    elif mangled and mangled != "total_word":
        shape = Shape("not_a_number", mangled)
    else:
        shape = Shape("not_a_number", next((name for name, fits in _NUMBERS.items() if fits(core)), ""))
    return shape


class _Digits(dict[int, str]):
    """Translate the digits of every script to 0 to 9."""

    def __missing__(self, code: int) -> str:
        value = unicodedata.decimal(chr(code), None)
        self[code] = chr(code) if value is None else str(value)
        return self[code]


_DIGITS: Final = _Digits()


def _is_digits(text: str) -> bool:
    digits = text[1:] if text[:1] in ("+", "-") else text
    return digits.isascii() and digits.isdigit()


def _is_other_digits(text: str) -> bool:
    return not text.isascii() and _is_digits(unicodedata.normalize("NFKC", text).translate(_DIGITS))


#: How numbers are written that no id looks like.
_NUMBERS: Final[dict[str, Callable[[str], object]]] = {
    "hexadecimal": re.compile(r"[+-]?0x[0-9a-f]+", re.IGNORECASE).fullmatch,
    "parentheses": re.compile(r"\([^()\d]{0,4}\d[\d.,' ]*[^()\d]{0,4}\)").fullmatch,
    "minus": re.compile(r"-\s+\d+|\d+\s*[-\u2212]").fullmatch,
    "other_digits": _is_other_digits,
    "percent": re.compile(r"[+-]?\d[\d.,' ]*\s*%").fullmatch,
    "currency": re.compile(r"[+-]?[^\d\s+;:/|-]{1,8}\s*[+-]?\d[\d.,' ]*|[+-]?\d[\d.,' ]*\s*[^\d\s;:/|]{1,8}").fullmatch,
}
