from xml.etree import ElementTree

import pytest

from mana_migration.reports import charts

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)  # noqa: S314 (our own markup; that it parses is the point)


def elements(markup: str) -> set[str]:
    return {element.tag.removeprefix(SVG) for element in parsed(markup).iter()}


def every_chart(text: str) -> list[str]:
    bar = [charts.Bar(text, 3, text), charts.Bar("other", 1, "1")]
    axis = charts.Axis(10, [(0, text), (10, text)])
    return [
        charts.bars("a", text, text, bar),
        charts.columns("b", text, text, bar),
        charts.lines("c", text, text, [charts.Line(text, [(0, 1), (10, 4)], area=True)], across=axis),
        charts.progress_bar("d", text, 0.4),
    ]


@pytest.mark.parametrize("number", range(4))
def test_hostile_text_is_inert(number: int) -> None:
    calm, hostile = every_chart("calm")[number], every_chart(HOSTILE)[number]
    assert elements(hostile) == elements(calm)
    assert all(not name.startswith("on") for element in parsed(hostile).iter() for name in element.attrib)


@pytest.mark.parametrize("number", range(4))
def test_a_chart_says_what_it_shows_and_has_no_inline_style(number: int) -> None:
    markup = every_chart("Mana by colour")[number]
    root = parsed(markup)
    assert root.attrib["role"] == "img"
    named = {element.attrib["id"] for element in root if "id" in element.attrib}
    assert set(root.attrib["aria-labelledby"].split()) == named
    assert root.findtext(f"{SVG}title") == "Mana by colour"
    assert "style=" not in markup


def test_bars_are_as_long_as_their_values() -> None:
    markup = charts.bars(
        "x", "t", "d", [charts.Bar("a", 100, "100"), charts.Bar("b", 50, "50"), charts.Bar("c", 0, "0")]
    )
    widths = [float(element.attrib["width"]) for element in parsed(markup).iter(f"{SVG}rect")]
    assert widths[1] == pytest.approx(widths[0] / 2)
    assert widths[2] == 0


def test_values_beyond_any_float_column_are_drawn() -> None:
    markup = charts.bars("x", "t", "d", [charts.Bar("a", 10**40, f"{10**40:,}"), charts.Bar("b", 1, "1")])
    widths = [float(element.attrib["width"]) for element in parsed(markup).iter(f"{SVG}rect")]
    assert widths[0] > widths[1] > 0


@pytest.mark.parametrize("values", [[], [charts.Bar("a", 0, "0")]], ids=["none", "zero"])
def test_nothing_to_show_still_draws(values: list[charts.Bar]) -> None:
    parsed(charts.bars("x", "t", "d", values))
    parsed(charts.columns("x", "t", "d", values))
    parsed(charts.lines("x", "t", "d", [charts.Line("a", [])], across=charts.Axis(0, [])))
    parsed(charts.lines("x", "t", "d", [charts.Line("a", [(0, 5)])], across=charts.Axis(0, [(0, "0")])))


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 0.25, 0.5, 0.75, 1.0]),
        (4, [0, 1, 2, 3, 4]),
        (10, [0, 2, 4, 6, 8, 10]),
        (100, [0, 25, 50, 75, 100]),
        (1_000_000, [0, 250_000, 500_000, 750_000, 1_000_000]),
    ],
)
def test_ticks_are_round_and_reach_the_top(highest: float, ticks: list[float]) -> None:
    assert charts.nice_ticks(highest) == ticks


@pytest.mark.parametrize("highest", [0.003, 0.7, 3, 7, 13, 99, 101, 12_345, 9_999_999, 2.5e18])
def test_ticks_always_cover_the_highest_value_in_few_steps(highest: float) -> None:
    ticks = charts.nice_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest
    assert 2 <= len(ticks) <= 7
