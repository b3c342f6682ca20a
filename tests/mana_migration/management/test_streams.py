"""Standard output and standard error that cannot be written: the work goes on, and the exit code says what was lost."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from mana_migration.management.streams import OutputLostError, OutputStream
from mana_migration.models import MigrationRun
from tests.mana_migration.running import migrate, people
from tests.support.commands import PROJECT, manage_environment
from wishes.models import Wallet

LOST = ">/dev/full", ">&-"


def manage(line: str, logs: Path) -> tuple[int, str, str]:
    """Run "manage.py LINE" in a shell, for its redirections; return exit code, output and errors."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} manage.py {line}"],
        cwd=PROJECT,
        env=manage_environment({"MANA_MIGRATION_LOG_DIR": str(logs)}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def logged(logs: Path) -> list[str]:
    return [json.loads(line)["message"] for path in logs.glob("*.log") for line in path.read_text().splitlines()]


# --- Processes --------------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("streams", [*LOST, ">/dev/full 2>&1", ">&- 2>&-", "--format json >/dev/full 2>&-"])
def test_a_migration_and_a_rollback_end_their_work_without_an_output(streams: str, tmp_path: Path) -> None:
    people(7)
    for command, left in (("migrate_users --delay 0 --batch-size 2", 0), ("rollback_migration --all --no-input", 7)):
        code, out, errors = manage(f"{command} {streams}", tmp_path)
        assert (code, out) == (1, "")
        assert "Traceback" not in errors
        assert errors.count("\n") == ("2>&" not in streams)
        assert Wallet.objects.filter(migrated_at=None).count() == left
        assert MigrationRun.objects.latest("pk").status == "completed"
    assert logged(tmp_path).count("standard output could not be written: output is lost") == 2


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "command",
    [
        "monitor_migration",
        "monitor_migration --report --format json",
        "monitor_migration --export csv --output -",
        "monitor_migration --export xlsx --output -",
        "validate_migration --format json",
        "migrate_users --dry-run",
        "migrate_users --help",
    ],
)
def test_a_report_that_cannot_be_written_exits_with_1(command: str, tmp_path: Path) -> None:
    people(3)
    migrate("--limit", 1)
    for lost in LOST:
        code, _, errors = manage(f"{command} {lost}", tmp_path)
        assert code == 1
        assert errors.count("\n") == 1, errors


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_standard_error_that_is_closed_is_a_loss_only_where_it_was_needed(tmp_path: Path) -> None:
    people(3)
    code, out, _ = manage("migrate_users --limit 1 2>&-", tmp_path)
    assert (code, "completed" in out) == (0, True)
    code, out, _ = manage("migrate_users --format json 2>&-", tmp_path)  # its notices go to standard error
    assert (code, json.loads(out)["status"]) == (1, "completed")
    assert "standard error could not be written: output is lost" in logged(tmp_path)


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_an_exit_code_that_says_more_than_a_lost_output_stays(tmp_path: Path) -> None:
    people(1)
    assert manage("monitor_migration --status >/dev/full", tmp_path)[0] == 3
    assert manage("migrate_users --nonsense --format json >/dev/full 2>&-", tmp_path)[0] == 2


# --- The streams ------------------------------------------------------------------------------------------------------


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.django_db
def test_code_that_calls_a_command_gets_the_exit_code_of_a_lost_output() -> None:
    people(2)
    assert call_command("migrate_users", stdout=FullDisk()) == 1
    assert not Wallet.objects.filter(migrated_at=None).exists()


def test_a_failure_is_raised_where_the_output_is_the_purpose_and_remembered_everywhere() -> None:
    loud, quiet = OutputStream(FullDisk(), raises=True), OutputStream(FullDisk(), raises=False)
    with pytest.raises(OutputLostError):
        loud.write("a")
    quiet.write("a")
    assert loud.failure == quiet.failure == "No space left on device"


def test_a_reader_who_has_read_enough_is_no_loss() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    stream: Any = OutputStream(Closed(), raises=True)
    with pytest.raises(BrokenPipeError):
        stream.write("a")
    assert stream.failure == ""


def test_text_that_the_encoding_lacks_is_escaped() -> None:
    raw = io.BytesIO()
    stream = OutputStream(io.TextIOWrapper(raw, encoding="ascii"), raises=True)
    stream.write("reading users … f\udcfcr")
    stream.flush()
    assert raw.getvalue() == rb"reading users \u2026 f\udcfcr"


def test_help_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    code, _, err = manage("migrate_users --help >/dev/full", tmp_path)
    assert (code, err) == (1, "standard output could not be written (No space left on device): output is lost\n")
