"""archive_runs: a copy that can be checked without the database, and never half of one."""

from __future__ import annotations

import gzip
import json
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.db.models import Q

from mana_migration import guards
from mana_migration.errors import ArchiveError
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import archive
from tests.factories import make_wallets
from tests.mana_migration.engine.one_batch import open_run
from tests.mana_migration.running import migrate, people, refusal, roll_back, told
from tests.support.commands import run_command
from tests.support.oracle import assert_nothing_changes

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run() -> int:
    """Migrate ten users in batches of three."""
    people(10)
    return int(migrate("--batch-size", 3)["run"])


def archived(folder: Path, *runs: int) -> list[dict[str, Any]]:
    """Archive runs and return what the command says of each."""
    argv = [part for run in runs for part in ("--run", run)]
    found = told(run_command("archive_runs", "--format", "json", *argv, "--output", folder))
    return list(found["archives"])


def parts(path: Path) -> list[dict[str, Any]]:
    """Return the objects of an archive."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_an_archive_holds_every_line_and_its_head_is_the_runs(run: int, tmp_path: Path) -> None:
    with assert_nothing_changes():
        (found,) = archived(tmp_path / "new", run)
    path = tmp_path / "new" / f"mana-migration-run{run}.jsonl.gz"
    last = MigrationBatch.objects.filter(run=run).order_by("-number").first()
    assert last is not None
    assert (found["file"], found["head"], found["lines"], found["batches"]) == (str(path), last.link, 10, last.number)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    begin, *batches, events, end = parts(path)
    assert begin["run"]["rates"] == {"green": 10, "blue": 100, "red": 1000}
    assert sum(batch["mana"] for batch in batches) == 10 * 1230
    for batch in batches:
        records = UserMigration.objects.filter(batch=batch["batch"]).order_by("user_id")
        assert batch["records"] == list(records.values_list("pk", flat=True))
    assert sum(len(batch["records"]) for batch in batches) == 10
    assert events["events"][0]["kind"] == "started"
    assert end["end"]["head"] == last.link


def test_an_archive_holds_the_fixes_of_its_run_and_those_of_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "FIXES_AT_ONCE", 2)
    make_wallets([(-1, 0, 0)] * 3)
    assert run_command("validate_migration", "--fix-issues").code == 0
    make_wallets([(-2, 0, 0)] * 2)
    first = int(migrate("--auto-fix")["run"])
    make_wallets([(-3, 0, 0)])
    second = int(migrate("--auto-fix")["run"])
    one, other = archived(tmp_path, first, second)
    assert (one["fixes"], other["fixes"]) == (5, 4)
    path = Path(one["file"])
    begin, batch, events, *fixes, end = parts(path)
    held = [fix for part in fixes for fix in part["fixes"]]
    kept = IntegrityFix.objects.filter(Q(run=first) | Q(run=None))
    assert [(fix["id"], fix["before"], fix["changes"], fix["link"]) for fix in held] == [
        (fix.pk, fix.before, [fix.green_change, 0, 0, 0], fix.link) for fix in kept.order_by("pk")
    ]
    assert archive.verify(path).fixes == 5
    assert "5 integrity fixes" in run_command("archive_runs", "--verify", path).out
    held[1]["before"]["green"] = -9
    for changed in (fixes, fixes[1:]):
        path.write_bytes(
            gzip.compress("".join(f"{json.dumps(part)}\n" for part in (begin, batch, events, *changed, end)).encode())
        )
        with pytest.raises(ArchiveError, match="its events or its integrity fixes are not what was written"):
            archive.verify(path)


def test_an_archive_is_checked_by_itself_and_against_a_head_kept_elsewhere(run: int, tmp_path: Path) -> None:
    back = roll_back("--all", "--batch-size", 4)["run"]
    for each in archived(tmp_path, run, back):
        second = MigrationBatch.objects.get(run=each["run"], number=2).link
        MigrationRun.objects.filter(pk=each["run"]).update(rates={})  # the file needs no database
        text = run_command("archive_runs", "--verify", each["file"], "--chain-head", second)
        assert text.code == 0
        assert f"run {each['run']} (" in text.out
        assert "the head that was given is link 2: all before it is as it was" in text.out
        assert "has no link" in refusal(run_command("archive_runs", "--verify", each["file"], "--chain-head", "a" * 64))


def test_the_log_files_of_the_runs_days_are_copied_and_compared(
    run: int, tmp_path: Path, settings: LazySettings
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    settings.MANA_MIGRATION_LOG_DIR = folder
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    MigrationRun.objects.filter(pk=run).update(created_at=datetime.now(UTC) - timedelta(days=1))
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    for name in (f"migration-{yesterday}.log", f"rollback-{yesterday}.log", "migration-2020-01-01.log", "other.log"):
        (folder / name).write_text(f"{name}\n")
    found = told(run_command("archive_runs", "--format", "json", "--run", run, "--output", tmp_path / "archive"))
    names = [Path(copy["file"]).name for copy in found["logs"]]
    assert [re.sub(r"until-\d{6}", "until-", name) for name in names] == [
        f"migration-{yesterday}.log.gz",
        f"migration-{today}.until-.log.gz",
        f"rollback-{yesterday}.log.gz",
    ]
    copy = tmp_path / "archive" / f"rollback-{yesterday}.log.gz"
    assert gzip.decompress(copy.read_bytes()) == f"rollback-{yesterday}.log\n".encode()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_log_copy_that_differs_is_refused(run: int, tmp_path: Path, settings: LazySettings) -> None:
    settings.MANA_MIGRATION_LOG_DIR = tmp_path
    MigrationRun.objects.filter(pk=run).update(
        created_at=datetime(2026, 1, 1, tzinfo=UTC), finished_at=datetime(2026, 1, 1, 1, tzinfo=UTC)
    )
    (tmp_path / "migration-2026-01-01.log").write_text("one\n")
    target = tmp_path / "archive"
    assert [copy.lines for copy in archive.write_logs([run], target)] == [1]
    assert [copy.lines for copy in archive.write_logs([run], target)] == [1]  # the same again
    (tmp_path / "migration-2026-01-01.log").write_text("two\n")
    with pytest.raises(ArchiveError, match="differs from migration-2026"):
        archive.write_logs([run], target)


def test_all_runs_that_ended_before_a_date_are_archived(run: int, tmp_path: Path) -> None:
    roll_back("--all")
    day = datetime(2020, 6, 1, tzinfo=UTC)
    MigrationRun.objects.update(created_at=day, finished_at=day)
    open_run()
    choice = told(run_command("archive_runs", "--before", "2020-06-02", "--dry-run", "--format", "json"))
    assert choice == {"runs": [run, run + 1]}
    assert not list(tmp_path.iterdir())
    assert run_command("archive_runs", "--before", "2020-06-02", "--output", tmp_path).code == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert run_command("archive_runs", "--before", "2020-05-31", "--output", tmp_path).out.startswith("no run ended")


def test_records_deleted_on_request_are_counted(run: int, tmp_path: Path) -> None:
    back = roll_back("--all", "--no-preserve-logs")["run"]
    first, second = archived(tmp_path, run, back)
    assert (first["unseen"], second["unseen"]) == (10, 10)
    assert archive.verify(Path(first["file"])).unseen == 10


CHANGES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a line": lambda found: found[1]["lines"].__setitem__(0, found[1]["lines"][0].replace("|3|", "|4|")),
    "a figure": lambda found: found[2].update(mana=1),
    "the rates": lambda found: found[0]["run"]["rates"].update(red=999),
    "a batch taken out": lambda found: found.pop(2),
    "the last batch taken out": lambda found: found.pop(-3),
    "the end taken out": lambda found: found.pop(),
    "something after the end": lambda found: found.append({"events": []}),
    "a stranger's object": lambda found: found.insert(1, {"hello": 1}),
    "another schema": lambda found: found[0].update(schema=2),
    "a field missing": lambda found: found[1].pop("digest"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_archive_is_refused(change: str, run: int, tmp_path: Path) -> None:
    (found,) = archived(tmp_path, run)
    path = Path(found["file"])
    content = parts(path)
    CHANGES[change](content)
    path.write_bytes(gzip.compress("\n".join(json.dumps(part) for part in content).encode()))
    assert str(path) in refusal(run_command("archive_runs", "--verify", path))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-200], lambda data: b"rubbish", lambda data: b""], ids=["cut", "rubbish", "empty"]
)
def test_a_damaged_archive_is_refused(damage: Callable[[bytes], bytes], run: int, tmp_path: Path) -> None:
    (found,) = archived(tmp_path, run)
    path = Path(found["file"])
    path.write_bytes(damage(path.read_bytes()))
    refusal(run_command("archive_runs", "--verify", path))


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.gz", "No such file"), (tmp_path, "Is a directory")):
        said = refusal(run_command("archive_runs", "--verify", path))
        assert (str(path) in said, reason in said) == (True, True)


def test_a_run_whose_records_were_changed_is_not_archived(run: int, tmp_path: Path) -> None:
    record = UserMigration.objects.filter(run=run).order_by("pk")[5]
    guards.uninstall(connection)
    try:
        UserMigration.objects.filter(pk=record.pk).update(green=99)
    finally:
        guards.install(connection)
    said = refusal(run_command("archive_runs", "--run", run, "--output", tmp_path))
    assert f"the digest of batch {record.batch_id} is not that of its lines" in said
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_an_open_or_unknown_run_is_refused(run: int, tmp_path: Path) -> None:
    archived(tmp_path, run)
    assert "mana-migration-run" in refusal(run_command("archive_runs", "--run", run, "--output", tmp_path))
    assert "there is no run 4711" in refusal(run_command("archive_runs", "--run", 4711, "--output", tmp_path))
    opened = open_run().pk
    assert f"run {opened} is running" in refusal(run_command("archive_runs", "--run", opened, "--output", tmp_path))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--run", "1"],
        ["--run", "0", "--output", "x"],
        ["--before", "yesterday", "--output", "x"],
        ["--before", "2026-01-01", "--run", "1", "--output", "x"],
        ["--verify", "x", "--output", "x"],
        ["--run", "1", "--output", "x", "--chain-head", "a" * 64],
        ["--verify", "x", "--chain-head", "z"],
    ],
)
def test_bad_usage_is_one_line(argv: list[str]) -> None:
    refusal(run_command("archive_runs", *argv), code=2)
