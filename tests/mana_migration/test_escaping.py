"""Text that gets into HTML stays text, in every function that builds HTML; templates never turn the escaping off."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from mana_migration.admin.lists import changelist_link, status_label, user_link
from mana_migration.admin.runs import MigrationRunAdmin, as_list
from mana_migration.admin.users import MigratingUserAdmin
from mana_migration.reports import charts
from mana_migration.selectors.user_list import Standing
from mana_migration.templatetags import mana
from tests.mana_migration.history import make_event, make_run
from tests.mana_migration.reports.test_charts import HOSTILE, elements, parsed
from wishes.admin import name_of

PROJECT = Path(__file__).resolve().parent.parent.parent
#: What may be called safe in our source, and why it is: an empty text.
SAFE = {'SafeString("")'}


def user() -> Any:
    """Return a user, not saved, with a hostile name."""
    model = get_user_model()
    return model(pk=7, **{model.USERNAME_FIELD: HOSTILE})


def shown(standing: Standing) -> str:
    """Return the status of a user in the list, failed for a hostile reason."""
    found = SimpleNamespace(standing=standing, record=SimpleNamespace(error_class=HOSTILE))
    return MigratingUserAdmin.shown_standing(None, SimpleNamespace(found=found))  # type: ignore[arg-type]


BUILDERS: dict[str, Callable[[], str]] = {
    "status, its value": lambda: mana.status(HOSTILE, "calm"),
    "status, its label": lambda: mana.status("calm", HOSTILE),
    "label, its status": lambda: status_label(HOSTILE, "calm"),
    "label, its text": lambda: status_label("calm", HOSTILE),
    "link, its label": lambda: changelist_link("runevent", HOSTILE),
    "link, its filters": lambda: changelist_link("runevent", "calm", **{HOSTILE: HOSTILE}),
    "user's link": lambda: user_link(user()),
    "user's name": lambda: name_of(user()),
    "names in a list": lambda: as_list({HOSTILE: 1}),
    "values in a list": lambda: as_list({"calm": HOSTILE}),
    "nested values in a list": lambda: as_list({"calm": [HOSTILE]}),
    "reason of a failure": lambda: shown(Standing.FAILED),
    "reason of a skip": lambda: shown(Standing.SKIPPED),
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_hostile_text_makes_no_element_and_leaves_no_attribute(builder: str) -> None:
    markup = BUILDERS[builder]()
    assert "<script" not in markup
    assert "<img" not in markup
    tags = re.findall(r"<[^>]*>", markup)
    assert all(tag.count('"') % 2 == 0 for tag in tags), tags


def test_text_is_escaped_once() -> None:
    assert name_of(user()) == (
        "<bdi>&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;</bdi>"
    )
    assert as_list({"a&b": "<i>", "n": [1, "<b>"]}) == (
        '<ul class="mm-plain"><li>a&amp;b: &lt;i&gt;</li><li>n: [1, &quot;&lt;b&gt;&quot;]</li></ul>'
    )
    assert status_label("x", "a & b") == '<span class="mm-status mm-status-x">a &amp; b</span>'
    assert changelist_link("runevent", "a & b", run=3, kind="x y").endswith(
        '/runevent/?run=3&amp;kind=x+y">a &amp; b</a>'
    )


@pytest.mark.django_db
def test_what_an_actor_wrote_is_text_on_the_page_of_a_run() -> None:
    run = make_run()
    make_event(run, "paused", 5, actor="<b>olga</b>", message="lunch & tea<script>")
    markup = MigrationRunAdmin.latest_events(None, run)  # type: ignore[arg-type]
    assert "<bdi>&lt;b&gt;olga&lt;/b&gt;</bdi> lunch &amp; tea&lt;script&gt;</li>" in markup
    links = MigrationRunAdmin.related(None, run)  # type: ignore[arg-type]
    assert re.findall(r">(\w+)</a>", links) == ["records", "batches", "events", "fixes"]


NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def _lines(words: str = "d", colour: str = "mana", **values: Any) -> str:
    line = charts.Line([(NOON, 1), (NOON + timedelta(seconds=10), 4)], colour, area=True)
    return charts.lines(words, [line], start=NOON, end=NOON + timedelta(seconds=10), **values)


CHARTS: dict[str, Callable[[str], str]] = {
    "bars, label": lambda text: charts.bars([charts.Bar(text, 3, "3")]),
    "bars, value": lambda text: charts.bars([charts.Bar("x", 3, text)]),
    "bars, colour": lambda text: charts.bars([charts.Bar("x", 3, "3", text)]),
    "lines, description": _lines,
    "lines, colour": lambda text: _lines("d", text),
    "lines, shade": lambda text: _lines(shades=[charts.Shade(NOON, NOON, "idle", text)]),
    "lines, kind of a shade": lambda text: _lines(shades=[charts.Shade(NOON, NOON, text, "x")]),
    "lines, mark": lambda text: _lines(marks=[charts.Mark(NOON, text)]),
    "lines, hint": lambda text: _lines(hints=[charts.Mark(NOON, text)]),
}


@pytest.mark.parametrize("chart", CHARTS)
def test_hostile_text_in_one_place_of_a_chart_is_inert(chart: str) -> None:
    calm, hostile = CHARTS[chart]("calm"), CHARTS[chart](HOSTILE)
    assert elements(hostile) == elements(calm)
    assert [element.tag for element in parsed(hostile).iter()] == [element.tag for element in parsed(calm).iter()]
    for one, other in zip(parsed(hostile).iter(), parsed(calm).iter(), strict=True):
        assert one.attrib.keys() == other.attrib.keys()


def test_a_moment_is_written_for_people_and_machines() -> None:
    at = timezone.datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.get_fixed_timezone(0))
    assert mana.moment(None) == "-"
    time = '<time datetime="2026-03-04T05:06:07+00:00">2026-03-04 05:06:07 UTC</time>'
    assert mana.moment(at).startswith(f'{time} <span class="mm-ago">')


def test_figures_are_written_as_reports_write_them() -> None:
    assert (mana.number(1234567), mana.number(None)) == ("1,234,567", "-")
    assert (mana.signed(1234), mana.signed(-5), mana.signed(0)) == ("+1,234", "-5", "+0")
    assert mana.duration(7500) == "2 h 05 min"
    assert mana.percent(None) == "-"


def test_nothing_is_called_safe_and_no_template_turns_the_escaping_off() -> None:
    off = re.compile(r"\|\s*safe|autoescape|safeseq|\bmark_safe\b|SafeString\([^)]*\)|\bSafeText\(|html_safe")
    files = [
        path
        for folder in ("mana_migration", "wishes", "config", "templates")
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in (".py", ".html", ".txt")
    ]
    assert len(files) > 100
    found = {match for path in files for match in off.findall(path.read_text())}
    assert found == SAFE
