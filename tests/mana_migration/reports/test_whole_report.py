"""The report of the whole migration: where every user is at last, over all runs, and the value from first to now."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from openpyxl import load_workbook

from mana_migration.reports import report_text
from mana_migration.services import reporting
from tests.factories import UserFactory, WalletFactory, make_wallets
from tests.mana_migration.running import cure, keys_of, migrate, refuse_records, roll_back
from tests.support.commands import run_command
from wishes import services

pytestmark = pytest.mark.django_db


@pytest.fixture
def story() -> dict[str, int]:
    """A canary, a failure, a retry, users rolled back, a fix, spending: and one who was never handled."""
    keys = keys_of(make_wallets([(place, place % 7, place % 3) for place in range(1, 21)]))
    WalletFactory(green=-5)
    migrate("--limit", 5, "--skip-invalid", "--reason", "canary")
    refuse_records(keys[6:8])
    migrate("--auto-fix", "--no-input", "--error-threshold", 50, code=3)
    cure()
    migrate("--retry-failed")
    services.spend_mana(keys[1], 3, reference="bought")
    services.earn_mana(keys[2], 70, reference="quest")
    roll_back("--user-id", f"pk:{keys[1]}", "--on-shortfall", "write-off")
    roll_back("--user-id", f"pk:{keys[3]}")
    migrate("--user-id", f"pk:{keys[4]}", code=0)  # is migrated already: the live record decides
    WalletFactory(green=0, blue=0, red=0)
    services.earn_mana(keys[2], 7, reference="quest 2")
    UserFactory()
    return {"rolled back": keys[1], "again": keys[4]}


def whole(*argv: object) -> Any:
    result = run_command("monitor_migration", "--report", "--all", "--format", "json", *argv)
    assert result.code == 0, result
    return json.loads(result.out)


def tables(told: Any) -> dict[str, list[dict[str, Any]]]:
    return {table["title"]: table["data"] for table in told["tables"]}


def test_every_user_is_listed_once_with_the_record_that_decides(story: dict[str, int]) -> None:
    told = whole()
    counts = told["statistics"]["users"]
    assert (counts["total"], counts["migrated"], counts["pending"], counts["rolled_back"]) == (22, 19, 3, 2)
    assert len(told["users"]) == 21  # but for the one who was never handled
    statuses = [user["status"] for user in told["users"]]
    assert (statuses.count("migrated"), statuses.count("rolled_back")) == (19, 2)
    assert len({user["record"] for user in told["users"]}) == 21
    assert [user["record"] for user in told["users"]] == sorted(user["record"] for user in told["users"])


def test_who_is_left_is_listed_with_the_reason(story: dict[str, int]) -> None:
    left = [(part["state"], part["users"]) for part in whole()["left"]]
    assert left == [("rolled_back", 2), ("never handled", 1)]


def test_the_value_is_accounted_for_from_the_first_run_to_now(story: dict[str, int]) -> None:
    books = whole()["reconciliation"]
    assert books["ok"] is True
    assert books["before"] + sum(books["changes"].values()) == books["after"]
    assert books["changes"]["mana earned, spent or adjusted by the site"] == 70 + 7 - 3
    assert books["changes"]["written off by rollbacks"] == 3
    assert books["changes"]["corrected by auto-fix"] == 50


def test_a_unit_that_is_in_no_ledger_is_a_difference(story: dict[str, int]) -> None:
    before = whole()["reconciliation"]
    with connection.cursor() as cursor:
        cursor.execute("UPDATE wishes_wallet SET green = green + 1 WHERE migrated_at IS NULL")
    books = whole()["reconciliation"]
    assert books["ok"] is False
    assert books["difference"] == before["difference"] + 30
    out = run_command("monitor_migration", "--report", "--all").out
    assert "Reconciliation: NOT OK" in out


def test_it_says_who_did_what_and_has_each_runs_chain(story: dict[str, int]) -> None:
    found = tables(whole())
    runs = found["Runs"]
    assert runs[0]["reason"] == "canary"
    assert all(run["by"] for run in runs)
    assert all(len(run["head of the chain of digests"]) == 64 for run in runs if run["users"])
    deeds = {(act["what"], act["message"]) for act in found["Who did what"]}
    assert ("Fixed", "negative_balance: 1 finding") in deeds
    assert any(what == "Started" for what, _ in deeds)


def test_it_says_which_fixes_were_undone_and_who_closed_and_reopened_the_migration() -> None:
    make_wallets([(-5, 0, 0), (-6, 0, 0), (7, 0, 0)])
    migrate("--auto-fix", "--no-input")
    assert run_command("control_migration", "close", "--reason", "all is done").code == 0
    assert run_command("control_migration", "reopen", "--reason", "a late complaint").code == 0
    roll_back("--all")
    acts = tables(whole())["Who did what"]
    assert [
        (act["what"], act["message"]) for act in acts if act["what"] not in ("Started", "Finished", "Rolled back")
    ] == [
        ("Fixed", "negative_balance: 2 findings"),
        ("Closed", "all is done"),
        ("Reopened", "a late complaint"),
        ("Fixes undone", "negative_balance: 2 findings"),
    ]


def test_every_format_has_it(story: dict[str, int], tmp_path: Path) -> None:
    told = whole()
    for format_ in ("json", "csv", "html", "xlsx"):
        out = run_command("monitor_migration", "--export", format_, "--all", "--output", tmp_path / f"all.{format_}")
        assert out.code == 0, out
        assert out.out.startswith("Report of the whole migration: ")
    assert json.loads((tmp_path / "all.json").read_text())["users"] == told["users"]
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [int(row["record"]) for row in rows] == [user["record"] for user in told["users"]]
    book = load_workbook(tmp_path / "all.xlsx")
    assert book.sheetnames == ["Contents", *tables(told), "Users"]
    page = (tmp_path / "all.html").read_text()
    assert "<h1>Whole migration" in page
    assert all(f"<h2>{title}" in page for title in tables(told))
    assert "run1" not in run_command("monitor_migration", "--export", "json", "--all", "--output", "-").err


def test_since_lists_those_who_were_handled_from_then_on(story: dict[str, int]) -> None:
    assert len(whole("--since", "2024-01-01")["users"]) == 21
    found = whole("--since", "2024-01-01")
    assert found["listed_since"].startswith("2024-01-01T00:00:00")


def test_no_user_is_named(story: dict[str, int]) -> None:
    from django.contrib.auth import get_user_model

    names = list(get_user_model().objects.values_list("username", flat=True))
    text = json.dumps(whole())
    assert names
    assert not [name for name in names if name in text]


def test_a_database_whose_runs_took_no_sums_is_not_compared() -> None:
    from tests.mana_migration.history import make_history

    make_history(3)
    assert whole()["reconciliation"] is None


def test_on_a_terminal_no_line_is_wider_than_it_is_and_ids_have_no_separators(story: dict[str, int]) -> None:
    with reporting.whole_report_to_come() as report:
        whole_ = report.whole()
        narrow, free = list(report_text.as_lines(whole_, width=80)), list(report_text.as_lines(whole_))
    wide = [line for line in narrow if len(line) > 80]
    assert all(len(line.split()[-1]) == 64 for line in wide), wide  # a digest is one word
    assert max(map(len, free)) > 80
    assert report_text.named_cell("record", 60_030) == "60030"
    assert report_text.named_cell("users", 60_030) == "60,030"


def test_times_in_the_notes_are_written_as_everywhere_else(story: dict[str, int], tmp_path: Path) -> None:
    file = tmp_path / "whole.html"
    since = "2020-01-01T10:00:00+01:00"
    assert run_command("monitor_migration", "--export", "html", "--all", "--since", since, "--output", file).code == 0
    page = file.read_text()
    assert re.search(r"Report made \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+\.", page)
    assert "rolled back since 2020-01-01 09:00:00 UTC." in page
