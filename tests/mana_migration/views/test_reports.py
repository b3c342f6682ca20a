"""The report of a run and its downloads."""

import csv
import io
import json
from collections.abc import Callable

import pytest
from django.test import Client

from mana_migration.domain.results import Totals
from mana_migration.reports import report_html
from mana_migration.views import reports
from tests.mana_migration.history import make_batch, make_history, make_run
from tests.mana_migration.stories import read_file, url

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


@pytest.mark.parametrize(("kind", "users"), [("json", reports.LARGEST + 1), ("xlsx", reports.LARGEST_XLSX + 1)])
def test_a_run_too_large_for_a_request_names_the_command(kind: str, users: int, sign_in: SignIn) -> None:
    run = make_run()
    make_batch(run, Totals(selected=users, migrated=users))
    response = sign_in("export_report").get(url("download", run.pk, kind))
    assert response.status_code == 413
    assert f"monitor_migration --export {kind} --run {run.pk}" in response.content.decode()


def test_the_report_of_a_run_too_large_names_the_command(sign_in: SignIn) -> None:
    run = make_run()
    make_batch(run, Totals(selected=reports.LARGEST + 1, migrated=reports.LARGEST + 1))
    assert sign_in().get(url("report", run.pk)).status_code == 413


def test_a_report_that_fails_half_way_is_an_error_and_not_half_a_file(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(reports, "_write", fail)
    client = sign_in("export_report")
    client.raise_request_exception = False
    response = client.get(url("download", make_history().run.pk, "json"))
    assert response.status_code == 500
    assert "Content-Disposition" not in response.headers
