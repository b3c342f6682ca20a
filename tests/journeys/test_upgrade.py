"""A database of an earlier release is upgraded by ``migrate`` and goes on; see tests/files/upgrade/make_dump.py."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from tests.mana_migration.running import told
from tests.support.commands import PROJECT, Result, run_manage
from tests.support.databases import address, own_database
from tests.support.driver import psycopg

FILES = PROJECT / "tests" / "files" / "upgrade"

#: What the clock of a client's machine made of the times of a run, before they were the database's.
ENDED_BEFORE = """
    UPDATE mana_migration_migrationrun SET finished_at = '2020-01-01 00:00:00' WHERE id = 1;
    UPDATE mana_migration_migrationbatch SET finished_at = '2020-01-01 00:00:00' WHERE run_id = 1;
"""

Manage = Callable[..., Result]


@pytest.fixture
def manage(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[Manage]:
    """Return what runs a command on a copy of the earlier release's database, after it is upgraded."""
    with django_db_blocker.unblock(), own_database(tmp_path) as settings:
        url = _restore(settings)

        def manage(*argv: object) -> Result:
            return run_manage(*argv, env={"DATABASE_URL": url})

        refused = manage("migrate_users")
        assert refused.code == 1
        assert "lacks the schema migrations" in refused.err
        assert "mana_migration.0004_stop_cause" in refused.err
        assert manage("migrate", "-v0").code == 0
        assert manage("install_guards").code == 0
        yield manage


def _restore(settings: dict[str, Any]) -> str:
    if connection.vendor == "sqlite":
        with gzip.open(FILES / "database.sqlite3.gz") as stored, Path(settings["NAME"]).open("wb") as copy:
            shutil.copyfileobj(stored, copy)
        with sqlite3.connect(settings["NAME"]) as restored:
            restored.executescript(ENDED_BEFORE)
        restored.close()
        return f"sqlite:///{settings['NAME']}"
    url = address(settings)
    with psycopg.connect(url) as restored, restored.cursor() as cursor:
        cursor.execute(gzip.decompress((FILES / "database.sql.gz").read_bytes()).decode())
        cursor.execute("RESET search_path")  # which the dump has emptied
        cursor.execute(ENDED_BEFORE)
    return url


def outcome(manage: Manage, run: int, *, code: int) -> tuple[str, str, int]:
    """Return the status of a closed run, why it ended, and how many users it migrated."""
    found = told(manage("work_migration", "--run", run, "--format", "json"), code)
    return found["status"], found["cause"], found["users"]["migrated"]


def test_closed_runs_are_what_they_were(manage: Manage) -> None:
    assert outcome(manage, 1, code=0) == ("completed", "", 30)
    assert outcome(manage, 2, code=1)[:2] == ("rolled_back", "")
    assert outcome(manage, 4, code=1)[:2] == ("stopped", "operator")
    seen = told(manage("monitor_migration", "--run", 1, "--format", "json"))
    assert seen["finished_at"] == seen["started_at"]
    archive = FILES / f"archive-{connection.vendor}.jsonl.gz"
    assert manage("archive_runs", "--verify", archive).code == 0


def test_the_open_run_is_resumed_by_its_saved_plan_and_everything_adds_up(manage: Manage) -> None:
    plan = FILES / f"plan-{connection.vendor}.json"
    done = told(manage("migrate_users", "--plan", plan, "--format", "json", "--no-input"))
    assert (done["run"], done["status"], done["users"]["migrated"]) == (5, "completed", 80)
    assert set(done["drift"].values()) == {0}
    assert told(manage("validate_migration", "--format", "json"))["ok"] is True
    for run in (1, 5):
        assert manage("monitor_migration", "--report", "--run", run, "--no-validation").code == 0
    back = told(manage("rollback_migration", "--all", "--no-input", "--format", "json"))
    assert back["users"]["rolled_back"] == 120
    assert outcome(manage, 1, code=1)[:2] == ("rolled_back", "")
