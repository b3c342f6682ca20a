from datetime import UTC, datetime

import pytest

from mana_migration.reports import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (4.21, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (200_000, "2 d 8 h"),
    ],
)
def test_a_duration_reads_as_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"),
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50 %"),
        (0.123, "12.3 %"),
        (0.99999, "99.9 %"),
        (0.00001, "under 0.1 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert formatting.percent(share) == text


def test_whole_numbers_stay_exact_whatever_their_size() -> None:
    assert formatting.number(10**20 + 1) == "100,000,000,000,000,000,001"


def test_a_moment_carries_its_time_zone() -> None:
    assert formatting.when(datetime(2026, 11, 23, 10, 2, 11, tzinfo=UTC), UTC) == "2026-11-23 10:02:11 UTC"


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\u2028b", "a\r\tb"])
def test_text_from_elsewhere_stays_on_its_line(text: str) -> None:
    assert set(formatting.one_line(text)) <= set("ab []2J")


def test_a_range_that_reads_the_same_is_one_value() -> None:
    assert formatting.span(61, 61.2) == "1 min 01 s"
    assert formatting.span(60, 120) == "1 min 00 s to 2 min 00 s"
