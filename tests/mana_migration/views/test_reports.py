"""The report of a run and its downloads."""

import csv
import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from mana_migration.models import ReportFile
from mana_migration.reports import downloads, report_html
from mana_migration.services import report_files, runs
from mana_migration.views import reports
from tests.mana_migration.history import make_history
from tests.mana_migration.stories import Village, read_file, url
from tests.mana_migration.views.test_actions import text_of

pytestmark = pytest.mark.django_db

SignIn = Callable[..., Client]
CONTENT = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "summary.csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def test_the_report_is_shown_with_a_policy_of_its_own(sign_in: SignIn) -> None:
    history = make_history()
    response = sign_in().get(url("report", history.run.pk))
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith(report_html.content_security_policy())
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    page = read_file(response).decode()
    assert f"{history.totals.mana:,}" in page
    assert "Content-Disposition" not in response.headers
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("kind", CONTENT)
def test_a_download_is_a_file_with_a_name_and_a_type(kind: str, sign_in: SignIn) -> None:
    history = make_history()
    response = sign_in("export_report").get(url("download", history.run.pk, kind))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == CONTENT[kind]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith('attachment; filename="migration-report-')
    assert disposition.endswith(f'-run{history.run.pk}.{kind}"')
    assert len(read_file(response)) > 100
    assert "no-store" in response.headers["Cache-Control"]


def test_every_kind_has_the_same_totals(sign_in: SignIn) -> None:
    history = make_history(30)
    client = sign_in("export_report")
    told = json.loads(read_file(client.get(url("download", history.run.pk, "json"))))
    users = read_file(client.get(url("download", history.run.pk, "csv"))).decode()
    rows = list(csv.DictReader(io.StringIO(users)))
    assert len(rows) == history.totals.selected == 30
    assert sum(int(row["mana_credited"]) for row in rows) == history.totals.mana
    assert str(history.totals.mana) in json.dumps(told)


@pytest.mark.parametrize("kind", ["exe", "pdf", "..", "json.exe", "HTML"])
def test_there_is_no_other_kind(kind: str, sign_in: SignIn) -> None:
    run = make_history().run
    assert sign_in("export_report").get(f"{url('report', run.pk)}/{kind}").status_code == 404


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> int:
    """Return a run that is too large for a request."""
    settings.MANA_MIGRATION_REPORT_DIR = tmp_path / "reports"
    monkeypatch.setattr(reports, "IN_REQUEST", 5)
    monkeypatch.setattr(reports, "IN_REQUEST_XLSX", 5)
    return make_history().run.pk


@pytest.mark.parametrize("kind", CONTENT)
def test_a_large_report_is_asked_for_made_by_a_worker_and_offered(kind: str, large: int, sign_in: SignIn) -> None:
    client = sign_in("export_report")
    address = url("download", large, kind)
    page = client.get(address).content.decode()
    assert "Make the report" in page
    assert not ReportFile.objects.exists()  # to look asks for nothing
    assert client.post(address).headers["Location"] == address
    page = client.get(address).content.decode()
    assert "Waiting for a worker process" in page
    assert '<meta http-equiv="refresh"' in page
    made = report_files.make_next(downloads.write)
    assert made is not None
    page = client.get(address).content.decode()
    assert f"file={made.pk}" in page
    assert '<meta http-equiv="refresh"' not in page
    response = client.get(f"{address}?file={made.pk}")
    assert response.headers["Content-Type"] == CONTENT[kind]
    assert response.headers["Content-Disposition"].endswith(f'-run{large}.{kind}"')
    assert len(read_file(response)) == made.written


def test_a_large_report_opens_in_the_browser_with_a_policy_of_its_own(large: int, sign_in: SignIn) -> None:
    client = sign_in()
    client.post(url("report", large), {"again": "on"})
    made = report_files.make_next(downloads.write)
    assert made is not None
    assert made.again
    response = client.get(f"{url('report', large)}?file={made.pk}")
    assert response.headers["Content-Security-Policy"].startswith(report_html.content_security_policy())
    assert b"<html" in read_file(response)
    report_files.path_of(made).unlink()
    assert client.get(f"{url('report', large)}?file={made.pk}").status_code == 404


def test_a_page_without_a_worker_says_how_to_start_one(large: int, sign_in: SignIn) -> None:
    client = sign_in()
    client.post(url("report", large))
    ReportFile.objects.update(created_at=runs.database_now("default") - timedelta(seconds=11))
    assert "work_migration" in client.get(url("report", large)).content.decode()


def test_who_may_not_download_cannot_ask_for_a_file(large: int, sign_in: SignIn) -> None:
    client = sign_in()
    assert client.post(url("download", large, "csv")).status_code == 403
    file = report_files.ask(large, "csv", actor="olga")
    report_files.make_next(downloads.write)
    assert client.get(f"{url('download', large, 'csv')}?file={file.pk}").status_code == 403
    assert "Make the report" in client.get(f"{url('report', large)}?file={file.pk}").content.decode()


def test_a_failed_report_says_why(large: int, sign_in: SignIn) -> None:
    file = report_files.ask(large, "html", actor="olga")
    ReportFile.objects.filter(pk=file.pk).update(status="failed", reason="no space left")
    page = sign_in().get(url("report", large)).content.decode()
    assert "The report could not be made: no space left" in page
    assert "Make the report again" in page


def test_a_report_that_fails_half_way_is_an_error_and_not_half_a_file(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(downloads, "write", fail)
    client = sign_in("export_report")
    client.raise_request_exception = False
    response = client.get(url("download", make_history().run.pk, "json"))
    assert response.status_code == 500
    assert "Content-Disposition" not in response.headers


def test_the_whole_migration_is_one_page_linked_from_the_header(sign_in: SignIn) -> None:
    history = make_history()
    client = sign_in()
    assert f'href="{url("whole")}"' in client.get(url("overview")).content.decode()
    response = client.get(url("whole"))
    page = read_file(response).decode()
    assert response.headers["Content-Security-Policy"].startswith(report_html.content_security_policy())
    assert f"{history.totals.mana:,}" in page


def test_the_whole_migration_of_a_large_site_is_made_by_a_worker(
    large: int, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "IN_REQUEST", 1)
    client, address = sign_in(), url("whole")
    assert "Make the report" in client.get(address).content.decode()
    assert client.post(address).headers["Location"] == address
    assert "A worker process makes the report of the whole migration." in client.get(address).content.decode()
    assert report_files.ask(None, "html", actor="sven").actor == "staff"  # it is asked for once
    made = report_files.make_next(downloads.write)
    assert made is not None
    assert (made.run_id, made.status) == (None, "ready")
    assert f"file={made.pk}" in client.get(address).content.decode()
    response = client.get(f"{address}?file={made.pk}")
    assert response.headers["Content-Security-Policy"].startswith(report_html.content_security_policy())
    assert b"Users by outcome" in read_file(response)
    assert "Make the report" in client.get(url("report", large)).content.decode()  # a run's is another one


def test_statistics_have_the_meanings_of_the_old_scripts(sign_in: SignIn) -> None:
    village = Village()
    village.migrated("anna", spent=230)
    village.migrated("ben")
    village.failed("dora")
    village.pending("emil")
    page = text_of(sign_in().get(url("statistics")))
    for words in (
        "Users 4 with a wallet",
        "Migrated 2 50 %",
        "Not migrated 2 of them 1 failed, 0 skipped, 0 rolled back",
        "Mana in the system 2,230",
        "Average mana 1,115 of a migrated user",
        "Largest 1,230",
        "Smallest 1,000",
        "Wishes left -2 green, 2 blue, 1 red",
        "Negative balances 1",
        f"Run {village.run.pk} 1,230",
    ):
        assert words in page, words


def test_statistics_of_a_large_site_are_counted_by_a_worker(
    large: int, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "IN_REQUEST", 1)
    client, address = sign_in(), url("statistics")
    assert "Count now" in client.get(address).content.decode()
    client.post(address)
    assert "A worker process reads every wallet" in client.get(address).content.decode()
    assert report_files.make_next(downloads.write) is not None
    page = text_of(client.get(address))
    assert "Mana in the system" in page
    assert "Count again" in page
    client.post(address)
    assert report_files.make_next(downloads.write) is not None
