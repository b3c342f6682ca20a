"""Reports that pages ask for: asked for once, made whole, kept for a day."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from django.core.management import call_command

from mana_migration.domain.report import RunReport
from mana_migration.errors import RunNotFoundError
from mana_migration.models import ReportFile
from mana_migration.reports import downloads
from mana_migration.services import report_files, runs
from mana_migration.services.context import StopFlag
from mana_migration.services.report_files import ask, latest, make_next, path_of
from tests.mana_migration.history import make_history

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Return the folder of the reports, a new one."""
    settings.MANA_MIGRATION_REPORT_DIR = tmp_path / "reports"
    return tmp_path / "reports"


def test_a_report_is_asked_for_once_and_made_whole(folder: Path) -> None:
    run = make_history(5).run
    first = ask(run.pk, "json", actor="olga")
    assert ask(run.pk, "json", actor="sven").pk == first.pk
    made = make_next(downloads.write)
    assert made is not None
    assert (made.pk, made.status, made.actor) == (first.pk, "ready", "olga")
    assert made.written == path_of(made).stat().st_size
    assert path_of(made).stat().st_mode & 0o777 == 0o600
    assert len(json.loads(path_of(made).read_text())["users"]) == 5
    assert make_next(downloads.write) is None
    assert latest(run.pk, "json") == made
    assert ask(run.pk, "json", actor="sven").pk != first.pk  # once more, on purpose


@pytest.mark.parametrize("kind", downloads.KINDS)
def test_every_kind_is_made(kind: str) -> None:
    ask(make_history(5).run.pk, kind, actor="olga")
    made = make_next(downloads.write)
    assert made is not None
    assert made.status == "ready", made.reason
    assert path_of(made).stat().st_size == made.written > 0


def test_a_run_that_is_not_there_is_refused() -> None:
    with pytest.raises(RunNotFoundError):
        ask(99, "json", actor="olga")


def test_what_a_process_that_died_was_making_is_made_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ask(make_history(5).run.pk, "csv", actor="olga")
    now = runs.database_now("default")
    ReportFile.objects.filter(pk=file.pk).update(status="making", touched_at=now - timedelta(seconds=50))
    assert make_next(downloads.write) is None  # it may live
    ReportFile.objects.filter(pk=file.pk).update(touched_at=now - timedelta(seconds=70))
    made = make_next(downloads.write)
    assert made is not None
    assert made.status == "ready"


def test_an_error_of_one_report_is_recorded_and_keeps_no_other_from_being_made() -> None:
    run = make_history(5).run
    first, second = ask(run.pk, "csv", actor="olga"), ask(run.pk, "json", actor="olga")
    stop = StopFlag()

    def write(report: RunReport, kind: str, stream: BinaryIO) -> None:
        if kind == "csv":
            raise ValueError(kind)
        downloads.write(report, kind, stream)
        stop.request()

    report_files.work(stop, write, using="default")
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, first.reason, second.status) == ("failed", "ValueError", "ready")


def test_a_report_that_cannot_be_written_says_why_and_leaves_no_file(folder: Path) -> None:
    folder.write_text("a file in the place of the folder")
    ask(make_history(5).run.pk, "csv", actor="olga")
    made = make_next(downloads.write)
    assert made is not None
    assert made.status == "failed"
    assert str(folder) in made.reason


def test_a_report_is_kept_for_a_day(folder: Path) -> None:
    run = make_history(5).run
    ask(run.pk, "csv", actor="olga")
    made = make_next(downloads.write)
    assert made is not None
    day = runs.database_now("default") - report_files.KEPT
    ReportFile.objects.filter(pk=made.pk).update(created_at=day + timedelta(minutes=1))
    make_next(downloads.write)
    assert list(folder.iterdir()) == [path_of(made)]
    ReportFile.objects.filter(pk=made.pk).update(created_at=day - timedelta(minutes=1))
    assert latest(run.pk, "csv") is None
    make_next(downloads.write)
    assert list(folder.iterdir()) == []
    assert not ReportFile.objects.exists()


def test_a_worker_process_makes_what_is_asked_for() -> None:
    file = ask(make_history(5).run.pk, "html", actor="olga")
    call_command("work_migration", "--once")
    file.refresh_from_db()
    assert file.status == "ready"
