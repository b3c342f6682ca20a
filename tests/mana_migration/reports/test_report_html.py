"""The HTML report: one file that asks for nothing, in which hostile text stays text."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.test import override_settings
from django.utils.html import escape

from mana_migration.domain.report import ProblemClass, RunReport
from mana_migration.reports import report_html
from mana_migration.services.reporting import run_report
from tests.factories import UserFactory, make_wallets
from tests.mana_migration.reports.pages import Page
from tests.mana_migration.reports.test_formats import Lines, line
from tests.mana_migration.running import migrate, roll_back

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "</title><base href=//evil.example>",
    "{{ settings.SECRET_KEY }}{% now 'Y' %}",
    "javascript:alert(1)",
    "\u202egnp.exe",
)


def html_of(report: RunReport) -> str:
    stream = io.BytesIO()
    report_html.write(report, stream)
    return stream.getvalue().decode()


@pytest.fixture
def run(db: None) -> int:
    make_wallets([(place, place % 7, place % 3) for place in range(40)])
    make_wallets([(-1, 0, 0)] * 3)
    return int(migrate("--skip-invalid", "--batch-size", 7, code=3)["run"])


def poisoned(report: RunReport, text: str) -> RunReport:
    """Put the text wherever text of others can get into a report."""
    seen = report.snapshot
    totals = seen.totals.from_dict(seen.totals.as_dict())
    totals.errors.update({text: 3})
    totals.skips.update({text: 3})
    events = [replace(event, message=text, actor=text) for event in seen.events]
    snapshot = replace(
        seen, reason=text, stop_reason=text, totals=totals, events=events, actor=text, host=text, controls={"delay": 0}
    )
    problem = ProblemClass(text, 3, text, [1])
    return replace(
        report,
        snapshot=snapshot,
        errors=[problem],
        skips=[problem],
        details=Lines(line(error=text), line(status="failed", error=text)),
        records=2,
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_changes_no_element_of_the_page(run: int, text: str) -> None:
    with run_report("default", run) as report:
        calm, page = Page(html_of(poisoned(report, "c" * len(text)))), Page(html_of(poisoned(report, text)))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in calm.elements]
    assert [sorted(attributes) for _, attributes in page.elements] == [sorted(attrs) for _, attrs in calm.elements]


def test_the_page_has_nothing_that_could_run_or_be_fetched(run: int) -> None:
    with run_report("default", run) as report:
        text = html_of(report)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "audio", "video"}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not names & {"style", "src", "srcset", "action", "formaction", "ping", "background"}
    assert not [name for name in names if name.startswith("on")]
    links = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert links
    assert all(link and link.startswith("#") for link in links)
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_policy_lets_in_this_style_sheet_and_nothing_else(run: int) -> None:
    with run_report("default", run) as report:
        page = Page(html_of(report))
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert policy == report_html.content_security_policy()


def test_the_style_sheet_survives_escaping() -> None:
    assert escape(report_html.style()) == report_html.style()


def test_every_chart_says_what_it_shows_and_has_its_numbers(run: int) -> None:
    with run_report("default", run) as report:
        text = html_of(report)
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert len(figures) >= 4
    for figure in figures:
        assert re.search(r'role="img" aria-label="[^"]+"|<ul class="chart-bars">', figure)
        assert "<details>" in figure
        assert figure.count("<tr>") >= 2
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_who_and_whose_are_not_in_the_page(run: int) -> None:
    UserFactory(username="canary-name", email="canary@example.org")
    with run_report("default", run) as report:
        text = html_of(replace(report, snapshot=replace(report.snapshot, actor="canary-actor", host="canary-host")))
    assert "canary" not in text
    assert "user-" not in text


def test_of_too_many_users_those_with_problems_come_first(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "USERS_LISTED", 10)
    with run_report("default", run) as report:
        text = html_of(report)
    rows = Page(text).tables["users-one-by-one"][1:]
    assert [row[2] for row in rows] == ["skipped"] * 3 + ["migrated"] * 7
    assert len({row[0] for row in rows}) == 10
    assert "10 of 43 users, those who failed or were skipped first" in text


@pytest.mark.parametrize(("zone", "offset"), [("UTC", "UTC"), ("Asia/Kolkata", "IST")])
def test_times_are_in_the_sites_time_zone(run: int, zone: str, offset: str) -> None:
    with override_settings(TIME_ZONE=zone), run_report("default", run) as report:
        assert re.search(rf"Started \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d {offset}", html_of(report))


@pytest.mark.browser
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_quietly_and_axe_finds_nothing(browser: Any, tmp_path: Path, scheme: str) -> None:
    make_wallets([(place, place % 7, place % 3) for place in range(40)])
    make_wallets([(-1, 0, 0)] * 3)
    number = migrate("--skip-invalid", "--batch-size", 7, code=3)["run"]
    roll_back("--run", number)
    file = tmp_path / "report.html"
    with run_report("default", number) as report, file.open("wb") as stream:
        report_html.write(report, stream)
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert (said, asked) == ([], [file.as_uri()])
    assert page.locator("figure svg").count() >= 4
    assert page.evaluate("getComputedStyle(document.body).fontSize") == "16px"  # the policy let the style sheet in
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
