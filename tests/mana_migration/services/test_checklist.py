"""The checklist before a mass run: what the machine answers, what people answer, and when it is binding."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone

from mana_migration.errors import MigrationError
from mana_migration.models import Checklist, MigrationRun
from mana_migration.reports import checklist as report
from mana_migration.services import checklist
from mana_migration.services.context import Actor
from mana_migration.states import EventKind
from tests.factories import WalletFactory
from tests.support.oracle import assert_nothing_changes

pytestmark = pytest.mark.django_db(transaction=True)

OLGA = Actor("olga", "db-1")
ALL_YES = dict.fromkeys(checklist.QUESTIONS, True)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, settings: LazySettings) -> Path:
    """Return the log folder, which holds a dry run of an hour ago."""
    settings.MANA_MIGRATION_LOG_DIR = settings.MANA_MIGRATION_REPORT_DIR = tmp_path
    log_dry_run(tmp_path, hours_ago=1)
    return tmp_path


def log_dry_run(folder: Path, *, hours_ago: float, exit_code: int = 0) -> None:
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    context = {"command": "migrate_users", "dry_run": True, "exit_code": exit_code}
    line = json.dumps({"timestamp": at.isoformat(), "message": "the command ended", "context": context})
    (folder / f"migration-{at:%Y-%m-%d}.log").write_text(line + "\n")


def go_through(**values: Any) -> checklist.Outcome:
    given: dict[str, Any] = {"using": "default", "backup": "dump 17", "ask": lambda question: None, "answers": ALL_YES}
    return checklist.examine(**(given | values))


def answers(outcome: checklist.Outcome) -> dict[str, str]:
    return {item.id: item.answer for item in outcome.items}


def known_room(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the server's disk be seen, which it is not for every role and server."""
    monkeypatch.setattr(checklist, "data_folder", lambda using: folder)


def test_everything_is_answered_with_yes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known_room(monkeypatch, tmp_path)
    WalletFactory()
    with assert_nothing_changes():
        found = go_through()
    assert set(answers(found).values()) == {"yes"}
    assert found.go


def test_each_question_can_be_a_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logs: Path) -> None:
    known_room(monkeypatch, tmp_path)
    WalletFactory(green=-1)
    MigrationRun.objects.create(kind="migration", status="running")
    for path in logs.glob("*.log"):
        path.unlink()

    def refuse() -> None:
        raise MigrationError("no worker answers")

    found = go_through(backup="", answers={}, ask=lambda question: False, check_workers=refuse)
    no = {name for name, answer in answers(found).items() if answer == "no"}
    assert no == {"data_valid", "no_open_run", "dry_run_made", "backup_made", "workers_ready", *checklist.QUESTIONS}
    assert not found.go


def test_a_dry_run_counts_for_a_day(logs: Path) -> None:
    for path in logs.glob("*.log"):
        path.unlink()
    log_dry_run(logs, hours_ago=25)
    assert answers(go_through())["dry_run_made"] == "no"


@pytest.mark.parametrize(("exit_code", "answer"), [(0, "yes"), (1, "no"), (2, "no"), (3, "yes")])
def test_a_dry_run_counts_where_it_came_to_a_result(logs: Path, exit_code: int, answer: str) -> None:
    log_dry_run(logs, hours_ago=1, exit_code=exit_code)
    assert answers(go_through())["dry_run_made"] == answer


def test_what_nobody_answered_is_unknown_and_no_go() -> None:
    found = go_through(answers={})
    assert {answers(found)[name] for name in checklist.QUESTIONS} == {"unknown"}
    assert not found.go


def test_too_little_room_is_a_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known_room(monkeypatch, tmp_path)
    monkeypatch.setattr(checklist, "GROWTH_PER_USER", 10**18)
    WalletFactory()
    assert answers(go_through())["disk_room"] == "no"


def test_room_on_a_disk_that_cannot_be_seen_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checklist, "data_folder", lambda using: None)
    WalletFactory()
    assert answers(go_through())["disk_room"] == "unknown"
    assert answers(go_through(ask=lambda question: "disk" in question))["disk_room"] == "yes"
    assert answers(go_through(answers={**ALL_YES, "disk_room": True}))["disk_room"] == "yes"


def test_the_verdict_comes_first_on_screen() -> None:
    items = [checklist.Item("a", "Is it?", "yes", "it is"), checklist.Item("b", "And this one?", "no")]
    assert list(report.as_lines(items, go=False, backup="dump 17")) == [
        "Checklist before the migration: NO GO: 1 of 2 questions is not answered with yes",
        "  [yes] Is it? it is",
        "  [NO ] And this one?",
        "Backup: dump 17",
    ]


# Binding


def keep(*, go: bool = True, hours_ago: float = 0) -> Checklist:
    item = checklist.Item("restore_tried", "?", "yes" if go else "no")
    kept = checklist.record(checklist.Outcome((item,), "dump 17"), actor=OLGA, using="default")
    Checklist.objects.filter(pk=kept.pk).update(created_at=timezone.now() - timedelta(hours=hours_ago))
    return kept


def test_without_the_setting_none_is_needed() -> None:
    checklist.require("default")


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (None, "only after a checklist"),
        ({"go": False}, "no go (restore_tried)"),
        ({"hours_ago": 9}, "more than 8 h old"),
    ],
    ids=["none", "no go", "old"],
)
def test_a_run_needs_a_recent_go(kept: dict[str, Any] | None, reason: str, settings: LazySettings) -> None:
    settings.MANA_MIGRATION_CHECKLIST_HOURS = 8
    if kept is not None:
        keep(**kept)
    with pytest.raises(checklist.NoGoError) as caught:
        checklist.require("default")
    assert reason in str(caught.value)
    assert "migrate_users --checklist --backup REF" in str(caught.value)


def test_a_recent_go_is_enough_and_becomes_an_event_of_the_run(settings: LazySettings) -> None:
    settings.MANA_MIGRATION_CHECKLIST_HOURS = 8
    kept = keep(hours_ago=7)
    checklist.require("default")
    run = MigrationRun.objects.create(kind="migration", status="running")
    checklist.attach(run, actor=OLGA, using="default")
    event = run.events.get(kind=EventKind.CHECKLIST)
    assert event.message == f"checklist {kept.pk}: go, by olga"
    assert event.details == {"checklist": kept.pk, "go": True, "backup": "dump 17"}
    second = MigrationRun.objects.create(kind="migration", status="completed")
    checklist.attach(second, actor=OLGA, using="default")
    assert not second.events.exists()
