"""import_balances as operators use it: its output, its exit codes, and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection

from mana_migration.domain.legacy import REASONS
from mana_migration.models import MigrationRun
from mana_migration.services import imports
from tests.support.commands import PROJECT, database_url, manage_environment, run_command, run_manage
from tests.support.driver import psycopg
from tests.support.oracle import assert_nothing_changes
from tests.support.processes import Running, manage, run
from wishes.models import Wallet

HEADER = "id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed\n"
GOOD = "a,Alice,1,2,3,0,f\nb,Bob,5,0,0,70,t\n"
BAD = "c,Carol,twelve,0,0,0,f\n"


@pytest.fixture
def export(tmp_path: Path) -> Callable[[str], Path]:
    def write(rows: str) -> Path:
        path = tmp_path / "export.csv"
        path.write_text(HEADER + rows)
        return path

    return write


# --- Output -----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_summary_says_what_was_imported(export: Any) -> None:
    done = run_command("import_balances", export(GOOD))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["rows", "read", "2"]
    assert ["imported", "2"] in [line.split() for line in lines]
    assert ["70", "mana"] in [line.split() for line in lines]
    assert lines[-1] == f"Imported (run {MigrationRun.objects.get().pk})."
    assert "left behind: 5 green, 0 blue, 0 red" in done.out


@pytest.mark.django_db
def test_bad_rows_are_listed_and_stop_the_import(export: Any) -> None:
    with assert_nothing_changes():
        done = run_command("import_balances", export(GOOD + BAD))
    assert done.code == 1
    assert "  row 3 (line 4): green_balance: not a whole number" in done.out
    assert "1  not_a_number" in done.out
    assert done.out.splitlines()[-1].startswith("Nothing was imported")
    assert "Carol" not in done.out + done.err


@pytest.mark.django_db
def test_skipping_bad_rows_ends_with_code_3(export: Any, tmp_path: Path) -> None:
    done = run_command("import_balances", export(GOOD + BAD), "--skip-bad-rows", "--rejects", tmp_path / "r.csv")
    assert done.code == 3
    assert f"listed in {tmp_path / 'r.csv'}" in done.out
    assert Wallet.objects.count() == 2


@pytest.mark.django_db
def test_a_wallet_left_as_it_differs_ends_with_code_3(export: Any) -> None:
    assert run_command("import_balances", export("a,Alice,1,2,3,0,f\n")).code == 0
    done = run_command("import_balances", export("a,Alice,9,2,3,0,f\n"))
    assert done.code == 3
    assert "--update-existing" in done.out
    assert run_command("import_balances", export("a,Alice,9,2,3,0,f\n"), "--update-existing").code == 0


@pytest.mark.django_db
def test_json_is_one_object_with_exact_integers_and_nothing_else(export: Any) -> None:
    limit = 2**63 - 1
    path = export(f"a,A,{limit},0,0,0,f\nb,B,{limit},0,0,0,f\n" + BAD)
    done = run_command("import_balances", path, "--skip-bad-rows", "--format", "json")
    assert (done.code, done.err) == (3, "")
    found = json.loads(done.out)
    assert found["balances"]["green"] == 2 * limit
    problem = {"code": "not_a_number", "shape": "", "column": "green_balance"}
    assert found["rejected"] == [{"row": 3, "line": 4, "reasons": ["not_a_number"], "problems": [problem]}]
    assert found["reasons"] == {"not_a_number": 1}
    assert set(found) == {
        "kind", "source", "part", "match", "dry_run", "status", "run", "rows", "rows_over_lines", "notes", "imported",
        "bad", "reasons", "rejected", "rejects", "rejects_with_values", "legacy_ledger", "wallets", "nulls", "flagged",
        "balances", "left_behind", "seconds",
    }  # fmt: skip


@pytest.mark.django_db
def test_every_key_of_the_json_and_every_reason_is_documented(export: Any) -> None:
    page = (PROJECT / "docs" / "import.md").read_text(encoding="utf-8")
    found = json.loads(run_command("import_balances", export(GOOD), "--dry-run", "--format", "json").out)
    keys = [*found, *found["wallets"], *found["flagged"]]
    assert [name for name in (*keys, *REASONS) if f"`{name}`" not in page] == []


@pytest.mark.django_db
def test_a_rejected_import_prints_json_too(export: Any) -> None:
    done = run_command("import_balances", export(GOOD + BAD), "--format", "json")
    assert done.code == 1
    assert json.loads(done.out)["status"] == "rejected"
    assert json.loads(done.out)["imported"] == 0


@pytest.mark.django_db
def test_a_dry_run_changes_nothing(export: Any) -> None:
    with assert_nothing_changes():
        done = run_command("import_balances", export(GOOD), "--dry-run")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "Dry run: nothing was written."


@pytest.mark.django_db
def test_an_export_without_rows_says_so(export: Any) -> None:
    done = run_command("import_balances", export(""))
    assert done.code == 0
    assert "the source has no rows" in done.out


@pytest.mark.django_db
def test_progress_goes_to_stderr_alone(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "REPORT_EVERY", 0.0)
    done = run_command("import_balances", export(GOOD), "--format", "json")
    assert "reading: 2 rows" in done.err
    json.loads(done.out)


@pytest.mark.django_db
def test_columns_and_tables_are_named_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("uid,g,b,r,m,done\na,1,2,3,0,f\n")
    names = ["id=uid", "green=g", "blue=b", "red=r", "mana=m", "migrated=done"]
    done = run_command("import_balances", path, *(word for name in names for word in ("--column", name)))
    assert (done.code, Wallet.objects.get().red) == (0, 3)


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    "argv",
    [
        [],
        [""],
        ["x.csv", "--column", "grn=g"],
        ["x.csv", "--column", "green"],
        ["x.csv", "--unpaid-flag", "maybe"],
        ["x.csv", "--dry"],
        ["x.csv", "--database", "nowhere"],
        ["x.csv", "y.csv"],
    ],
    ids=repr,
)
def test_bad_usage_ends_with_code_2_and_changes_nothing(argv: list[str]) -> None:
    with assert_nothing_changes():
        done = run_command("import_balances", *argv)
    assert done.code == 2
    assert done.out == ""


@pytest.mark.django_db
@pytest.mark.parametrize(
    "source",
    ["none.csv", "none.json", "none.xlsx", "what.txt", "sqlite:///none.sqlite3", "mysql://u:secret@h/n",
     "postgres://u:secret@127.0.0.1:1/n", "postgres://u:se@cret@h/n", "postgres://u:se%cret@h/n"],
)  # fmt: skip
def test_a_source_that_cannot_be_read_is_one_line_without_a_password(source: str) -> None:
    with assert_nothing_changes():
        done = run_command("import_balances", source)
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert "cret" not in done.err


@pytest.mark.django_db
def test_a_missing_column_is_said_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("id,green_balance\nx,y\n")
    done = run_command("import_balances", path)
    assert done.code == 1
    assert "no column 'blue_balance', 'red_balance', 'mana_balance', 'legacy_migration_completed'" in done.err
    assert "found id, green_balance" in done.err


@pytest.mark.django_db(transaction=True)
def test_a_password_is_shown_nowhere(tmp_path: Path) -> None:
    done = run_manage("import_balances", "postgres://u:hunter2@127.0.0.1:1/n", "--log-level", "debug", "--traceback")
    folder = Path(os.environ["MANA_MIGRATION_LOG_DIR"])
    logged = "".join(path.read_text() for path in folder.glob("*.log")) if folder.exists() else ""
    assert "hunter2" not in done.out + done.err + logged
    assert done.code == 1


# --- Processes --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_an_import_is_committed(export: Any) -> None:
    assert run_manage("import_balances", export(GOOD)).code == 0
    assert Wallet.objects.count() == 2
    with assert_nothing_changes():
        assert run("import_balances", export(GOOD)).code == 0


@contextmanager
def held(sql: str) -> Iterator[None]:
    """Hold what this statement locks, from a connection of its own, until the block ends."""
    other = psycopg.connect(database_url())
    try:
        with other.cursor() as cursor:
            cursor.execute(sql)
            yield
    finally:
        other.rollback()
        other.close()


@contextmanager
def waiting_import(path: Path) -> Iterator[Running]:
    """Start an import and yield its process once it waits for a lock."""

    def be_patient() -> None:
        settings.MANA_MIGRATION_LOCK_TIMEOUT_MS = 60_000

    with manage("import_balances", path, prepare=be_patient) as process:
        process.until(waits_for_a_lock)
        yield process


def waits_for_a_lock() -> bool:
    """Say whether somebody does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


SIGN_UP = (
    "INSERT INTO auth_user (username, password, is_superuser, first_name, last_name, email, is_staff, is_active, "
    "date_joined) VALUES ('b', '', false, '', '', '', false, true, now())"
)
WHERE = {
    "before the first write": "LOCK TABLE mana_migration_migrationrun IN ROW EXCLUSIVE MODE",
    "creating users": SIGN_UP,
    "writing wallets": "LOCK TABLE wishes_wallet IN SHARE MODE",
    "booking the opening entries": "LOCK TABLE wishes_manaentry IN SHARE MODE",
    "writing the records": "LOCK TABLE mana_migration_usermigration IN SHARE MODE",
}


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("where", list(WHERE))
def test_a_kill_leaves_nothing_and_the_same_command_does_it_all(export: Any, where: str) -> None:
    path = export(GOOD)
    with assert_nothing_changes():
        with held(WHERE[where]), waiting_import(path) as process:
            assert process.runs, process.said()
            process.kill()
        _wait_until_alone()
    assert run("import_balances", path).code == 0
    assert Wallet.objects.count() == 2


def _wait_until_alone() -> None:
    """Wait until the server has noticed that the other process is gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if not cursor.fetchone()[0]:
                return
        time.sleep(0.02)
    raise AssertionError("the other process's connection stays")


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_and_says_so(export: Any, number: int, code: int) -> None:
    with assert_nothing_changes(), contextlib.ExitStack() as stack:
        lock = stack.enter_context(contextlib.ExitStack())
        lock.enter_context(held(SIGN_UP))
        process = stack.enter_context(waiting_import(export(GOOD)))
        process.send(number)
        lock.close()  # the statement in hand ends, then the signal is seen
        result = process.end()
        assert (result.code, result.err) == (code, "aborted: nothing was imported\n")


@contextmanager
def reading_import(pipe: Path, rows: int) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """Start an import and yield it when it has read so many rows, with the pipe that it reads from."""
    os.mkfifo(pipe)
    names = HEADER.strip().split(",")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "import_balances", str(pipe)],
        cwd=PROJECT,
        env=manage_environment(),
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        with pipe.open("w") as file:
            file.write("[")
            for number in range(rows):  # far more than a pipe holds: it has been read when this is written
                separator = "," if number else ""
                file.write(
                    separator + json.dumps(dict(zip(names, [f"u{number}", "n", 1, 2, 3, 0, False], strict=True)))
                )
            file.flush()
            yield process, file
    finally:
        process.kill()
        process.wait()


@pytest.mark.django_db(transaction=True)
def test_a_kill_in_the_middle_of_the_reading_leaves_nothing(tmp_path: Path) -> None:
    with assert_nothing_changes(), reading_import(tmp_path / "export.json", 20_000) as (process, _):
        process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.django_db(transaction=True)
def test_the_site_goes_on_while_an_import_reads(tmp_path: Path) -> None:
    with reading_import(tmp_path / "export.json", 20_000) as (process, file):
        user = get_user_model().objects.create_user("somebody new")
        Wallet.objects.create(user=user, green=7)
        file.write("]")
        file.close()
        assert process.wait(timeout=60) == 0
    assert Wallet.objects.count() == 20_001


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_a_dry_run_never_keeps_writers_out(export: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            assert run_manage("import_balances", export(GOOD), "--dry-run").code == 0
        finally:
            cursor.execute("ROLLBACK")


@pytest.mark.django_db(transaction=True)
def test_no_temporary_table_is_left_outside_a_transaction_either(export: Any) -> None:
    for argv in (["--dry-run"], [], []):
        assert run_command("import_balances", export(GOOD), *argv).code == 0
    assert run_command("import_balances", export(GOOD + BAD)).code == 1
    with connection.cursor() as cursor, pytest.raises(DatabaseError, match="mana_import_staging"):
        cursor.execute("SELECT 1 FROM mana_import_staging")


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_user_who_signs_up_meanwhile_makes_the_import_fail_as_a_whole(export: Any) -> None:
    other = psycopg.connect(database_url())
    with other.cursor() as cursor:
        cursor.execute(SIGN_UP)
        with waiting_import(export(GOOD)) as process:
            other.commit()
            result = process.end()
    other.close()
    assert (result.code, len(result.err.splitlines())) == (1, 1)
    assert "nothing was imported" in result.err
    assert get_user_model().objects.count() == 1
    assert Wallet.objects.count() == 0


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_run_that_starts_meanwhile_makes_the_import_fail(export: Any) -> None:
    other = psycopg.connect(database_url())
    with other.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mana_migration_migrationrun (kind, status, options, rates, controls, actor, host, reason, "
            "stop_reason, baseline, cursor, passes, planned_users, folded) VALUES "
            "('migration', 'running', '{}', '{}', '{}', '', '', '', '', '{}', '', 1, 0, '{}')"
        )
        with waiting_import(export(GOOD)) as process:
            other.commit()
            result = process.end()
    other.close()
    assert result.code == 1
    assert "nothing was imported" in result.err
    assert Wallet.objects.count() == 0


# --- Options that decide what a file means ----------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_word_for_null_is_given_on_the_command_line(export: Any) -> None:
    path = export("a,Alice,NULL,n/a,3,0,f\n")
    refused = run_command("import_balances", path)
    assert (refused.code, "give --null WORD" in refused.out) == (1, True)
    assert run_command("import_balances", path, "--null", "NULL", "--null", "n/a").code == 0
    assert Wallet.objects.get().red == 3


@pytest.mark.django_db
def test_ids_that_are_primary_keys_are_refused_in_one_line(export: Any) -> None:
    user = get_user_model().objects.create_user("somebody")
    with assert_nothing_changes():
        done = run_command("import_balances", export(f"{user.pk},Alice,1,2,3,0,f\n"))
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "--match pk" in done.err
    assert run_command("import_balances", export(f"{user.pk},Alice,1,2,3,0,f\n"), "--match", "pk").code == 0
    assert Wallet.objects.get().pk == user.pk


@pytest.mark.django_db
def test_rejected_rows_with_values_are_said_to_hold_personal_data(export: Any, tmp_path: Path) -> None:
    done = run_command("import_balances", export(BAD), "--rejects-with-values", tmp_path / "rest.csv")
    assert "personal data" in done.out
    assert "Carol" in (tmp_path / "rest.csv").read_text()
    assert "Carol" not in done.out + done.err


@pytest.mark.django_db
def test_what_a_file_leaves_open_is_said_on_screen_and_in_json(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("Export\n\n" + HEADER + "a,Alice,1,2,3,0,f\nb,Bob,1,0,0,0,0")
    done = run_command("import_balances", path, "--dry-run")
    assert "note: the header is line 3" in done.out
    assert "note: the last line has no line end" in done.out
    found = json.loads(run_command("import_balances", path, "--dry-run", "--format", "json").out)
    assert [note["code"] for note in found["notes"]] == ["titles_skipped", "last_line_unterminated"]


@pytest.mark.django_db(transaction=True)
def test_standard_input_is_read() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "import_balances", "-", "--dry-run", "--format", "json"],
        cwd=PROJECT,
        env=manage_environment(),
        input=HEADER + GOOD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2
