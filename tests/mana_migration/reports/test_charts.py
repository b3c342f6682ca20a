from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from mana_migration.reports import charts

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
START = datetime(2026, 11, 23, 23, 58, 7, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)  # noqa: S314 (our own markup; that it parses is the point)


def elements(markup: str) -> set[str]:
    return {element.tag for element in parsed(markup).iter()}


def widths(markup: str) -> list[float]:
    """Return the length of each bar in percent."""
    return [float(bar.findall("svg/rect")[1].attrib["width"].rstrip("%")) for bar in parsed(markup).iter("li")]


def lines(text: str, *values: charts.Line) -> str:
    return charts.lines(
        text,
        values,
        start=START,
        end=after(100),
        shades=[charts.Shade(after(10), after(20), "paused", text)],
        marks=[charts.Mark(after(10), text)],
        hints=[charts.Mark(after(50), text)],
    )


def every_chart(text: str) -> list[str]:
    return [
        charts.bars([charts.Bar(text, 3, text), charts.Bar("other", 1, "1")]),
        lines(text, charts.Line([(START, 1), (after(100), 4)], area=True)),
    ]


@pytest.mark.parametrize("number", range(2))
def test_hostile_text_is_inert(number: int) -> None:
    calm, hostile = every_chart("calm")[number], every_chart(HOSTILE)[number]
    assert elements(hostile) == elements(calm)
    assert all(not name.startswith("on") for element in parsed(hostile).iter() for name in element.attrib)
    assert "style=" not in hostile


def test_a_chart_over_time_says_what_it_shows() -> None:
    root = parsed(lines("Users over time", charts.Line([(START, 1), (after(100), 4)])))
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "Users over time")
    assert [title.text for title in root.iter("title")] == ["Users over time"] * 3  # a shade, a value, a mark


def test_bars_are_as_long_as_their_values() -> None:
    assert widths(charts.bars([charts.Bar("a", 100, "100"), charts.Bar("b", 50, "50"), charts.Bar("c", 0, "0")])) == [
        100,
        50,
        0,
    ]


def test_values_beyond_any_float_column_are_drawn() -> None:
    large = 10**40
    markup = charts.bars([charts.Bar("a", large, f"{large:,}"), charts.Bar("b", 1, "1")])
    assert widths(markup)[0] > widths(markup)[1] > 0
    assert f"{large:,}" in markup


def test_nothing_to_show_still_draws() -> None:
    parsed(charts.bars([]))
    parsed(charts.bars([charts.Bar("a", 0, "0")]))
    parsed(charts.lines("t", [charts.Line([])], start=START, end=START))
    parsed(charts.lines("t", [charts.Line([(START, 5)])], start=START, end=START))


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 1]),
        (4, [0, 1, 2, 3, 4]),
        (10, [0, 5, 10]),
        (1_000_000, [0, 500_000, 1_000_000]),
    ],
)
def test_ticks_are_round_and_reach_the_top(highest: float, ticks: list[int]) -> None:
    assert charts.nice_ticks(highest) == ticks


@pytest.mark.parametrize("highest", [0.003, 0.7, 3, 7, 13, 99, 101, 12_345, 9_999_999, 2.5e18])
def test_ticks_always_cover_the_highest_value_in_few_whole_steps(highest: float) -> None:
    ticks = charts.nice_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest
    assert 2 <= len(ticks) <= 5
    assert all(isinstance(tick, int) for tick in ticks)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (2, ["0 s", "0.5 s", "1 s", "1.5 s", "2 s"]),
        (100, ["23:58:30", "23:59:00", "23:59:30"]),
        (600, ["00:00", "00:05"]),
        (7200, ["00:00", "00:30", "01:00", "01:30"]),
        (30 * 3600, ["24 Nov", "12:00", "25 Nov"]),
        (9 * 86_400, ["24 Nov", "29 Nov"]),
    ],
)
def test_times_are_round_by_the_clock(seconds: float, labels: list[str]) -> None:
    assert [label for _, label in charts.time_ticks(START, after(seconds))] == labels
