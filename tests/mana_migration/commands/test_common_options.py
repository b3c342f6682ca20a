"""What all commands share: log files, formats, databases, help, no personal data, progress on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError

from mana_migration.management.commands import _base
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services.context import StopFlag
from tests.factories import WalletFactory
from tests.mana_migration.history import make_run
from tests.mana_migration.running import cure, migrate, people, refuse_records, roll_back
from tests.support.commands import PROJECT, manage_environment, run_command, run_manage
from tests.support.oracle import assert_books_balance
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


@pytest.fixture
def logs(tmp_path: Path, settings: Any) -> Path:
    """The folder of the log files, not made yet."""
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "deep" / "logs"
    return tmp_path / "deep" / "logs"


def lines(logs: Path, kind: str = "migration") -> list[dict[str, Any]]:
    text = (logs / f"{kind}-{datetime.now(UTC):%Y-%m-%d}.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


# --- Log files --------------------------------------------------------------------------------------------------------


def test_each_day_and_kind_has_a_file_of_json_lines(logs: Path) -> None:
    people(3)
    migrate()
    roll_back("--all")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert sorted(entry.name for entry in logs.iterdir()) == [f"migration-{today}.log", f"rollback-{today}.log"]
    for kind in ("migration", "rollback"):
        found = lines(logs, kind)
        assert all(list(line) == ["timestamp", "level", "message", "context"] for line in found)
        assert all(datetime.fromisoformat(line["timestamp"]).tzinfo for line in found)
        assert [line["message"] for line in found][-1] == "the command ended"
        assert found[-1]["context"]["exit_code"] == 0
        assert any(line["context"].get("event") == "finished" for line in found)


def test_the_folder_and_the_files_are_ours_alone(logs: Path) -> None:
    before = os.umask(0)
    try:
        migrate()
    finally:
        os.umask(before)
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in logs.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("level", "levels"),
    [("debug", {"DEBUG", "INFO", "WARN"}), ("info", {"INFO", "WARN"}), ("WARN", {"WARN"}), ("error", set())],
)
def test_only_lines_of_the_level_and_above_are_written(logs: Path, level: str, levels: set[str]) -> None:
    keys = people(20)
    refuse_records(keys[:1])
    migrate("--log-level", level, code=3)
    assert {line["level"] for line in lines(logs)} == levels


def test_who_only_looks_needs_no_log_file(tmp_path: Path, settings: Any) -> None:
    people(3)
    found = migrate()
    (tmp_path / "file").write_text("no folder")
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "file" / "logs"
    seen = run_command("monitor_migration", "--format", "json")
    assert (seen.code, seen.err, json.loads(seen.out)["run"]) == (0, "", found["run"])
    refused = run_command("migrate_users")
    assert (refused.code, refused.out) == (1, "")
    assert "cannot be written" in refused.err


def test_a_refusal_is_logged_with_its_class_and_without_what_was_typed(logs: Path) -> None:
    assert run_command("migrate_users", "--user-id", "jane@example.org").code == 1
    (line,) = lines(logs)
    assert (line["level"], line["context"]) == (
        "ERROR",
        {"database": "default", "command": "migrate_users", "exit_code": 1, "error_class": "UserNotFoundError"},
    )


def test_the_breaker_is_an_error_in_the_log(logs: Path) -> None:
    keys = people(20)
    refuse_records(keys[:10])
    migrate(code=4)
    (line,) = [line for line in lines(logs) if line["level"] == "ERROR"]
    assert line["message"] == "the breaker tripped"
    assert "users attempted" in line["context"]["reason"]


# --- Personal data ----------------------------------------------------------------------------------------------------

CANARY = re.compile("canary", re.IGNORECASE)


def test_no_name_of_a_user_appears_anywhere(logs: Path) -> None:
    names = {"first_name": "Canary", "last_name": "Canaryson", "email": "canary@canary.example"}
    good, bad, fails = (get_user_model().objects.create(username=f"canary-{n}", **names) for n in range(3))
    WalletFactory(user=good)
    WalletFactory(user=bad, green=-3)
    WalletFactory(user=fails)
    refuse_records([fails.pk], state="23505")
    shown = []
    for argv in (
        ("migrate_users", "--dry-run"),
        ("migrate_users", "--validate-only"),
        ("migrate_users",),
        ("migrate_users", "--user-id", "canary-1"),
        ("migrate_users", "--skip-invalid", "--error-threshold", "100"),
        ("migrate_users", "--user-id", "canary-0"),
        ("rollback_migration", "--user-id", "canary-2"),
        ("rollback_migration", "--all", "--dry-run"),
        ("rollback_migration", "--all", "--no-input"),
        ("migrate_users", "--auto-fix", "--error-threshold", "100"),
        ("validate_migration",),
    ):
        for form in ("text", "json"):
            result = run_command(*argv, "--log-level", "debug", "--format", form)
            assert result.code in (0, 1, 3), result
            shown += [result.out, result.err]
    services.spend_mana(good.pk, 1, reference="order")
    shown += [run_command("rollback_migration", "--user-id", "canary-0").out]
    shown += [entry.read_text() for entry in logs.iterdir()]
    assert len("".join(shown)) > 5_000
    assert not CANARY.search("".join(shown))


# --- Formats and databases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "keys"),
    [
        (("migrate_users",), set()),
        (
            ("migrate_users", "--dry-run"),
            {
                "findings",
                "largest",
                "blocked",
                "fixes",
                "warnings",
                "goes_on_with",
                "takes_back",
                "expected_seconds",
                "expected_rate",
                "rates",
            },
        ),
        (
            ("rollback_migration", "--all", "--dry-run"),
            {"shortfalls", "stops_run", "blocked", "warnings", "goes_on_with"},
        ),
        (("rollback_migration", "--all", "--no-input"), set()),
    ],
)
def test_json_has_the_documented_keys_and_nothing_else(argv: tuple[str, ...], keys: set[str]) -> None:
    people(2)
    if argv[0] == "rollback_migration":
        migrate()
    found = json.loads(run_command(*argv, "--format", "json").out)
    assert set(found) == keys | {
        "run", "kind", "dry_run", "status", "cause", "reason", "users", "wishes", "mana", "shortfall", "errors",
        "skipped", "batches_halved", "seconds", "all_users", "handled_by_command", "users_per_minute",
    }  # fmt: skip
    assert set(found["users"]) == {"selected", "migrated", "rolled_back", "skipped", "failed"}
    assert set(found["wishes"]) == {"green", "blue", "red"}


@pytest.mark.parametrize(
    ("argv", "code", "name"),
    [
        (("migrate_users", "--user-id", "no-such-user"), 1, "UserNotFoundError"),
        (("monitor_migration", "--run", "99"), 1, "RunNotFoundError"),
        (("rollback_migration",), 2, "UsageError"),
        (("validate_migration", "--run", "99"), 1, "RunNotFoundError"),
    ],
)
def test_a_refusal_is_an_object_on_stdout_where_json_was_asked_for(argv: tuple[str, ...], code: int, name: str) -> None:
    make_run()
    result = run_command(*argv, "--format", "json")
    error = json.loads(result.out)["error"]
    assert (result.code, error["exit_code"], error["class"]) == (code, code, name)
    assert result.err == f"CommandError: {error['message']}\n"
    assert run_command(*argv).out == ""


@pytest.mark.once
@pytest.mark.parametrize("argv", [("--format", "json"), ("--format=json",)])
def test_bad_usage_is_an_object_on_stdout_where_json_was_asked_for(argv: tuple[str, ...]) -> None:
    result = run_manage("migrate_users", "--no-such-option", *argv)
    error = json.loads(result.out)["error"]
    assert (result.code, error["exit_code"], error["class"]) == (2, 2, "UsageError")
    assert error["message"] in result.err
    assert run_manage("migrate_users", "--no-such-option").out == ""


def test_amounts_beyond_what_a_float_holds_are_exact_in_json() -> None:
    red = (2**63 - 1) // 1000
    for _ in range(3):
        WalletFactory(green=0, blue=0, red=red)
    text = run_command("migrate_users", "--format", "json").out
    assert f'"mana": {3 * red * 1000},' in text


@pytest.mark.django_db(transaction=True)
def test_another_database_is_worked_on_by_its_alias(tmp_path: Path) -> None:
    people(2)
    env = {"DATABASE_URL_SHARD": f"sqlite:///{tmp_path}/shard.sqlite3"}
    assert run_manage("migrate", "--database", "shard", "--verbosity", "0", env=env).code == 0
    done = run_manage("migrate_users", "--database", "shard", "--format", "json", env=env)
    assert json.loads(done.out)["users"]["selected"] == 0
    assert not Wallet.objects.filter(migrated_at__isnull=False).exists()


@pytest.mark.once
def test_rates_of_the_environment_are_in_force() -> None:
    result = run_manage("shell", "-c", "from wishes.conf import rates; print(rates())", env={"BLUE_RATE": "77"})
    assert "Rates(green=10, blue=77, red=1000)" in result.out


# --- Readers who have had enough, as head(1) has ----------------------------------------------------------------------


def unread(*argv: str, errors: bool = False) -> tuple[int, str]:
    """Run a command whose output nobody reads, not even its errors if so; return its exit code and errors."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", *argv],
        cwd=PROJECT,
        env=manage_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors else subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    said = "" if process.stderr is None else process.stderr.read()
    process.wait(120)
    if process.stderr is not None:
        process.stderr.close()
    return process.returncode, said


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("argv", "code", "errors"),
    [
        (("migrate_users", "--dry-run"), 0, False),
        (("validate_migration", "--format", "json"), 0, False),
        (("validate_migration",), 3, False),
        (("monitor_migration", "--report"), 0, False),
        (("rollback_migration", "--all", "--no-input"), 0, True),
        (("rollback_migration", "--run", "99", "--no-input"), 1, False),
        (("rollback_migration", "--run", "99", "--no-input"), 1, True),
    ],
)
def test_a_command_that_nobody_listens_to_ends_quietly(argv: tuple[str, ...], code: int, errors: bool) -> None:
    people(3)
    migrate("--limit", 1)
    if code == 3:
        WalletFactory(green=-1)
    found, said = unread(*argv, errors=errors)
    assert found == code
    assert said.count("\n") == (code in (1, 2) and not errors)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("errors", [False, True])
def test_a_migration_that_nobody_listens_to_goes_on_to_its_end(errors: bool) -> None:
    people(30)
    code, said = unread("migrate_users", "--batch-size", "1", "--delay", "0", errors=errors)
    assert (code, said) == (0, "")
    assert not Wallet.objects.filter(migrated_at=None).exists()
    assert MigrationRun.objects.get().status == "completed"


# --- Ends -------------------------------------------------------------------------------------------------------------


def test_a_signal_that_comes_after_the_end_of_the_work_changes_nothing() -> None:
    from mana_migration.domain.results import RunSummary, Totals

    flag = StopFlag()
    flag.request(15)
    for status, code in (("completed", 0), ("running", 143), ("checking", 143), ("rolled_back", 1), ("stopped", 1)):
        done = RunSummary(1, "migration", dry_run=False, status=status, totals=Totals(), seconds=1.0)
        assert _base.run_code(flag, done) == code, status


def test_called_from_code_a_refusal_is_a_command_error_with_its_code() -> None:
    with pytest.raises(CommandError) as caught:
        call_command("migrate_users", user_ids=["nobody"])
    assert caught.value.returncode == 1
    with pytest.raises(CommandError, match="batch size 'x'"):
        call_command("migrate_users", "--batch-size", "x")


# --- Progress ---------------------------------------------------------------------------------------------------------


def on_a_terminal(*argv: str) -> str:
    """Run manage.py with stderr on a real terminal and return what that showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", *argv], cwd=PROJECT, env=manage_environment({"TERM": "xterm", "COLUMNS": "120"}),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown
    return shown.decode()


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_a_terminal_shows_a_bar_with_rate_and_remaining_time() -> None:
    people(60)
    shown = on_a_terminal("migrate_users", "--batch-size", "5", "--delay", "0.1")
    assert "\x1b[" in shown
    assert "users/min" in shown
    assert "/60" in shown
    assert re.search(r"\d+ s left", shown)
    assert "Traceback" not in shown
    assert_books_balance()


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_elsewhere_nothing_but_plain_lines_is_written() -> None:
    people(20)
    result = run_manage("migrate_users", "--batch-size", "5")
    assert "\x1b" not in result.out + result.err
    assert result.err == ""


def test_a_run_logs_its_options_each_user_left_out_and_its_totals(logs: Path) -> None:
    WalletFactory(green=-1)
    WalletFactory()
    done = migrate("--skip-invalid", "--cohort", "100%", "--batch-size", 7, code=3)
    run, record = done["run"], UserMigration.objects.get(error_class="negative_balance").pk
    messages = [line["message"] for line in lines(logs)]
    assert any(text.startswith(f"run {run}: batch_size 7, delay 0.0, ") for text in messages)
    assert any("skip_invalid True" in text for text in messages)
    (line,) = [line for line in lines(logs) if line["context"].get("record") == record]
    assert line["message"].startswith(f"record {record}: negative_balance: a balance is negative")
    assert line["context"]["error_class"] == "negative_balance"
    (ended,) = [
        line for line in lines(logs) if line["message"] == f"run {run}: completed" and "status" in line["context"]
    ]
    assert (ended["context"]["migrated"], ended["context"]["skipped"], ended["context"]["mana"]) == (1, 1, 1230)


def test_the_rollback_of_a_breaker_is_logged_as_a_rollback(logs: Path) -> None:
    refuse_records(people(60)[:10])
    try:
        done = migrate(code=4)
    finally:
        cure()
    rollback = done["rollback"]["run"]
    files = {path.name.partition("-")[0]: path.read_text() for path in logs.glob("*.log")}
    assert f'"run {rollback}: completed"' in files["rollback"]
    assert f'"run {rollback}: completed"' not in files["migration"]


@pytest.mark.parametrize("command", ["monitor_migration", "archive_runs", "migrate_users"])
def test_help_has_no_heading_without_lines(command: str) -> None:
    found = run_manage(command, "--help").out
    assert "exit codes:" in found
    assert "examples:\n\n" not in found


COMMANDS = sorted(
    path.stem
    for path in Path(_base.__file__).parent.glob("[a-z]*.py")
    if issubclass(type(load_command_class("mana_migration", path.stem)), _base.MigrationCommand)
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_the_help_is_understood(name: str) -> None:
    command = load_command_class("mana_migration", name)
    assert len(command.examples) >= 3 or name == "install_guards"  # which has one task
    for example in command.examples:
        first, *arguments = shlex.split(example)
        assert first == name
        command.create_parser("manage.py", name).parse_args(arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_lists_none_of_djangos_own_options(name: str) -> None:
    assert "--skip-checks" not in run_manage(name, "--help").out
