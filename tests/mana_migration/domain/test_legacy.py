"""Rows of the legacy export are judged as plain Python would judge them, and never coerced."""

import math
import re
import unicodedata
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mana_migration.domain.import_results import parse_columns
from mana_migration.domain.legacy import (
    COLUMNS,
    REASONS,
    BadRow,
    GoodRow,
    Marker,
    RowParser,
    RowRules,
    Typing,
    UnpaidFlag,
    decode_problem,
    explain,
    shown_id,
)
from mana_migration.domain.shapes import LITERAL, SHAPES, character_shape, id_shape, letter_shape
from mana_migration.errors import UsageError

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def worth(green: int, blue: int, red: int) -> int:
    return 10 * green + 100 * blue + 1000 * red


def parser(typing: Typing = Typing.TEXT, **rules: Any) -> RowParser:
    return RowParser(RowRules(typing=typing, worth=worth, **rules))


def text_row(**changes: str) -> list[str]:
    row = {"id": "a", "green": "1", "blue": "2", "red": "3", "mana": "4", "migrated": "f"} | changes
    return list(row.values())


def typed_row(**changes: Any) -> list[Any]:
    row = {"id": "a", "green": 1, "blue": 2, "red": 3, "mana": 4, "migrated": False} | changes
    return list(row.values())


def codes(row: GoodRow | BadRow) -> list[tuple[str, str]]:
    assert isinstance(row, BadRow), row
    return [(reason.code, reason.column) for reason in decode_problem(row.problem)]


# --- The oracle: what a careful reader would say of one CSV field -----------------------------------------------------

digits = st.integers(min_value=-(10**21), max_value=10**21).map(str)
near_limits = st.sampled_from([LOWEST - 1, LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST, HIGHEST + 1]).map(str)
odd_texts = st.sampled_from(
    [
        "",
        " ",
        "+5",
        "-0",
        "007",
        "1.0",
        "1e3",
        "NaN",
        "inf",
        "-Infinity",
        "1_000",
        "1,000",
        "²",
        "٣",
        "0x10",
        "--1",
        "+",
        "-",
        "true",
        "None",
        "\uff15",
    ]
)
fields = st.one_of(digits, near_limits, odd_texts, st.text(max_size=12))
flag_words = ["t", "F", "True", "false", "1", "0", "1.0", "0.0", "yes", "NO", "y", "n", "", "maybe", "2", "NULL", "\\N"]
flags = st.one_of(st.sampled_from(flag_words), st.text(max_size=4))
odd_ids = st.sampled_from(["", " a", "a ", "a b", "a\tb", "a\nb", "x" * 151, "\xe9", "\u200f"])
ids = st.one_of(st.text(max_size=8), st.uuids().map(str), odd_ids)


def field_means(text: str) -> int | str | None:
    if text in ("", "\\N"):
        return None
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text) if LOWEST <= int(text) <= HIGHEST else "bad"
    return "bad"


def flag_means(text: str) -> int | str | None:
    if text in ("", "\\N"):
        return None
    lowered = text.lower()
    if lowered in {"t", "true", "1", "1.0", "yes", "y"}:
        return 1
    return 0 if lowered in {"f", "false", "0", "0.0", "no", "n"} else "bad"


@settings(deadline=None)  # machines are busy
@given(st.tuples(ids, fields, fields, fields, fields, flags))
@example(("a", "1", "1", "1", "0", "t"))
@example(("a", "1", "", "", "", "t"))
@example(("a", "-1", "0", "0", "0", "t"))
def test_a_csv_row_is_judged_as_plain_python_judges_it(values: tuple[str, ...]) -> None:
    key, flag = values[0], values[5]
    amounts = [field_means(text) for text in values[1:5]]
    flagged = flag_means(flag)
    numbers = [amount or 0 for amount in amounts if amount != "bad"]
    good = "bad" not in amounts and flagged != "bad" and numbers[3] >= 0
    good = good and bool(key) and key == key.strip() and len(key) <= 150
    good = good and not character_shape(key) and not id_shape(key) and not letter_shape(key)
    good = good and unicodedata.normalize("NFKC", key) == key
    if good and flagged == 1 and numbers[3] == 0 and worth(*numbers[:3]) > 0:
        good = False
    judge = parser()
    first = judge.parse(values)
    # the second time the numbers are known already, which takes another way through the parser
    assert judge.parse(values) == first
    assert isinstance(first, GoodRow) == good
    if isinstance(first, GoodRow):
        assert first[:5] == (key, *numbers)
        assert first.migrated == (flagged or 0)
        nulls = [*(amount is None for amount in amounts), flagged is None]
        assert [bool(first.nulls >> bit & 1) for bit in range(5)] == nulls
    else:
        assert first.problem
        assert all(reason.code in REASONS for reason in decode_problem(first.problem))


@settings(deadline=None)  # machines are busy
@given(st.lists(st.tuples(ids, fields, fields, fields, fields, flags), max_size=30))
def test_a_row_is_judged_alike_whatever_came_before(rows: list[tuple[str, ...]]) -> None:
    one = parser()
    assert [one.parse(row) for row in rows] == [parser().parse(row) for row in rows]


typed_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.decimals(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.sampled_from(list(Marker)),
)


@settings(deadline=None)  # machines are busy
@given(typed_values, st.booleans())
def test_a_typed_number_is_taken_only_if_it_is_exactly_whole(value: Any, floats: bool) -> None:
    row = parser(Typing.FLOATS if floats else Typing.EXACT).parse(typed_row(green=value))
    if value is None:
        assert isinstance(row, GoodRow)
        assert (row.green, row.nulls) == (0, 1)
        return
    whole = type(value) is int and LOWEST <= value <= HIGHEST
    finite = value.is_finite() if isinstance(value, Decimal) else isinstance(value, float) and math.isfinite(value)
    if floats and finite and value == int(value):
        whole = abs(value) < 2**53 if isinstance(value, float) else LOWEST <= int(value) <= HIGHEST
    assert isinstance(row, GoodRow) == whole
    if isinstance(row, GoodRow):
        assert row.green == int(value)
        assert type(row.green) is int
    else:
        assert codes(row)[0][1] == "green_balance"


@settings(deadline=None)  # machines are busy
@given(typed_values, st.sampled_from(list(Typing)))
def test_nothing_in_the_place_of_the_id_or_the_flag_breaks_the_parser(value: Any, typing: Typing) -> None:
    if typing is Typing.TEXT and not isinstance(value, str):
        return
    for changes in ({"id": value}, {"migrated": value}):
        row = parser(typing).parse(text_row(**changes) if typing is Typing.TEXT else typed_row(**changes))
        assert isinstance(row, GoodRow | BadRow)
        assert row.id is None or (isinstance(row.id, str) and row.id)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("twelve", "not_a_number"),
        (" 5", "not_a_number"),
        ("1,000", "not_a_number"),
        ("1_000", "not_a_number"),
        ("٣", "not_a_number"),
        ("1.5", "fraction"),
        ("1.0", "fraction"),
        ("1e3", "fraction"),
        ("NaN", "not_finite"),
        ("-inf", "not_finite"),
        ("Infinity", "not_finite"),
        (str(2**63), "out_of_range"),
        (str(-(2**63) - 1), "out_of_range"),
        ("9" * 5000, "out_of_range"),
    ],
)
def test_each_bad_number_has_its_own_reason(value: str, code: str) -> None:
    assert codes(parser().parse(text_row(blue=value))) == [(code, "blue_balance")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (True, "boolean"),
        ("5", "not_a_number"),
        (b"five", "not_a_number"),
        (1.5, "fraction"),
        (math.nan, "not_finite"),
        (math.inf, "not_finite"),
        (float(2**53), "inexact"),
        (Decimal("1E+400"), "out_of_range"),
        (Decimal("0.1"), "fraction"),
        (Decimal("NaN"), "not_finite"),
        (2**63, "out_of_range"),
        (Marker.FORMULA, "formula"),
        (Marker.ABSENT, "missing_value"),
    ],
)
def test_each_bad_typed_number_has_its_own_reason(value: Any, code: str) -> None:
    assert codes(parser(Typing.FLOATS).parse(typed_row(red=value))) == [(code, "red_balance")]


@pytest.mark.parametrize("typing", [Typing.TEXT, Typing.EXACT, Typing.FLOATS])
@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("1001.0", "decimals"),
        ("1E+05", "exponent"),
        ("1,001", "thousands"),
        ("NULL", "null_word"),
        ("nan", "null_word"),
        ("None", "null_word"),
        ("#N/A", "error_cell"),
        ("5-Mar", "date"),
        ("Mar-05", "date"),
        ("2024-03-05", "date"),
        ("TRUE", "truth_word"),
        ("Total", "total_word"),
        ('"u1"', "quotes"),
        ("'00123", "quotes"),
        ('1001"', "quotes"),
        ('"u1', "quotes"),
        ("b'u1'", "quotes"),
        ("1,001.00", "thousands"),
        ("12,34,567", "thousands"),
        (".5", "decimals"),
        ("inf", "infinity"),
        ("-Infinity", "infinity"),
        ("(blank)", "null_word"),
        ("#NOMBRE!", "error_cell"),
        ("#DIV/0!", "error_cell"),
        ("2024/03/05", "date"),
        ("05-03-2024 10:30", "date"),
        ("Tue Mar 05 2024 00:00:00 GMT+0100", "date"),
        ("12:30", "date"),
        ("a_x000D_b", "escape"),
        ("=A1", "formula"),
        ('="00123"', "formula"),
        ("[object Object]", "nested"),
        ("\u22121001", "minus"),
        ("\u0661\u0660\u0660\u0661", "other_digits"),
        ("Ren\u00c3\u00a9", "double_encoded"),
        ("\u00e2\u201a\u00ac5", "double_encoded"),
        ("Zoe\u0308", "look_alike"),
        ("\uff11\uff10\uff10\uff11", "look_alike"),
        ("\u200b1001", "invisible"),
        ("a\u200d\U0001f680", "invisible"),
        ("a\u00adb", "invisible"),
        ("a\u00a0b", "invisible"),
        ("a\ufe0f", "invisible"),
        ("M\ufffdller", "replacement"),
        ("u1 ", "blanks"),
        ("a\tb", "control"),
    ],
)
def test_an_id_that_a_tool_has_mangled_is_refused_alike_in_every_format(typing: Typing, value: str, shape: str) -> None:
    row = text_row(id=value) if typing is Typing.TEXT else typed_row(id=value)
    bad = parser(typing).parse(row)
    assert isinstance(bad, BadRow)
    assert decode_problem(bad.problem) == [("invalid_id", shape, "id")]
    # the option is named where it helps
    assert ("--literal-ids" in explain(bad.problem, None, COLUMNS)) == (shape in LITERAL)
    literal = parser(typing, literal_ids=True).parse(row)
    assert isinstance(literal, GoodRow) == (shape in LITERAL)


@pytest.mark.parametrize(
    "value",
    [
        "00123",
        "-5",
        "+491701234567",
        "a.b@example.invalid",
        "CORP\\jdoe",
        "Zo\xeb",
        "1e",
        "x1001.0",
        "\u0430nn",
        "\xc3\xa9e\xe9",
        "O'Neil",
        "info",
        "@ann",
        "10.0.0.200",
        "#general",
        "[abc]",
        "may",
        "sunday",
    ],
)
def test_an_id_that_only_resembles_a_mangled_one_is_taken(value: str) -> None:
    row = parser().parse(text_row(id=value))
    assert isinstance(row, GoodRow)
    assert row.id == value


def test_an_id_that_the_sites_user_model_stores_otherwise_is_refused() -> None:
    bad = parser(normalise=str.lower).parse(text_row(id="Ann"))
    assert isinstance(bad, BadRow)
    assert decode_problem(bad.problem) == [("invalid_id", "look_alike", "id")]


@pytest.mark.parametrize("typing", [Typing.TEXT, Typing.EXACT])
def test_a_word_for_null_is_null_in_every_column_if_the_operator_says_so(typing: Typing) -> None:
    one = parser(typing, nulls=frozenset({"NULL", "-1"}))
    values = text_row if typing is Typing.TEXT else typed_row
    row = one.parse(values(green="NULL", blue="-1", migrated="NULL"))
    assert isinstance(row, GoodRow)
    assert (row.green, row.blue, row.nulls) == (0, 0, 0b10011)
    assert codes(one.parse(values(id="NULL"))) == [("missing_id", "id")]


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("1,234", "thousands"), ("1.234", "thousands"), ("1 234", "thousands"), ("1,234.50", "thousands"),
        ("NULL", "null_word"), ("-", "null_word"), ("(5)", "parentheses"), ("5 EUR", "currency"), ("$5", "currency"),
        ("#N/A", "error_cell"), ("#DIV/0!", "error_cell"), ("1e3", "exponent"), ("12.0", "decimals"), ("12.5", ""),
        (" 5", "blanks"), ("\u200b5", "blanks"), ("5\0", "blanks"), ("\u0663", "other_digits"),
        ("\uff15", "other_digits"),
        ("5%", "percent"), ("5-", "minus"), ("\u22125", "minus"), ("0x10", "hexadecimal"), ("=1+1", "formula"),
        ('"5"', "quotes"), ("'5", "quotes"), ("5-Mar", "date"), ("true", "truth_word"), ("twelve", ""),
        (".5", ""), ("12,34,567", "thousands"), ("5;", ""), ('5"', "quotes"), ("12:30", "date"), ("- 5", "minus"),
    ],
)  # fmt: skip
def test_the_shape_of_a_bad_number_is_named_with_its_cure(value: str, shape: str) -> None:
    row = parser().parse(text_row(blue=value))
    assert isinstance(row, BadRow)
    (reason,) = decode_problem(row.problem)
    assert reason.shape == shape
    sentence = explain(row.problem, None, COLUMNS)
    if shape:
        assert all(part in sentence for part in SHAPES[shape])


def test_digits_stored_as_text_are_named() -> None:
    row = parser(Typing.EXACT).parse(typed_row(green="5"))
    assert isinstance(row, BadRow)
    assert decode_problem(row.problem) == [("not_a_number", "text_digits", "green_balance")]


@pytest.mark.parametrize("value", ["1.0", 1.0, Decimal("1.0"), 1, True, "TRUE"], ids=repr)
def test_a_flag_may_be_written_as_a_whole_float(value: Any) -> None:
    row = parser(Typing.FLOATS).parse(typed_row(migrated=value))
    assert isinstance(row, GoodRow)
    assert row.migrated == 1


def test_a_whole_float_is_a_fraction_where_the_format_tells_them_apart() -> None:
    assert codes(parser(Typing.EXACT).parse(typed_row(green=1.0))) == [("fraction", "green_balance")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "missing_id"),
        (None, "missing_id"),
        (Marker.ABSENT, "missing_value"),
        (" a", "invalid_id"),
        ("a\n", "invalid_id"),
        ("a\x00b", "invalid_id"),
        ("\ud800", "invalid_id"),
        (True, "invalid_id"),
        (1.5, "invalid_id"),
        (b"a", "invalid_id"),
        ("x" * 151, "id_too_long"),
    ],
)
def test_each_bad_id_has_its_own_reason(value: Any, code: str) -> None:
    row = parser(Typing.FLOATS).parse(typed_row(id=value))
    assert codes(row) == [(code, "id")]
    assert row.id is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("a b", "a b"),
        ("@1+1", "@1+1"),
        (57, "57"),
        (57.0, "57"),
        (Decimal(57), "57"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ("Ünïcödé", "Ünïcödé"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("x" * 150, "x" * 150),
    ],
)
def test_an_id_becomes_the_username_as_it_is(value: Any, name: str) -> None:
    row = parser(Typing.FLOATS).parse(typed_row(id=value))
    assert isinstance(row, GoodRow)
    assert row.id == name


def test_every_fault_of_a_row_is_named() -> None:
    row = parser().parse(["", "x", "1.5", "nan", "-1", "perhaps"])
    assert [code for code, _ in codes(row)] == [
        "missing_id", "not_a_number", "fraction", "not_finite", "negative_mana", "unknown_flag",
    ]  # fmt: skip


def test_wishes_may_be_negative_and_mana_may_not() -> None:
    assert isinstance(parser().parse(text_row(green="-7", blue="-1", red="-2")), GoodRow)
    assert codes(parser().parse(text_row(mana="-1"))) == [("negative_mana", "mana_balance")]


@pytest.mark.parametrize(("unpaid", "migrated"), [(UnpaidFlag.MIGRATED, 1), (UnpaidFlag.PENDING, 0)])
def test_a_flag_without_payment_is_what_the_operator_says(unpaid: UnpaidFlag, migrated: int) -> None:
    row = parser(unpaid=unpaid).parse(text_row(mana="0", migrated="t"))
    assert isinstance(row, GoodRow)
    assert (row.migrated, row.flagged, row.green) == (migrated, 2, 1)


def test_a_flag_without_payment_is_a_bad_row_unless_the_operator_says_what_it_means() -> None:
    assert codes(parser().parse(text_row(mana="0", migrated="t"))) == [("flagged_unpaid", "legacy_migration_completed")]


@pytest.mark.parametrize("wishes", [("0", "0", "0"), ("-7", "0", "0"), ("-100", "10", "0")])
def test_a_flag_without_mana_is_fine_where_nothing_was_to_be_paid(wishes: tuple[str, str, str]) -> None:
    green, blue, red = wishes
    row = parser().parse(text_row(green=green, blue=blue, red=red, mana="0", migrated="t"))
    assert isinstance(row, GoodRow)
    assert (row.migrated, row.flagged) == (1, 1)


def test_a_flag_without_payment_is_left_to_the_old_ledger_where_there_is_one() -> None:
    row = parser(with_ledger=True).parse(text_row(mana="0", migrated="t"))
    assert isinstance(row, GoodRow)
    assert (row.migrated, row.flagged) == (1, 2)


def test_a_reason_never_shows_a_value() -> None:
    row = parser().parse(text_row(green="Alice Example", migrated="Bob"))
    assert isinstance(row, BadRow)
    sentence = explain(row.problem, 3, {"green": "g"})
    assert "Alice" not in sentence + row.shown
    assert "Bob" not in sentence + row.shown
    assert sentence.startswith("g: not a whole number")
    assert sentence.endswith("id: duplicate id, first seen in row 3")


@settings(deadline=None)  # machines are busy
@given(typed_values)
def test_the_id_shown_of_a_bad_row_is_short_and_printable(value: Any) -> None:
    shown = shown_id(value)
    assert len(shown) <= 201
    assert shown.isprintable()


def test_a_row_without_values_says_why() -> None:
    assert parser().parse(Marker.WRONG_FIELD_COUNT) == BadRow(None, "", "wrong_field_count")


def test_columns_are_named_by_ours_or_by_the_usual_names() -> None:
    named = parse_columns(["green=g", "blue_balance=b", "migrated = done", "name=who"])
    assert named == COLUMNS | {"green": "g", "blue": "b", "migrated": "done"}


@pytest.mark.parametrize("pair", ["grn=x", "green", "green=", "=x", "id=green_balance"])
def test_a_column_that_cannot_be_meant_is_refused(pair: str) -> None:
    with pytest.raises(UsageError):
        parse_columns([pair])


def test_a_column_is_named_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_columns(["green=a", "green_balance=b"])
