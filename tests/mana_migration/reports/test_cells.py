"""No text opens as a formula, and no number is changed, whatever a spreadsheet makes of cells."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mana_migration.reports.cells import FORMULA_STARTS, SPREADSHEET_MAX, csv_cell, safe_text, spreadsheet_cell

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRIGGERS = ("=", "+", "-", "@", "|", "%", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def test_the_triggers_are_all_of_them() -> None:
    assert set(FORMULA_STARTS) == set(TRIGGERS)


@pytest.mark.parametrize("start", TRIGGERS)
def test_text_that_would_be_a_formula_is_text(start: str) -> None:
    for cell in (safe_text, csv_cell, spreadsheet_cell):
        shown = str(cell(f"{start}1+1"))
        assert shown.startswith("'")
        assert shown.endswith("1+1")


@settings(deadline=None)
@given(st.text())
def test_no_text_becomes_a_formula_or_a_second_line(text: str) -> None:
    shown = safe_text(text)
    assert not shown.startswith(TRIGGERS)
    assert not any(character < " " for character in shown)
    assert csv_cell(text) == spreadsheet_cell(text) == shown


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32), min_size=1).filter(lambda text: not text.startswith(TRIGGERS)))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert safe_text(text) == text


def test_what_ends_a_line_or_a_cell_within_a_text_is_a_space() -> None:
    assert safe_text("a\tb\nc\x1fd e~") == "a b c d e~"
    assert safe_text("\n=1") == "' =1"


@pytest.mark.parametrize("number", [0, 1, -10, 2.5, True, SPREADSHEET_MAX, -SPREADSHEET_MAX, 2**70, -(2**70)])
def test_numbers_in_csv_stay_numbers(number: Any) -> None:
    assert csv_cell(number) is number


@pytest.mark.parametrize("number", [0, -10, 2.5, SPREADSHEET_MAX, -SPREADSHEET_MAX])
def test_numbers_that_a_spreadsheet_can_hold_stay_numbers(number: Any) -> None:
    assert spreadsheet_cell(number) is number


@pytest.mark.parametrize("number", [SPREADSHEET_MAX + 1, -SPREADSHEET_MAX - 1, 2**63 - 1])
def test_numbers_that_a_spreadsheet_would_round_are_text(number: int) -> None:
    assert spreadsheet_cell(number) == str(number)


def test_sixteen_digits_are_too_many() -> None:
    assert SPREADSHEET_MAX == 1_000_000_000_000_000


def test_moments_are_written_so_that_they_sort_and_nothing_is_empty() -> None:
    assert csv_cell(NOON) == spreadsheet_cell(NOON) == "2026-11-23T12:00:00+00:00"
    assert csv_cell(None) == ""
    assert spreadsheet_cell(None) is None
