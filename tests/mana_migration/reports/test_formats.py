"""The formats of a report say the same: each is written, read back and compared with the others and with the books."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jsonschema
import pytest
from openpyxl import load_workbook

from mana_migration.domain.report import AMOUNTS, SCHEMA_VERSION, RunReport, StatusSum, UserDetail
from mana_migration.models import UserMigration
from mana_migration.reports import cells, export, report_csv, report_html, report_json, report_text, report_xlsx
from mana_migration.reports.sections import SPREADSHEET_NOTE, sections
from mana_migration.selectors.details import RunDetails
from mana_migration.services.reporting import run_report
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.history import after, done, make_batch, make_history, make_run, rewrite_records
from tests.mana_migration.reports.pages import Page
from tests.mana_migration.running import cure, keys_of, migrate, refuse_records, roll_back
from tests.support.commands import PROJECT
from wishes import services

pytestmark = pytest.mark.django_db

SCHEMA = json.loads((PROJECT / "docs" / "report.schema.json").read_text())
BIG = 9 * 10**14
TOTALS = ("selected", "migrated", "rolled_back", "skipped", "failed")


@pytest.fixture
def migration() -> int:
    """A migration of 40 users: 3 negative ones were skipped, 2 failed, one was rich; 4 were taken back since."""
    keys = keys_of(make_wallets([(place, place % 7, place % 3) for place in range(34)]))
    WalletFactory(red=BIG)
    make_wallets([(-1, 0, 0)] * 3)
    refuse_records(failing := keys_of(make_wallets([(5, 5, 5)] * 2)))
    run = int(migrate("--skip-invalid", "--batch-size", 7, code=3)["run"])
    cure()
    assert len(failing) == 2
    for key in keys[20:22]:
        services.spend_mana(key, 50, reference=f"bought:{key}")
    users = [word for key in keys[19:23] for word in ("--user-id", f"pk:{key}")]
    roll_back(*users, "--on-shortfall", "write-off")
    return run


def rendered(run: int, write: Callable[[RunReport, Any], None], *, again: bool = False) -> bytes:
    with run_report("default", run, again=again) as report:
        stream = io.BytesIO()
        write(report, stream)
        return stream.getvalue()


def as_json(run: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rendered(run, report_json.write))
    return found


def csv_rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def summary_of(content: bytes) -> dict[tuple[str, str, str], str]:
    return {(row["section"], row["item"], row["figure"]): row["value"] for row in csv_rows(content)}


def as_texts(users: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [tuple("" if value is None else str(value) for value in user.values()) for user in users]


def test_the_story_is_what_it_claims(migration: int) -> None:
    users = as_json(migration)["run"]["users"]
    assert users == {"selected": 40, "migrated": 35, "rolled_back": 0, "skipped": 3, "failed": 2}


def test_the_json_follows_its_schema_and_version(migration: int) -> None:
    for run in (migration, as_json(migration)["rollbacks"][0]["run"]):
        told = as_json(run)
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        jsonschema.validate(told, SCHEMA, format_checker=jsonschema.FormatChecker())
        assert told["schema_version"] == SCHEMA_VERSION == SCHEMA["properties"]["schema_version"]["const"]


@pytest.mark.parametrize("broken", ["missing", "added", "retyped"])
def test_the_schema_notices_a_changed_report(migration: int, broken: str) -> None:
    told = as_json(migration)
    if broken == "missing":
        del told["users"][0]["green"]
    elif broken == "added":
        told["run"]["actor"] = "olga"
    else:
        told["reconciliation"]["before"] = "12"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told, SCHEMA)


def test_csv_and_json_list_the_same_users(migration: int) -> None:
    told = as_json(migration)["users"]
    rows = csv_rows(rendered(migration, report_csv.write))
    assert list(rows[0]) == list(UserDetail._fields) == list(told[0])
    assert [tuple(row.values()) for row in rows] == as_texts(told)
    assert len(rows) == len(told) == 40


def test_xlsx_and_json_list_the_same_users(migration: int) -> None:
    book = load_workbook(io.BytesIO(rendered(migration, report_xlsx.write)))
    head, *rows = book["Users"].iter_rows(values_only=True)
    assert head == (*UserDetail._fields, SPREADSHEET_NOTE)
    assert [tuple("" if cell is None else str(cell) for cell in row[:-1]) for row in rows] == as_texts(
        as_json(migration)["users"]
    )


def test_html_and_json_list_the_same_users(migration: int) -> None:
    table = Page(rendered(migration, report_html.write).decode()).tables["users-one-by-one"]
    assert [tuple(cell.replace(",", "") for cell in row) for row in table[1:]] == as_texts(as_json(migration)["users"])


def test_all_formats_have_the_same_totals(migration: int) -> None:
    told = as_json(migration)
    summary = summary_of(rendered(migration, report_csv.write_summary))
    page = Page(rendered(migration, report_html.write).decode())
    with run_report("default", migration) as report:
        text = "\n".join(report_text.as_lines(report))
    expected = {
        ("users", "selected", "users"): 40,
        ("users", "migrated", "users"): 35,
        ("users", "failed", "users"): 2,
        ("mana", "total", "mana"): told["run"]["mana"],
        ("reconciliation", "before", "mana"): told["reconciliation"]["before"],
        ("reconciliation", "written off", "mana"): told["reconciliation"]["written_off"],
        ("reconciliation", "after", "mana"): told["reconciliation"]["after"],
        ("reconciliation", "difference", "mana"): 0,
    }
    for (section, item, figure), value in expected.items():
        assert summary[section, item, figure] == str(value), (section, item)
        assert page.cell(section, item, figure) == f"{value:,}", (section, item)
        assert any(
            line.split()[: len(item.split())] == item.split() and line.endswith(f"{value:,}")
            for line in text.splitlines()
        ), (section, item)


def test_the_sums_over_the_users_are_the_totals(migration: int) -> None:
    told = as_json(migration)
    users = told["users"]
    taken = [user for user in users if user["status"] in ("migrated", "rolled_back")]
    assert sum(user["mana_credited"] for user in users) == told["run"]["mana"] > BIG
    for colour in ("green", "blue", "red"):
        assert sum(user[colour] for user in taken) == told["run"]["wishes"][colour]
    assert {part["status"]: part["users"] for part in told["statistics"]["by_status"]} == {
        status: sum(user["status"] == status for user in users) for status in {user["status"] for user in users}
    }
    assert sum(size["users"] for size in told["statistics"]["by_size"]) == len(taken)
    assert sum(size["mana"] for size in told["statistics"]["by_size"]) == told["run"]["mana"]


def test_the_books_agree_to_the_unit_after_a_rollback_with_a_shortfall(migration: int) -> None:
    told = as_json(migration)
    books = told["reconciliation"]
    assert books["ok"] is True
    assert books["written_off"] > 0
    assert books["before"] + books["written_off"] == books["after"] == books["mana_after"] + books["wishes_after"]
    assert told["shortfalls"]["users"] == 2
    assert sum(part["written_off"] for part in told["rollbacks"]) == books["written_off"]
    assert told["integrity"]["ok"] is True


def test_errors_and_skips_come_with_example_records(migration: int) -> None:
    told = as_json(migration)
    by_record = {user["record"]: user for user in told["users"]}
    (error,), (skip,) = told["errors"], told["skipped"]
    assert (error["users"], skip["users"], skip["class"]) == (2, 3, "negative_balance")
    assert {by_record[record]["error"] for record in error["example_records"]} == {error["class"]}
    assert {by_record[record]["status"] for record in skip["example_records"]} == {"skipped"}


def test_a_broken_ledger_is_told_in_every_format(migration: int) -> None:
    from django.db import connection

    from wishes import guards
    from wishes.models import ManaEntry

    guards.uninstall(connection)
    ManaEntry.objects.filter(reference__startswith=f"conversion:{migration}:").order_by("-amount").first().delete()
    guards.install(connection)
    told = json.loads(rendered(migration, report_json.write, again=True))
    assert told["reconciliation"]["ok"] is told["integrity"]["ok"] is False
    assert told["reconciliation"]["difference"] < 0
    page = rendered(migration, report_html.write).decode()
    assert "do NOT agree" in page
    with run_report("default", migration) as report:
        assert "Reconciliation: NOT OK" in list(report_text.as_lines(report))


def test_a_report_of_a_rollback_lists_what_it_took_back_and_whom_it_skipped() -> None:
    keys = keys_of(make_wallets([(1, 1, 1)] * 5))
    run = migrate()["run"]
    services.spend_mana(keys[0], 1100, reference="bought")
    rollback = roll_back("--run", run, code=3)["run"]
    told = as_json(rollback)
    assert told["run"]["users"] == {"selected": 5, "migrated": 0, "rolled_back": 4, "skipped": 1, "failed": 0}
    assert [user["status"] for user in told["users"]].count("rolled_back") == 4
    (skipped,) = [user for user in told["users"] if user["status"] == "skipped"]
    assert (skipped["error"], skipped["shortfall"], skipped["run"]) == ("shortfall", 1100, rollback)
    assert told["rollbacks"] == [
        {"run": run, "users": 4, "green": 4, "blue": 4, "red": 4, "credited": 4440, "debited": 4440, "written_off": 0}
    ]
    assert told["reconciliation"]["ok"] is True


def test_deleted_records_are_said_to_be_deleted() -> None:
    make_wallets([(1, 1, 1)] * 5)
    run = migrate()["run"]
    roll_back("--run", run, "--no-preserve-logs")
    told = as_json(run)
    assert told["users"] == []
    assert (told["statistics"]["records"], told["statistics"]["records_deleted"]) == (0, 5)
    books = told["reconciliation"]
    assert (books["ok"], books["before"], books["wishes_after"], books["mana_after"]) == (True, 5550, 5550, 0)
    jsonschema.validate(told, SCHEMA)


def test_a_run_without_any_user_makes_an_empty_report_in_every_format() -> None:
    run = make_run(status="completed").pk
    jsonschema.validate(as_json(run), SCHEMA)
    assert csv_rows(rendered(run, report_csv.write)) == []
    for format_ in export.FORMATS:
        with run_report("default", run) as report:
            export.write_to(report, format_, io.BytesIO())


# --- Spreadsheets -----------------------------------------------------------------------------------------------------

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "|calc", "%0", "\0=", "\uff1d1", "\uff0b1")


class Lines:
    """Users as given, for reports that no run could make."""

    def __init__(self, *lines: UserDetail) -> None:
        self.lines = lines

    def __iter__(self) -> Any:
        return iter(self.lines)

    def problems(self, limit: int) -> list[UserDetail]:
        return [line for line in self.lines if line.status in ("failed", "skipped")][:limit]

    def copy_csv(self, stream: Any) -> bool:
        return False


def line(record: int = 1, **values: Any) -> UserDetail:
    moment = "2026-11-23T12:00:00+00:00"
    told = UserDetail(record, 1, "migrated", moment, 0, 0, 0, 0, 0, None, None, None, None, None, None)
    return told._replace(**values)


def with_lines(run: int, write: Callable[[RunReport, Any], None], *lines: UserDetail) -> bytes:
    with run_report("default", run) as report:
        stream = io.BytesIO()
        listed = StatusSum(
            "migrated", len(lines), *(sum(getattr(each, name) or 0 for each in lines) for name in AMOUNTS)
        )
        write(replace(report, details=Lines(*lines), listed=[listed]), stream)
        return stream.getvalue()


@pytest.fixture
def small() -> int:
    make_wallets([(1, 0, 0)])
    return int(migrate()["run"])


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_text_never_starts_a_formula_and_numbers_stay_numbers(small: int, text: str) -> None:
    user = line(error=text, green=-10)
    (row,) = csv_rows(with_lines(small, report_csv.write, user))
    assert row["error"].startswith("'")
    assert row["error"][1:].strip() == text.replace("\0", " ").strip()
    assert row["green"] == "-10"
    book = load_workbook(io.BytesIO(with_lines(small, report_xlsx.write, user)))
    cell = book["Users"].cell(2, 10)
    assert cell.data_type == "s"
    assert str(cell.value).startswith("'")
    assert book["Users"].cell(2, 5).value == -10


@pytest.mark.parametrize("text", [text for text in FORMULAS if "\0" not in text], ids=ascii)  # it keeps no NUL
@pytest.mark.postgres
def test_the_database_guards_text_like_python_does(text: str) -> None:
    history = make_history(1)
    message = f"{text} and\x01\x1fmore"
    rewrite_records(history.records[0].pk, error_class=text, error_message=message)
    copied = io.BytesIO()
    assert RunDetails.of(history.run, "default").copy_csv(copied)
    (row,) = csv.reader(io.StringIO(copied.getvalue().decode(), newline=""))
    told = dict(zip(UserDetail._fields, row, strict=True))
    assert (told["error"], told["message"]) == (cells.safe_text(text), cells.safe_text(message))


def test_a_reason_that_looks_like_a_formula_opens_as_text() -> None:
    make_wallets([(1, 0, 0)])
    migrate()
    run = roll_back("--all", "--reason", "=HYPERLINK(1)")["run"]
    assert summary_of(rendered(run, report_csv.write_summary))["run", "reason", "value"] == "'=HYPERLINK(1)"


def test_numbers_that_a_spreadsheet_would_round_are_text_there_and_exact(small: int) -> None:
    book = load_workbook(io.BytesIO(with_lines(small, report_xlsx.write, line(mana_credited=2**63 - 1, green=10**15))))
    assert book["Users"].cell(2, 9).value == str(2**63 - 1)
    assert book["Users"].cell(2, 5).value == 10**15


def test_where_amounts_are_text_the_sheet_says_so_and_the_exact_sums_are_in_the_book(small: int) -> None:
    lines = [line(1, mana_credited=2**63 - 1), line(2, mana_credited=1)]
    book = load_workbook(io.BytesIO(with_lines(small, report_xlsx.write, *lines)))
    assert book["Users"].cell(1, len(UserDetail._fields) + 1).value == SPREADSHEET_NOTE
    assert SPREADSHEET_NOTE in [row[2] for row in book["Contents"].values][-1]
    head, *rows = book["Totals of the users"].values
    assert dict(zip(head, rows[-1], strict=True))["mana_credited"] == str(2**63)
    plain = load_workbook(io.BytesIO(with_lines(small, report_xlsx.write, line())))
    assert [cell.value for cell in plain["Users"][1]] == list(UserDetail._fields)


def test_csv_has_numbers_as_they_are_or_as_text_where_that_is_asked_for(small: int) -> None:
    user = line(mana_credited=2**63 - 1, green=-(2**62), blue=7)
    (plain,) = csv_rows(with_lines(small, report_csv.write, user))
    assert (plain["mana_credited"], plain["green"], plain["blue"]) == (str(2**63 - 1), str(-(2**62)), "7")
    (text,) = csv_rows(with_lines(small, partial(report_csv.write, text_amounts=True), user))
    assert (text["mana_credited"], text["green"], text["blue"]) == (f"'{2**63 - 1}", f"'{-(2**62)}", "7")
    assert {name: value for name, value in text.items() if name not in ("mana_credited", "green")} == {
        name: value for name, value in plain.items() if name not in ("mana_credited", "green")
    }


def test_the_summary_is_one_tidy_table_without_duplicate_keys(migration: int) -> None:
    with run_report("default", migration) as report:
        stream = io.BytesIO()
        report_csv.write_summary(report, stream)
        found = sections(report)
    rows = csv_rows(stream.getvalue())
    keys = [(row["section"], row["row"], row["figure"]) for row in rows]
    assert len(set(keys)) == len(keys)
    pivot: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        pivot.setdefault((row["section"], row["row"]), {"": row["item"]})[row["figure"]] = row["value"]
    for section in found:
        table = [list(values.values()) for (key, _), values in pivot.items() if key == section.key]
        assert table == [[str(cells.csv_cell(cell)) for cell in row] for row in section.rows], section.key


def test_every_table_is_in_every_format(migration: int) -> None:
    with run_report("default", migration) as report:
        titles = [section.title for section in sections(report)]
    assert [table["title"] for table in as_json(migration)["tables"]] == titles
    book = load_workbook(io.BytesIO(rendered(migration, report_xlsx.write)))
    assert book.sheetnames == ["Contents", *titles, "Users"]
    page = rendered(migration, report_html.write).decode()
    assert all(f"<h2>{title}" in page for title in titles)


def test_a_report_since_a_moment_lists_the_users_from_then_on_in_every_format(migration: int) -> None:
    records = UserMigration.objects.filter(run=migration).order_by("pk")
    late = list(records.values_list("pk", flat=True)[3:6])
    early = records.exclude(pk__in=late).values_list("pk", flat=True)
    rewrite_records(*early, created_at=after(0), reversed_at=None)
    rewrite_records(*late, created_at=after(60), reversed_at=None)

    def since(write: Callable[[RunReport, Any], None]) -> bytes:
        with run_report("default", migration, since=after(60)) as report:
            stream = io.BytesIO()
            write(report, stream)
            return stream.getvalue()

    told = json.loads(since(report_json.write))
    jsonschema.validate(told, SCHEMA)
    assert [user["record"] for user in told["users"]] == late
    assert told["statistics"]["listed_since"] == after(60).isoformat()
    assert sum(part["users"] for part in told["statistics"]["listed"]) == 3
    assert [int(row["record"]) for row in csv_rows(since(report_csv.write))] == late
    sheet = load_workbook(io.BytesIO(since(report_xlsx.write)))["Users"]
    assert [row[0] for row in sheet.iter_rows(min_row=2, values_only=True)] == late
    assert [
        int(row[0].replace(",", "")) for row in Page(since(report_html.write).decode()).tables["users-one-by-one"][1:]
    ] == late
    assert told["run"]["users"]["selected"] == 40  # the run's own figures are those of all its users


def test_more_users_than_a_sheet_holds_go_on_in_the_next(small: int) -> None:
    def write(report: RunReport, stream: Any) -> None:
        report_xlsx.write(report, stream, sheet_rows=4)

    book = load_workbook(io.BytesIO(with_lines(small, write, *(line(record) for record in range(1, 8)))))
    names = ["Users", "Users 2", "Users 3"]
    assert book.sheetnames[-3:] == names
    found = [[row[0] for row in book[name].iter_rows(min_row=2, values_only=True)] for name in names]
    assert found == [[1, 2, 3], [4, 5, 6], [7]]
    assert all(book[name].cell(1, 1).value == "record" for name in names)


def test_the_time_of_failed_attempts_is_part_of_the_performance() -> None:
    run = make_run(finished_at=after(60))
    make_batch(run, done(5), seconds=2, attempts=3)
    told = as_json(run.pk)
    jsonschema.validate(told, SCHEMA)
    assert (told["performance"]["failed_attempts"], told["performance"]["seconds_beyond_batches"]) == (3, 58.0)
