"""What several databases did becomes one object, one table and one report, in which nothing is lost or rounded."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tablib import Databook

from mana_migration.reports import databases
from mana_migration.reports.export import FORMATS

LARGE = 2**62


def migrated(run: int, users: int, mana: int, **more: Any) -> dict[str, Any]:
    """Return what migrate_users prints, shortened."""
    return {
        "run": run,
        "status": "completed",
        "users": {"selected": users, "migrated": users - 1, "rolled_back": 0, "skipped": 0, "failed": 1},
        "wishes": {"green": users, "blue": 0, "red": 1},
        "mana": mana,
        "errors": {"overflow": 1},
        "handled_by_command": users,
        "exit_code": 3,
    } | more


LOST = {
    "error": {"class": "DatabaseUnavailableError", "message": "the database is lost", "exit_code": 1},
    "exit_code": 1,
}
FOUND = {
    "eu": migrated(1, 10, LARGE),
    "us": migrated(7, 20, LARGE, errors={"overflow": 1, "duplicate": 2}),
    "asia": LOST,
}


def test_totals_are_exact_and_a_database_without_figures_adds_nothing() -> None:
    result = databases.merged(FOUND, 1, 2.0)
    totals = result["totals"]
    assert result["databases"] == FOUND
    assert (totals["databases"], totals["mana"], result["exit_code"]) == (3, 2 * LARGE, 1)
    assert totals["users"] == {"selected": 30, "migrated": 28, "rolled_back": 0, "skipped": 0, "failed": 2}
    assert totals["wishes"] == {"green": 30, "blue": 0, "red": 2}
    assert totals["errors"] == {"overflow": 2, "duplicate": 2}
    assert (totals["seconds"], totals["users_per_minute"]) == (2.0, 900)


def test_shares_and_names_of_runs_are_not_added_up() -> None:
    parts = [
        {"users": {"total": 30, "migrated": 10, "pending": 20, "progress": 0.333333}, "largest_mana": 5},
        {"users": {"total": 10, "migrated": 10, "pending": 0, "progress": 1.0}, "largest_mana": 9},
    ]
    assert databases.totals(parts) == {"users": {"total": 40, "migrated": 20, "pending": 20, "progress": 0.5}}


def test_findings_are_added_up_by_check() -> None:
    def validated(ok: bool, count: int, fixed: int) -> dict[str, Any]:
        checks = [
            {"id": "overflow", "severity": "error", "count": count, "fixed": fixed},
            {"id": "late_wishes", "severity": "warning", "count": 1, "fixed": 0},
        ]
        return {
            "ok": ok,
            "checks": checks,
            "totals": {"users": 5, "migrated": 4, "value": LARGE},
            "exit_code": 0 if ok else 3,
        }

    result = databases.merged({"eu": validated(True, 2, 2), "us": validated(False, 3, 1)}, 3, 1.0)
    assert result["totals"]["checks"][0] == {"id": "overflow", "severity": "error", "count": 5, "fixed": 3}
    assert result["totals"]["totals"] == {"users": 10, "migrated": 8, "value": 2 * LARGE}
    table, findings = databases.sections(result)
    assert [row[:2] + row[3:] for row in findings.rows] == [
        ["eu", "overflow", 2], ["eu", "late_wishes", 1], ["us", "overflow", 3], ["us", "late_wishes", 1],
    ]  # fmt: skip
    shown = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["status"], row["errors"], row["warnings"]) for row in shown] == [
        ("ok", 0, 1), ("not ok", 2, 1), (None, 2, 2),
    ]  # fmt: skip


def test_a_database_without_a_run_says_so() -> None:
    result = databases.merged({"eu": {"run": None, "exit_code": 0}}, 0, 1.0)
    (table,) = databases.sections(result)
    assert (table.columns[:2], table.rows[0][:2]) == (["database", "status"], ["eu", "no run"])


def test_the_table_has_a_row_for_each_database_the_totals_and_what_went_wrong() -> None:
    result = databases.merged(FOUND, 1, 2.0)
    table, reasons, errors = databases.sections(result)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["database"] for row in rows] == ["eu", "us", "asia", "all"]
    assert [row["status"] for row in rows] == ["completed", "completed", "failed", None]
    assert table.note == "3 databases: 2 completed, 1 failed"
    assert [row["users"] for row in rows] == [10, 20, None, 30]
    assert [row["exit"] for row in rows] == [3, 3, 1, 1]
    assert errors.rows == [["eu", "overflow", 1], ["us", "overflow", 1], ["us", "duplicate", 2]]
    assert reasons.rows == [["asia", "the database is lost"]]


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_of_the_report_has_all_rows_and_the_exact_totals(format_: str) -> None:
    stream = io.BytesIO()
    databases.write(databases.merged(FOUND, 1, 2.0), format_, datetime(2026, 11, 28, tzinfo=UTC), stream)
    made = stream.getvalue()
    if format_ == "json":
        assert json.loads(made)["totals"]["mana"] == 2 * LARGE
    elif format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(made.decode())))
        assert [(row["database"], row["mana"]) for row in rows][2:] == [("asia", ""), ("all", str(2 * LARGE))]
    elif format_ == "html":
        page = made.decode()
        assert f"{2 * LARGE:,}" in page
        assert 'class="pill warn">exit code 1' in page
        assert "one by one" not in page
        assert "<script" not in page
    else:
        book = Databook()
        book.xlsx = made
        table, _, errors = book.sheets()
        assert (table["database"][-1], table["mana"][-1]) == ("all", str(2 * LARGE))
        assert len(errors) == 3
