"""A site with two databases: each has its own run, users and books, and nothing of one ever touches the other."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import Client

from mana_migration.models import MigrationRun
from tests.factories import make_wallets
from tests.journeys.test_end_to_end import HEADER
from tests.mana_migration.running import told
from tests.support.aliases import POSTGRES, SQLITE, second_database
from tests.support.commands import database_url, run_manage
from tests.support.oracle import (
    assert_books_balance,
    assert_everyone_is_accounted_for,
    assert_nothing_changes,
    endowment,
)
from tests.support.processes import manage, run
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

HERE, THERE = "default", "eu"

#: For tests that need not see each pair of databases.
ONE_KIND = pytest.mark.parametrize("site", [SQLITE], indirect=True)


@pytest.fixture(
    params=[
        pytest.param(POSTGRES, marks=pytest.mark.postgres, id="beside-postgresql"),
        pytest.param(SQLITE, id="beside-sqlite"),
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the site a second database."""
    template = tmp_path_factory.getbasetemp() / "schema.sqlite3"  # made once, by the command itself
    copied = request.param == POSTGRES or template.exists()
    if request.param == SQLITE and copied:
        shutil.copy(template, tmp_path / f"{THERE}.sqlite3")
    with second_database(THERE, request.param, tmp_path, copy=copied) as alias:
        if not copied:
            done = run("migrate", "--database", alias, "--verbosity", "0")
            assert done.code == 0, done
            shutil.copy(tmp_path / f"{THERE}.sqlite3", template)
        yield


@pytest.fixture
def peopled(site: None) -> None:
    """Let users have a balance on each side."""
    make_wallets([(1, 0, 1)] * 120)
    make_wallets([(5, 0, 1)] * 90, THERE)


def export(path: Path, number: int, *, green: int) -> Path:
    """Write a legacy export of users who are alike."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER)
        writer.writerows([f"legacy-{n:04}", "Plain", green, 0, 1, "", "false"] for n in range(number))
    return path


def on(alias: str, command: str, *argv: object, code: int = 0) -> dict[str, Any]:
    """Run a command on a database, as a process, and return its JSON."""
    return told(run(command, *argv, "--database", alias, "--format", "json"), code)


@pytest.mark.usefixtures("site")
def test_each_database_is_filled_migrated_watched_checked_and_taken_back_by_itself(tmp_path: Path) -> None:
    for alias, number, green in ((HERE, 120, 1), (THERE, 90, 5)):
        with assert_nothing_changes(THERE if alias == HERE else HERE):
            on(alias, "import_balances", export(tmp_path / f"{alias}.csv", number, green=green))
    before = {alias: endowment(alias) for alias in (HERE, THERE)}

    with assert_nothing_changes(HERE):
        assert on(THERE, "migrate_users", "--dry-run")["users"]["migrated"] == 90
        done = on(THERE, "migrate_users", "--batch-size", "50", "--delay", "0")
        assert (done["users"]["migrated"], done["mana"]) == (90, 90 * 1050)
        assert on(THERE, "monitor_migration")["users"]["migrated"] == 90
        assert on(THERE, "validate_migration")["totals"]["migrated"] == 90
    with assert_nothing_changes(THERE):
        assert on(HERE, "migrate_users", "--delay", "0")["mana"] == 120 * 1010
        assert on(HERE, "monitor_migration")["users"]["migrated"] == 120
    with assert_nothing_changes(HERE):
        back = on(THERE, "rollback_migration", "--run", done["run"], "--no-input")
        assert back["users"]["rolled_back"] == 90
    with assert_nothing_changes(THERE):
        assert on(HERE, "rollback_migration", "--user-id", "legacy-0007")["users"]["rolled_back"] == 1

    assert Wallet.objects.using(THERE).filter(migrated_at=None).count() == 90
    assert Wallet.objects.using(HERE).filter(migrated_at=None).count() == 1
    for alias in (HERE, THERE):
        assert_books_balance(alias, expected=before[alias])
        assert on(alias, "validate_migration", "--post-migration")["ok"]


@pytest.mark.usefixtures("peopled")
def test_both_have_an_open_run_at_the_same_time() -> None:
    argv = ("migrate_users", "--batch-size", "10", "--delay", "60", "--format", "json", "--database", THERE)
    with manage(*argv) as there:
        there.until(lambda: MigrationRun.objects.using(THERE).open().exists())
        assert on(THERE, "migrate_users", "--pause")["status"] == "paused"
        assert on(HERE, "migrate_users", "--delay", "0")["users"]["migrated"] == 120
        assert on(THERE, "migrate_users", "--set", "delay=0", "--resume")["status"] == "running"
        assert there.told()["users"]["migrated"] == 90
    for alias in (HERE, THERE):
        (opened,) = MigrationRun.objects.using(alias).filter(kind="migration")
        assert opened.status == "completed"
        assert_everyone_is_accounted_for(opened.pk, alias)
        assert_books_balance(alias)


@ONE_KIND
@pytest.mark.usefixtures("peopled")
def test_a_refusal_names_the_database_that_its_advice_is_for() -> None:
    on(THERE, "migrate_users", "--limit", "10", "--delay", "0")
    MigrationRun.objects.using(THERE).filter(kind="migration").update(status="paused", finished_at=None)
    refused = run("migrate_users", "--database", THERE)
    assert refused.code == 1
    assert f"control_migration --database {THERE} resume" in refused.err
    assert run("migrate_users", "--delay", "0").code == 0  # the other one is free


@ONE_KIND
@pytest.mark.usefixtures("peopled")
def test_the_log_tells_the_databases_apart(settings: Any) -> None:
    for alias in (HERE, THERE):
        on(alias, "migrate_users", "--delay", "0")
    lines = [json.loads(line) for path in settings.MANA_MIGRATION_LOG_DIR.glob("migration-*.log")
             for line in path.read_text().splitlines()]  # fmt: skip
    finished = [line["context"]["database"] for line in lines if line["context"].get("event") == "finished"]
    assert finished[-2:] == [HERE, THERE]


@ONE_KIND
@pytest.mark.usefixtures("peopled")
def test_staff_choose_the_database_on_every_page() -> None:
    get_user_model().objects.create_superuser("boss", password="x" * 16)
    client = Client()
    client.login(username="boss", password="x" * 16)
    listed = client.get("/migration/").content.decode()
    assert f'href="?database={THERE}"' in listed
    page = client.get("/migration/", {"database": THERE}).content.decode()
    assert f"about the database <b>{THERE}</b>" in page
    assert client.get("/migration/", {"database": "moon"}).status_code == 404

    with assert_nothing_changes(HERE, ignoring=["django_session"]):
        shown = client.post("/migration/runs/start", {"database": THERE})
        assert f'name="database" value="{THERE}"' in shown.content.decode()
        token = shown.context["token"]
        answer = client.post("/migration/runs/start", {"database": THERE, "token": token, "reason": "go"})
        (opened,) = MigrationRun.objects.using(THERE).open()
        assert answer["Location"] == f"/migration/runs/{opened.pk}/?database={THERE}"
        assert [run["run"] for run in on(THERE, "work_migration", "--once")["runs"]] == [opened.pk]
        seen = client.get(answer["Location"]).content.decode()
        assert "Completed" in seen
        assert f"?database={THERE}" in seen
        report = client.get(f"/migration/runs/{opened.pk}/report/json", {"database": THERE})
        assert b'"migrated": 90' in b"".join(report)  # type: ignore[arg-type]
    assert on(HERE, "work_migration", "--once")["runs"] == []
    assert not Wallet.objects.using(HERE).exclude(migrated_at=None).exists()


@ONE_KIND
@pytest.mark.usefixtures("peopled")
def test_the_environment_names_the_databases(tmp_path: Path) -> None:
    """As a deployment has it: one variable for each database, a process that has inherited nothing."""
    env = {"DATABASE_URL_EU": database_url(THERE)}
    connections.close_all()
    with assert_nothing_changes(HERE):
        done = run_manage("migrate_users", "--database", THERE, "--delay", "0", "--format", "json", env=env)
        assert told(done)["users"]["migrated"] == 90
        report = tmp_path / "report.json"
        argv = ("monitor_migration", "--database", THERE, "--report", "--export", "json", "--output", report)
        assert run_manage(*argv, env=env).code == 0
        assert json.loads(report.read_text())["run"]
    assert run("migrate_users", "--database", "moon").code == 2
