"""The daily log files: one line a write, a new file each day, nobody else's folder touched."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mana_migration.errors import PreflightError
from mana_migration.services import logs
from tests.support.processes import FORK, NOBODY, as_ordinary_user


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, settings: Any) -> Iterator[Path]:
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "logs"
    yield tmp_path / "logs"
    logs.release()


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for entry in sorted(folder.iterdir()) for line in entry.read_text().splitlines()]


def test_a_line_is_one_json_object_with_four_keys(folder: Path) -> None:
    logs.configure(logs.MIGRATION, "info")
    logs.write(logging.WARNING, "half\ndone \x1b[31m\u2028", run=7, batch=2**70)
    (line,) = written(folder)
    assert list(line) == ["timestamp", "level", "message", "context"]
    assert (line["level"], line["message"], line["context"]) == (
        "WARN",
        "half\ndone \x1b[31m\u2028",
        {"run": 7, "batch": 2**70},
    )
    raw = next(folder.iterdir()).read_bytes()
    assert raw.count(b"\n") == 1
    assert b"\x1b" not in raw


def test_only_known_keys_get_into_the_context(folder: Path) -> None:
    logs.configure(logs.MIGRATION, "info")
    logs.write(logging.INFO, "m", run=1, username="jane", email="jane@example.org", user_id=5)
    assert written(folder)[0]["context"] == {"run": 1}


def test_the_folder_is_made_for_the_owner_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        logs.configure(logs.ROLLBACK, "info")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (entry,) = folder.iterdir()
    assert entry.name == f"rollback-{datetime.now(UTC):%Y-%m-%d}.log"
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o755, 0o2770, 0o1777])
def test_a_folder_and_a_file_that_are_there_keep_their_modes(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    shared = folder / f"migration-{datetime.now(UTC):%Y-%m-%d}.log"
    shared.touch()
    shared.chmod(0o660)
    logs.configure(logs.MIGRATION, "info")
    logs.write(logging.INFO, "m")
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert stat.S_IMODE(shared.stat().st_mode) == 0o660
    assert [line["message"] for line in written(folder)] == ["m"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second operating-system user")
def test_two_users_share_a_folder_with_a_file_each_unless_one_lets_the_other_write(settings: Any) -> None:
    folder = settings.MANA_MIGRATION_LOG_DIR = Path(tempfile.mkdtemp())  # pytest's own is the owner's alone
    folder.chmod(0o1777)
    logs.configure(logs.MIGRATION, "info")
    logs.write(logging.INFO, "of root")
    with as_ordinary_user():
        logs.configure(logs.MIGRATION, "info")
        logs.write(logging.INFO, "of another")
    day = f"migration-{datetime.now(UTC):%Y-%m-%d}"
    first, second = folder / f"{day}.{NOBODY}.log", folder / f"{day}.log"
    assert sorted(folder.iterdir()) == [first, second]
    assert [line["message"] for line in written(folder)] == ["of another", "of root"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in (first, second)] == [0o600, 0o600]
    assert logs.files_of_days([f"{datetime.now(UTC):%Y-%m-%d}"]) == [first, second]
    logs.release()
    shutil.rmtree(folder)


def test_a_symlink_in_place_of_the_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    target = tmp_path / "precious"
    target.write_text("mine")
    (folder / f"migration-{datetime.now(UTC):%Y-%m-%d}.log").symlink_to(target)
    with pytest.raises(PreflightError, match="cannot be written"):
        logs.configure(logs.MIGRATION, "info")
    assert target.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(PreflightError, match=str(folder)):
        logs.configure(logs.MIGRATION, "info")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_lines_below_the_level_are_left_out(folder: Path, level: str, count: int) -> None:
    logs.configure(logs.MIGRATION, level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logs.write(number, "m")
    assert len(written(folder)) == count


def test_midnight_in_utc_begins_a_new_file(folder: Path) -> None:
    handler = logs.configure(logs.MIGRATION, "info")
    for moment in (datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)):
        record = logging.LogRecord("mana_migration", logging.INFO, "", 0, f"{moment:%d}", None, None)
        record.created = moment.timestamp()
        handler.emit(record)
    for day in ("01", "02"):
        assert json.loads((folder / f"migration-2026-03-{day}.log").read_text())["message"] == day


def days_left(folder: Path) -> list[str]:
    """Begin the file of 10 March beside those of earlier days and somebody else's; return what is there then."""
    folder.mkdir()
    for name in ("migration-2026-03-02", "rollback-2026-03-03", "migration-2026-03-09", "web-2020-01-01"):
        (folder / f"{name}.log").touch()
    handler = logs.DailyFileHandler(folder, logs.MIGRATION)
    handler.open(datetime(2026, 3, 10, 12, tzinfo=UTC))
    handler.close()
    return sorted(entry.name for entry in folder.iterdir())


def test_old_files_of_ours_are_removed_when_the_site_says_so(folder: Path, settings: Any) -> None:
    settings.MANA_MIGRATION_LOG_DAYS = 7
    assert days_left(folder) == [
        "migration-2026-03-09.log",
        "migration-2026-03-10.log",
        "rollback-2026-03-03.log",
        "web-2020-01-01.log",
    ]
    (line,) = (folder / "migration-2026-03-10.log").read_text().splitlines()
    assert line == "removed migration-2026-03-02.log, older than 7 days (MANA_MIGRATION_LOG_DAYS)"


def test_log_files_are_kept_for_ever_unless_told_otherwise(folder: Path) -> None:
    assert len(days_left(folder)) == 5


def test_a_line_that_cannot_be_written_is_counted_and_stops_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = logs.configure(logs.MIGRATION, "info")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    logs.write(logging.INFO, "m")
    logs.write(logging.INFO, "m")
    assert handler.lost_lines == 2


def test_configuring_again_leaves_one_handler_and_releasing_none() -> None:
    logger = logging.getLogger("mana_migration")
    before = len(logger.handlers)
    logs.configure(logs.MIGRATION, "info")
    logs.configure(logs.ROLLBACK, "debug")
    assert len(logger.handlers) == before + 1
    logs.release()
    assert len(logger.handlers) == before
    assert logger.propagate


def test_several_processes_share_a_file_without_tearing_lines(folder: Path) -> None:
    def write(number: int) -> None:
        logs.configure(logs.MIGRATION, "info")
        for _ in range(300):
            logs.write(logging.INFO, "x" * 500, run=number)

    writers = [FORK.Process(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = written(folder)
    assert len(found) == 1200
    assert {line["message"] for line in found} == {"x" * 500}
