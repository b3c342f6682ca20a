"""monitor_migration: what each option shows, writes and refuses."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from openpyxl import load_workbook

from mana_migration import api
from mana_migration.engine import snapshot
from mana_migration.models import RunEvent
from mana_migration.reports import sections
from mana_migration.services import validation
from mana_migration.states import EventKind, RunStatus
from tests.factories import make_wallets
from tests.mana_migration.history import after, done, make_batch, make_event, make_history, make_run
from tests.mana_migration.running import keys_of, migrate, roll_back
from tests.support.commands import PROJECT, manage_environment, run_command
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def monitor(*argv: object, code: int = 0) -> str:
    result = run_command("monitor_migration", *argv)
    assert result.code == code, f"exit code {result.code}: {result.out}{result.err}"
    assert "Traceback" not in result.err
    return result.err if code else result.out


def monitor_json(*argv: object) -> Any:
    out = monitor("--format", "json", *argv)
    return json.loads(out)


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Path]:
    """The folder of the reports, not there yet."""
    with override_settings(MANA_MIGRATION_REPORT_DIR=tmp_path / "reports"):
        yield tmp_path / "reports"


# --- The screen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--report"], ["--export", "json"]], ids=" ".join)
def test_a_database_without_runs_is_no_error(options: list[str], reports: Path) -> None:
    assert monitor(*options) == "There is no run yet; start one with migrate_users.\n"
    assert monitor_json(*options) == {"run": None}
    assert not reports.exists()


def test_the_screen_says_everything_about_the_run() -> None:
    history = make_history(20)
    make_event(history.run, EventKind.CHECKED, 59, actor="olga", details={"ok": True, "checks": {}})
    totals = history.totals
    out = monitor()
    told = dict(re.findall(r"^  ([A-Z][a-z]+): +(.*)$", out, flags=re.MULTILINE))
    assert out.startswith(f"Run {history.run.pk}: migration, completed (as of ")
    assert told["Progress"] == "100 %, 20 of 20 users in 5 batches"
    assert told["Users"] == f"migrated {totals.migrated}, skipped {totals.skipped}, failed {totals.failed}"
    assert told["Mana"].startswith(f"{totals.mana:,} credited ({totals.green:,} green x 10 = {totals.green * 10:,}, ")
    assert told["Errors"].endswith(": negative_balance 4")
    assert "the breaker trips above 10 %" in told["Errors"]
    assert told["Skipped"] == "locked 2"
    assert told["Integrity"] == "all checks passed, checked at 12:00:59"
    assert told["Took"] == "1 min 00 s"
    assert "    12:00:59 Checked by olga: all checks passed" in out


def test_the_screen_and_its_json_agree() -> None:
    history = make_history(20)
    told = monitor_json()
    assert told["users"]["migrated"] == history.totals.migrated
    assert told["mana"] == history.totals.mana
    assert (told["run"], told["status"], told["share"]) == (history.run.pk, "completed", 1.0)


def test_no_user_is_named_anywhere(reports: Path) -> None:
    make_history(20)
    monitor("--export", "csv")
    monitor("--export", "html")
    written = "".join(path.read_text() for path in reports.iterdir())
    for text in (monitor(), monitor("--report"), monitor("--report", "--format", "json"), written):
        assert "canary" not in text
        assert "<script>alert" not in text


def test_the_status_is_one_line_and_one_object_with_an_exit_code() -> None:
    assert monitor("--status") == "no user has a wallet\n"
    keys = keys_of(make_wallets([(1, 1, 1)] * 4))
    migrate("--limit", 3)
    roll_back("--user-id", f"pk:{keys[0]}")
    result = run_command("monitor_migration", "--status")
    line = "4 users in all: 2 migrated (50 %), 2 pending (1 rolled back)\n"
    assert (result.code, result.out) == (3, line)
    assert monitor().endswith(f"\n{line}")
    found = json.loads(run_command("monitor_migration", "--status", "--format", "json").out)
    assert (found["done"], found["run"]) == (False, None)
    assert found["users"] == {
        "total": 4, "migrated": 2, "failed": 0, "skipped": 0, "rolled_back": 1, "pending": 2, "progress": 0.5,
    }  # fmt: skip
    assert found["users"] == monitor_json()["all_users"]
    assert migrate()["all_users"]["migrated"] == 4
    assert monitor_json("--status")["done"] is True


def test_the_status_names_the_open_run() -> None:
    make_wallets([(1, 1, 1)])
    run = make_run(status=RunStatus.PAUSED, expected=1)
    result = run_command("monitor_migration", "--status", "--format", "json")
    assert (result.code, json.loads(result.out)["run"]["run"]) == (3, run.pk)
    assert f"; run {run.pk} paused; 0 %" in run_command("monitor_migration", "--status").out


def test_the_statistics_are_the_same_on_the_screen_in_json_and_in_the_library() -> None:
    make_wallets([(1, 1, 1), (2, 0, 0), (-1, 0, 0)])
    migrate("--skip-invalid", code=3)
    found = monitor_json("--statistics")
    assert found == json.loads(json.dumps(api.statistics().as_dict()))
    assert (found["users"]["total"], found["users"]["pending"], found["negative_balances"]) == (3, 1, 1)
    assert (found["mana"], found["largest_mana"], found["smallest_mana"]) == (1130, 1110, 20)
    out = monitor("--statistics")
    assert "  pending     1 (failed 0, skipped 1, rolled back 0)\n" in out
    assert "  average     565.00 mana of a migrated user\n  largest     1,110 mana of a migrated user\n" in out
    assert len(re.findall(r"record \d+, run \d+: [\d,]+ mana", out)) == 2


def test_a_paused_run_says_by_whom_and_why() -> None:
    run = make_run(status=RunStatus.PAUSED, expected=10)
    make_event(run, EventKind.PAUSED, 5, actor="olga", message="the backup runs\nand runs")
    assert "Remaining:     paused by olga because the backup runs and runs\n" in monitor()


def test_a_stalled_run_says_so_outright() -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1000, created_at=after(-10_000_000))
    make_batch(run, done(100), start=-9_000_000)
    out = monitor()
    assert f"Run {run.pk}: migration, running, STALLED" in out
    assert re.search(r"Remaining: +stalled for .* give the same command again to resume it", out)


def test_one_run_is_shown_by_its_number() -> None:
    first = make_run()
    make_run()
    assert monitor("--run", first.pk).startswith(f"Run {first.pk}:")


def test_runs_since_a_date_are_listed_and_the_date_is_read_back() -> None:
    make_run(created_at=after(-86_400 * 40))
    run = make_run(created_at=after(-86_400 * 20))
    out = monitor("--since", "2026-11-01")
    assert out.splitlines()[0] == "Runs since 2026-11-01 00:00:00 UTC: 1"
    assert out.splitlines()[2].split()[:3] == [str(run.pk), "migration", "completed"]
    assert [line["run"] for line in monitor_json("--since", "2026-11-01")["runs"]] == [run.pk]
    assert monitor("--since", "2026-11-15") == "Runs since 2026-11-15 00:00:00 UTC: 0\n"


def test_the_date_is_in_the_configured_time_zone() -> None:
    with override_settings(TIME_ZONE="Asia/Kolkata"):
        assert monitor_json_since("2026-11-01") == "2026-11-01T00:00:00+05:30"


def monitor_json_since(value: str) -> str:
    make_run()
    since: str = monitor_json("--since", value)["since"]
    return since


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--since", "2025-13-45"], "'2025-13-45' is not a date"),
        (["--since", "2999-01-01"], "in the future"),
        (["--since", "yesterday"], "is not a date"),
        (["--interval", "0"], "above 0"),
        (["--interval", "-1"], "above 0"),
        (["--interval", "nan"], "above 0"),
        (["--interval", "abc"], "above 0"),
        (["--run", "0"], "whole number"),
        (["--run", "abc"], "whole number"),
        (["--export", "pdf"], "invalid choice"),
        (["--export", "json", "--output", ""], "the path of a file"),
        (["--export", "json", "--output", "folder/"], "the path of a file"),
        (["--output", "x.json"], "give --export"),
        (["--export", "json", "--output", "-", "--format", "json"], "leave --format json out"),
        (["--export", "json", "--text-amounts"], "is about --export csv"),
        (["--watch", "--report"], "not allowed with"),
        (["--watch", "--export", "json"], "give one of them"),
        (["--watch", "--format", "json"], "--watch prints for people"),
        (["--run", "1", "--since", "2026-01-01"], "give one of them"),
        (["--report", "--since", "2026-01-01", "--format", "json"], "name it with --run"),
        (["--repor"], "unrecognized arguments"),
        (["--status", "--run", "1"], "are about all users"),
        (["--statistics", "--export", "json"], "are about all users"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_refused_as_bad_usage(options: list[str], complaint: str) -> None:
    make_run()
    assert complaint in monitor(*options, code=2)


@pytest.mark.parametrize("options", [[], ["--report"], ["--export", "json"], ["--watch"]], ids=" ".join)
def test_an_unknown_run_is_refused_in_one_line(options: list[str]) -> None:
    make_run()
    assert monitor("--run", 99_999_999, *options, code=1).count("\n") == 1


def test_nothing_is_ever_written_to_the_database(reports: Path) -> None:
    from tests.support.oracle import assert_nothing_changes

    make_wallets([(1, 1, 1)] * 5)
    migrate()
    with assert_nothing_changes():
        for options in ([], ["--report"], ["--export", "csv"], ["--since", "2026-01-01"]):
            monitor(*options)


@pytest.mark.sqlite  # on PostgreSQL the failed query ends the test's transaction
def test_a_missing_table_says_what_to_do() -> None:
    make_run()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE mana_migration_runevent RENAME TO hidden")
        cursor.execute("DELETE FROM django_migrations WHERE app = 'mana_migration'")
    error = monitor(code=1)
    assert "run: python manage.py migrate" in error
    assert error.count("\n") == 1


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_the_report_is_printed_with_its_sections() -> None:
    make_wallets([(3, 2, 1)] * 5)
    migrate()
    out = monitor("--report")
    for title in (
        "Users by outcome",
        "Wishes and mana",
        "Reconciliation: OK",
        "Sources compared: OK",
        "Data integrity: OK",
        "Errors",
        "Conversions by size",
        "Performance",
        "Slowest batches",
    ):
        assert f"\n{title}\n" in out
    assert json.loads(monitor("--report", "--format", "json"))["run"]["users"]["migrated"] == 5


@pytest.mark.parametrize("format_", ["json", "csv", "html", "xlsx"])
def test_an_export_is_a_new_private_file_in_the_folder_of_the_reports(reports: Path, format_: str) -> None:
    run = make_history(5).run
    out = monitor("--export", format_)
    (file,) = reports.glob(f"*run{run.pk}.{format_}")
    assert re.fullmatch(rf"migration-report-\d{{4}}-\d\d-\d\d-run{run.pk}\.{format_}", file.name)
    assert str(file) in out
    assert stat.S_IMODE(reports.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in reports.iterdir()} == {0o600}
    assert len(list(reports.iterdir())) == (2 if format_ == "csv" else 1)


def test_a_report_without_validation_says_so_in_every_format(tmp_path: Path) -> None:
    make_wallets([(3, 2, 1)] * 5)
    migrate()
    with CaptureQueriesContext(connection) as queries:
        for format_ in ("json", "csv", "html", "xlsx"):
            monitor("--export", format_, "--no-validation", "--output", tmp_path / f"without.{format_}")
    read = [query["sql"] for query in queries if "pg_stat_activity" not in query["sql"]]
    assert not any("LEFT JOIN" in sql for sql in read)  # nobody's wallet was held against the ledger
    assert json.loads((tmp_path / "without.json").read_text())["integrity"] is None
    assert "integrity,1,all checks,findings,not made\n" in (tmp_path / "without-summary.csv").read_text()
    assert "Not checked for this report." in (tmp_path / "without.html").read_text()
    sheet = load_workbook(tmp_path / "without.xlsx")["Data integrity"]
    assert ("all checks", "not made") in {row[:2] for row in sheet.iter_rows(values_only=True)}
    assert "Data integrity\n  Not checked for this report.\n" in monitor("--report", "--no-validation")


def test_a_report_shows_what_the_run_proved_at_its_end_and_checks_again_when_asked(tmp_path: Path) -> None:
    make_wallets([(3, 2, 1)] * 5)
    run = migrate()["run"]
    checked_at = RunEvent.objects.get(run_id=run, kind=EventKind.CHECKED).created_at
    wallet = Wallet.objects.order_by("pk")[0]
    Wallet.objects.filter(pk=wallet.pk).update(mana=1)  # after the run, beside the ledger
    monitor("--export", "json", "--output", tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text())["integrity"]
    assert kept["ok"] and datetime.fromisoformat(kept["checked_at"]) == checked_at
    assert "No error-level finding. This was found at the end of the run, 20" in monitor("--report")
    monitor("--export", "json", "--validate", "--output", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())["integrity"]
    assert not again["ok"] and "checked_at" not in again
    assert {check["id"]: check["count"] for check in again["checks"]}["ledger_mismatch"] == 1


def test_a_run_that_kept_nothing_is_checked_for_its_report() -> None:
    make_history(5)
    report = monitor("--report")
    assert "negative_mana" in report
    assert "at the end of the run" not in report


def test_the_users_are_the_same_without_validation(tmp_path: Path) -> None:
    make_wallets([(3, 2, 1)] * 5)
    migrate()
    for name, options in (("with", []), ("without", ["--no-validation"])):
        monitor("--export", "csv", "--output", tmp_path / f"{name}.csv", *options)
    assert (tmp_path / "with.csv").read_bytes() == (tmp_path / "without.csv").read_bytes()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_the_files_are_the_same_whether_or_not_a_second_session_gathers_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wallets([(3, 2, 1), (0, 0, 0), (1, 0, 7)] * 5)
    migrate()
    Wallet.objects.filter(pk=Wallet.objects.order_by("pk")[3].pk).update(mana=1)  # so that a check finds something
    names = [thread.name for thread in threading.enumerate()]
    checked_by: list[str] = []
    check_run = validation.check_run

    def noted(*args: Any, **options: Any) -> Any:
        checked_by.append(threading.current_thread().name)
        return check_run(*args, **options)

    monkeypatch.setattr(validation, "check_run", noted)
    monitor("--export", "csv", "--validate", "--output", tmp_path / "beside.csv")
    monkeypatch.setattr(snapshot, "_exported", lambda using: None)
    monitor("--export", "csv", "--validate", "--output", tmp_path / "after.csv")
    assert checked_by == ["beside", "MainThread"]
    assert [thread.name for thread in threading.enumerate()] == names
    assert (tmp_path / "beside.csv").read_bytes() == (tmp_path / "after.csv").read_bytes()
    summaries = [
        [line for line in (tmp_path / f"{name}-summary.csv").read_text().splitlines() if line[:10] != "resources,"]
        for name in ("beside", "after")
    ]
    differ = {one.split(",")[2] for one, other in zip(*summaries, strict=True) if one != other}
    assert differ <= {"report made", "seconds", "seconds without pauses"}
    assert any(line.startswith("integrity,") and not line.endswith(",0") for line in summaries[0])


def test_a_screen_that_checks_nothing_needs_no_option_for_it() -> None:
    for what in ([], ["--watch"]):
        error = monitor(*what, "--no-validation", code=2)
        assert error.endswith("--no-validation is about --report and --export: give one of them as well\n")
        error = monitor(*what, "--validate", code=2)
        assert error.endswith("--validate is about --report and --export: give one of them as well\n")
    error = monitor("--report", "--validate", "--no-validation", code=2)
    assert error.endswith("--validate checks the run and --no-validation leaves that out: give one of them\n")


@pytest.mark.parametrize("format_", ["json", "csv", "html"])
def test_an_export_to_standard_output_is_the_file_and_nothing_else(tmp_path: Path, format_: str) -> None:
    make_history(5)
    monitor("--export", format_, "--output", tmp_path / "report")
    out = monitor("--export", format_, "--output", "-")
    one, other = (text.splitlines() for text in (out, (tmp_path / "report").read_text()))
    assert len(one) == len(other) > 5
    differ = [(here, there) for here, there in zip(one, other, strict=True) if here != there]
    assert all(re.sub(r"[0-9:.-]", "", here) == re.sub(r"[0-9:.-]", "", there) for here, there in differ)  # times


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_workbook_can_be_piped() -> None:
    history = make_history(5)
    piped = subprocess.run(
        [sys.executable, "manage.py", "monitor_migration", "--export", "xlsx", "--output", "-"],
        cwd=PROJECT,
        env=manage_environment(),
        capture_output=True,
        timeout=120,
        check=True,
    )
    sheet = load_workbook(io.BytesIO(piped.stdout))["Users"]
    assert [row[0].value for row in sheet.iter_rows(min_row=2)] == [record.pk for record in history.records]
    assert piped.stderr == b""


def test_amounts_that_a_spreadsheet_would_round_are_said_and_can_be_text(tmp_path: Path) -> None:
    make_wallets([(1, 0, 9 * 10**13)])
    migrate()
    assert sections.CSV_NOTE in monitor("--export", "csv", "--output", tmp_path / "numbers.csv")
    out = monitor("--export", "csv", "--text-amounts", "--output", tmp_path / "texts.csv")
    assert sections.CSV_NOTE not in out
    assert "'90000000000000010" in (tmp_path / "texts.csv").read_text()


def test_the_default_report_is_about_the_latest_mass_migration() -> None:
    keys = keys_of(make_wallets([(1, 1, 1)] * 4))
    run = migrate("--limit", 3)["run"]
    migrate("--user-id", f"pk:{keys[3]}")
    roll_back("--user-id", f"pk:{keys[0]}")
    make_run(status=RunStatus.COMPLETED)  # selected nobody
    assert monitor_json("--report")["run"]["run"] == run
    assert monitor("--report").startswith(f"Report of run {run}: migration, completed\n")


def test_a_second_export_on_the_same_day_gets_a_number(reports: Path) -> None:
    make_history(5)
    monitor("--export", "json")
    (first,) = reports.iterdir()
    before = first.read_bytes()
    told = monitor_json("--export", "json")
    assert told["reports"][0]["files"] == [str(first.with_name(f"{first.stem}-2.json"))]
    assert first.read_bytes() == before


@pytest.mark.parametrize("taken", ["report.csv", "report-summary.csv"])
def test_an_export_never_overwrites(tmp_path: Path, taken: str) -> None:
    make_history(5)
    (tmp_path / taken).write_text("mine")
    error = monitor("--export", "csv", "--output", tmp_path / "report.csv", code=1)
    assert "exists already and is never overwritten" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_an_export_does_not_follow_a_symbolic_link(tmp_path: Path) -> None:
    make_history(5)
    (tmp_path / "report.json").symlink_to(tmp_path / "target")
    monitor("--export", "json", "--output", tmp_path / "report.json", code=1)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("place", ["missing/report.json", "file/report.json"])
def test_an_export_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, place: str) -> None:
    make_history(5)
    (tmp_path / "file").touch()
    error = monitor("--export", "json", "--output", tmp_path / place, code=1)
    assert error.count("\n") == 1
    assert "cannot be written" in error


def test_every_run_since_a_date_is_exported(reports: Path, tmp_path: Path) -> None:
    make_wallets([(1, 1, 1)] * 3)
    runs = [migrate()["run"], roll_back("--all")["run"]]
    told = monitor_json("--export", "json", "--since", "2026-01-01")
    assert [report["run"] for report in told["reports"]] == runs
    assert len(list(reports.iterdir())) == 2
    assert "2 runs are meant" in monitor(
        "--export", "json", "--since", "2026-01-01", "--output", tmp_path / "one.json", code=2
    )


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_reader_who_has_had_enough_is_no_error() -> None:
    make_run()
    done_ = subprocess.run(
        [
            "/bin/bash",
            "-c",
            f"{sys.executable} manage.py monitor_migration --report | head -n 1; echo ${{PIPESTATUS[0]}}",
        ],
        cwd=PROJECT,
        env=manage_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done_.stdout.splitlines()[-1] == "0"
    assert done_.stderr == ""


@pytest.mark.parametrize(("users", "words"), [(1, "for 1 selected user\n"), (2, "for 2 selected users\n")])
def test_a_run_of_selected_users_says_how_many(users: int, words: str) -> None:
    keys = keys_of(make_wallets([(1, 0, 0)] * users))
    migrate(*(part for key in keys for part in ("--user-id", str(key))))
    assert words in run_command("monitor_migration").out


# --- The list by user key ---------------------------------------------------------------------------------------------


def test_the_list_by_user_key_is_a_new_file_for_the_owner_alone(tmp_path: Path) -> None:
    history, path = make_history(20), tmp_path / "mailing.csv"
    out = monitor("--list-by-user-key", path)
    assert out == f"14 users by user key, which is personal data: {path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    head, *lines = path.read_text().splitlines()
    assert head.startswith("user_key,run,")
    assert lines[0].startswith(f"{history.users[0].pk},{history.run.pk},")
    assert len(lines) == 14
    assert monitor("--list-by-user-key", "-") == path.read_text()
    assert "exists already" in monitor("--list-by-user-key", path, code=1)
    assert monitor_json("--list-by-user-key", tmp_path / "2.csv") == {"file": str(tmp_path / "2.csv"), "users": 14}


@pytest.mark.parametrize("others", [["--export", "csv"], ["--report"], ["--watch"], ["--format", "json"]], ids=" ".join)
def test_the_list_by_user_key_is_never_mixed_with_a_report(others: list[str]) -> None:
    make_history(1)
    assert "--list-by-user-key" in monitor("--list-by-user-key", "-", *others, code=2)


def test_the_list_by_user_key_of_an_unknown_run_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    make_history(1)
    assert "there is no run 9999" in monitor("--list-by-user-key", tmp_path / "x.csv", "--run", 9999, code=1)
    assert not (tmp_path / "x.csv").exists()
