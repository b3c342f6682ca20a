"""Commands on several databases: what is meant, what is refused, and one result of processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from mana_migration.management.commands._base import worst
from mana_migration.management.several import passed_on
from tests.mana_migration.running import refusal, told
from tests.support.aliases import SQLITE, second_database
from tests.support.commands import PROJECT, Result, manage_environment, run_command
from tests.support.terminal import on_a_terminal

pytestmark = pytest.mark.once

ALIASES = ("default", "eu", "us")
COMMANDS = ("migrate_users", "rollback_migration", "validate_migration", "monitor_migration")

#: Users of each database, who have one red and two green wishes.
USERS = {"default": 30, "eu": 20, "us": 10}
WORTH = 1020


@pytest.fixture
def aliases(tmp_path: Path, db: None) -> Iterator[None]:
    """Give the settings further databases, to which nothing ever connects."""
    with ExitStack() as stack:
        for alias in ALIASES[1:]:
            stack.enter_context(second_database(alias, SQLITE, tmp_path))
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with the schema."""
    path = tmp_path_factory.mktemp("several") / "schema.sqlite3"
    with closing(sqlite3.connect(path)):
        done = run_outside("migrate", "--verbosity", "0", env={"DATABASE_URL": f"sqlite:///{path}"})
    assert done.code == 0, done
    return path


class Shards:
    """Three SQLite files with users, and the commands on them."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        for alias, users in USERS.items():
            shutil.copy(template, self.path(alias))
            self.execute(
                alias,
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO auth_user "
                "(username, password, is_superuser, first_name, last_name, email, is_staff, is_active, date_joined) "
                "SELECT 'user-' || i, '', 0, '', '', '', 0, 1, '2026-01-01' FROM n",
                users,
            )
            self.execute(
                alias,
                "INSERT INTO wishes_wallet (user_id, green, blue, red, mana, updated_at) "
                "SELECT id, 2, 0, 1, 0, '2026-01-01' FROM auth_user",
            )
        names = {"default": "DATABASE_URL", "eu": "DATABASE_URL_EU", "us": "DATABASE_URL_US"}
        self.environment = {name: f"sqlite:///{self.path(alias)}" for alias, name in names.items()} | {
            "MANA_MIGRATION_LOG_DIR": str(folder / "logs"),
            "MANA_MIGRATION_REPORT_DIR": str(folder / "reports"),
        }

    def path(self, alias: str) -> Path:
        """Return the file of a database."""
        return self.folder / f"{alias}.sqlite3"

    def execute(self, alias: str, sql: str, *values: Any) -> list[Any]:
        """Execute SQL and return its rows."""
        with closing(sqlite3.connect(self.path(alias))) as connection, connection:
            return connection.execute(sql, values).fetchall()

    def migrated(self) -> dict[str, int]:
        """Return how many users of each database are migrated."""
        count = "SELECT COUNT(migrated_at) FROM wishes_wallet"
        return {alias: self.execute(alias, count)[0][0] for alias in ALIASES}

    def refuse_users(self, alias: str, condition: str) -> None:
        """Let the database refuse the records of some users."""
        self.execute(
            alias,
            f"CREATE TRIGGER planted BEFORE INSERT ON mana_migration_usermigration "
            f"WHEN NEW.status = 'migrated' AND NEW.user_id {condition} "
            "BEGIN SELECT RAISE(ABORT, 'planted'); END",
        )

    def run(self, *argv: str) -> Result:
        """Run a command on all of them."""
        return run_outside(*argv, "--database", "all", env=self.environment)

    def json(self, *argv: str, code: int = 0) -> dict[str, Any]:
        """Run a command on all of them and return its JSON."""
        return told(self.run(*argv, "--format", "json"), code)


def run_outside(*argv: str, env: dict[str, str]) -> Result:
    """Run a command that does not use the suite's database."""
    done = subprocess.run(
        [sys.executable, "manage.py", *argv], cwd=PROJECT, env=os.environ | env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Result(done.stdout, done.stderr, done.returncode)


@pytest.fixture
def shards(tmp_path: Path, template: Path) -> Shards:
    """Return three databases with users to migrate."""
    return Shards(tmp_path, template)


# --- What is meant ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["eu", "eu"], "--database eu is given twice"),
        (["all", "eu"], "--database all means every database"),
        (["eu", "all"], "--database all means every database"),
        (["eu", "moon"], "invalid choice: 'moon'"),
    ],
)
def test_a_choice_of_databases_that_cannot_be_meant_is_refused(command: str, given: list[str], sentence: str) -> None:
    words = [word for alias in given for word in ("--database", alias)]
    assert sentence in refusal(run_command(command, *words), code=2)


@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize(
    ("command", "options", "option"),
    [
        ("migrate_users", ["--user-id", "1"], "--user-id"),
        ("migrate_users", ["--plan", "plan.json"], "--plan"),
        ("migrate_users", ["--dry-run", "--save-plan", "plan.json"], "--save-plan"),
        ("migrate_users", ["--dry-run", "--list"], "--list"),
        ("migrate_users", ["--show-sql"], "--show-sql"),
        ("migrate_users", ["--checklist"], "--checklist"),
        ("migrate_users", ["--pause"], "--pause"),
        ("rollback_migration", ["--user-id", "1"], "--user-id"),
        ("rollback_migration", ["--run", "1"], "--run"),
        ("validate_migration", ["--user-id", "1"], "--user-id"),
        ("validate_migration", ["--run", "1"], "--run"),
        ("validate_migration", ["--output", "found.jsonl"], "--output"),
        ("monitor_migration", ["--run", "1"], "--run"),
        ("monitor_migration", ["--report", "--since", "2026-11-01"], "--since with --report"),
    ],
)
def test_an_option_that_names_something_in_one_database_is_refused(
    command: str, options: list[str], option: str
) -> None:
    sentence = refusal(run_command(command, "--database", "all", *options), code=2)
    assert sentence.startswith(f"CommandError: {option}")
    assert "is about one database: give one --database" in sentence


@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize("command", ["import_balances", "control_migration", "archive_runs", "install_guards"])
def test_other_commands_work_on_one_database(command: str) -> None:
    needed = {"import_balances": ["x.csv"], "control_migration": ["pause"], "archive_runs": ["--verify", "x"]}
    argv = [command, *needed.get(command, []), "--database", "eu", "--database", "us"]
    assert "give --database once" in refusal(run_command(*argv), code=2)


@pytest.mark.usefixtures("aliases")
def test_two_aliases_of_one_database_are_not_two_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["us"], "NAME", connections.settings["eu"]["NAME"])
    sentence = refusal(run_command("migrate_users", "--database", "eu", "--database", "us"), code=2)
    assert "eu and us are the same database" in sentence


class KeepFromUs:
    """A router that keeps our tables from one database."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return None if db != "us" else False


@pytest.mark.usefixtures("aliases")
def test_all_leaves_out_a_mirror_and_what_the_router_keeps_the_tables_from_and_says_so(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DATABASE_ROUTERS = [f"{__name__}.KeepFromUs"]
    monkeypatch.setitem(connections.settings["eu"], "TEST", connections.settings["eu"]["TEST"] | {"MIRROR": "default"})
    result = run_command("migrate_users", "--database", "all", "--user-id", "1")
    assert "eu: left out, a mirror of default" in result.out
    assert "us: left out, a router keeps the tables from it" in result.out


@pytest.mark.usefixtures("aliases")
def test_all_leaves_out_an_alias_that_is_empty_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["eu"], "ENGINE", "django.db.backends.dummy")
    result = run_command("migrate_users", "--database", "all", "--user-id", "1")
    assert "eu: left out, it has no ENGINE in the settings" in result.out


@pytest.mark.usefixtures("aliases")
def test_call_command_takes_several_as_on_a_command_line() -> None:
    with pytest.raises(CommandError, match="as on a command line"):
        call_command("monitor_migration", database=["eu", "us"])
    with pytest.raises(CommandError, match="as on a command line"):
        call_command("monitor_migration", "--database", "all", status=True)


def test_arguments_are_passed_on_as_they_were_given() -> None:
    given = [
        "--database",
        "eu",
        "--limit",
        "5",
        "--format=json",
        "--reason",
        "a - b",
        "--database=us",
        "--no-input",
        "-v0",
    ]
    assert passed_on(given) == ["--limit", "5", "--reason", "a - b", "-v0"]
    assert passed_on(given, "--limit") == ["--reason", "a - b", "-v0"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 3, 0], 3), ([3, 2], 2), ([2, 1, 0], 1), ([1, 4, 3], 4), ([4, 143], 143), ([143, 130], 130), ([0, 137], 1)],
)
def test_the_exit_code_is_the_worst(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected


# --- What is done -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_command_works_on_all_and_adds_up(shards: Shards) -> None:
    users = sum(USERS.values())
    foreseen = shards.json("migrate_users", "--dry-run")
    assert foreseen["totals"]["users"]["migrated"] == users
    assert not any(shards.migrated().values())

    done = shards.json("migrate_users", "--delay", "0")
    assert {alias: values["users"]["migrated"] for alias, values in done["databases"].items()} == USERS
    assert {values["exit_code"] for values in done["databases"].values()} == {0}
    assert (done["totals"]["databases"], done["totals"]["mana"], done["exit_code"]) == (3, users * WORTH, 0)
    assert shards.migrated() == USERS

    seen = shards.json("monitor_migration")
    assert {values["run"] for values in seen["databases"].values()} == {1}
    assert seen["totals"]["all_users"]["migrated"] == users
    assert shards.json("monitor_migration", "--status")["totals"]["users"]["progress"] == 1.0
    checked = shards.json("validate_migration")
    assert checked["totals"]["totals"]["value"] == users * WORTH

    back = shards.json("rollback_migration", "--all", "--no-input")
    assert back["totals"]["users"]["rolled_back"] == users
    assert not any(shards.migrated().values())


@pytest.mark.slow
def test_neither_a_broken_database_nor_a_breaker_holds_up_the_others(shards: Shards) -> None:
    shards.path("eu").write_bytes(b"this is no database, and was never one" * 50)
    shards.refuse_users("default", "% 4 = 0")
    done = shards.json("migrate_users", "--delay", "0", code=4)
    found = done["databases"]
    assert [found[alias]["exit_code"] for alias in ALIASES] == [4, 1, 0], found
    assert "error" in found["eu"]
    assert (found["default"]["cause"], found["us"]["status"]) == ("breaker", "completed")
    assert shards.execute("us", "SELECT COUNT(migrated_at) FROM wishes_wallet") == [(USERS["us"],)]


@pytest.mark.slow
def test_text_has_a_row_for_each_database_the_log_names_them_and_the_report_is_one_file(shards: Shards) -> None:
    result = shards.run("migrate_users", "--delay", "0")
    rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()}
    assert rows["eu"] == ["1", "completed", "20", "20", "0", "0", "20,400", "0"]
    assert "3 databases: 3 completed" in result.out
    assert rows["all"] == ["60", "60", "0", "0", "61,200", "0"]
    assert "us: run 1 is open" in result.err
    (path,) = (shards.folder / "logs").glob("migration-*.log")
    finished = [
        line["context"]
        for line in map(json.loads, path.read_text().splitlines())
        if line["context"].get("event") == "finished"
    ]
    assert sorted(context["database"] for context in finished) == sorted(ALIASES)
    written = shards.json("monitor_migration", "--export", "json")
    (file,) = written["reports"][0]["files"]
    report = json.loads(Path(file).read_text())
    assert report["databases"]["eu"]["run"]["users"]["migrated"] == USERS["eu"]
    assert report["databases"]["eu"]["reconciliation"]["ok"]
    assert report["totals"]["mana"] == sum(USERS.values()) * WORTH
    assert "already" in refusal(shards.run("monitor_migration", "--export", "json", "--output", file))


@pytest.mark.slow
def test_one_question_is_asked_for_all_before_anything_is_done(shards: Shards) -> None:
    shards.run("migrate_users", "--delay", "0")
    argv = ("rollback_migration", "--all", "--database", "eu", "--database", "us")
    for answer, code, left in (("no\n", 1, USERS), ("yes\n", 0, {"default": 30, "eu": 0, "us": 0})):
        shown, ended = on_a_terminal(*argv, answer=answer, env=shards.environment)
        assert ended == code, shown
        assert shown.count("Type yes to continue") == 1
        assert "Roll back 30 users in 2 databases?" in shown
        assert shards.migrated() == left


SLOW = ("--batch-size", "1", "--delay", "0.2")


def start(shards: Shards, *argv: str) -> subprocess.Popen[str]:
    """Start a slow migration of all, and wait until each has done a batch."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "migrate_users", "--database", "all", *SLOW, *argv],
        cwd=PROJECT, env=manage_environment(shards.environment), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not all(shards.migrated().values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_ctrl_c_stops_all_after_their_batches_and_the_same_command_resumes(shards: Shards) -> None:
    process = start(shards, "--format", "json")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, err
    assert "Traceback" not in err
    stopped = json.loads(out)
    assert {values["status"] for values in stopped["databases"].values()} == {"running"}
    assert {alias: values["users"]["migrated"] for alias, values in stopped["databases"].items()} == shards.migrated()
    resumed = shards.json("migrate_users")["totals"]
    assert (resumed["users"]["migrated"], shards.migrated()) == (sum(USERS.values()), USERS)


@pytest.mark.slow
def test_a_killed_process_costs_its_own_database_alone_and_the_runs_are_watched_to_their_ends(shards: Shards) -> None:
    process = start(shards, "--format", "json")
    begun = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (victim,) = [int(child) for child in begun if b"\0eu\0" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(victim, signal.SIGKILL)
    watched = run_outside(
        *("monitor_migration", "--watch", "--interval", "0.5", "--database", "default", "--database", "us"),
        env=shards.environment,
    )
    out, _ = process.communicate(timeout=60)
    found = json.loads(out)["databases"]
    assert (process.returncode, {alias: found[alias]["exit_code"] for alias in ALIASES}) == (
        1, {"default": 0, "eu": 1, "us": 0},
    )  # fmt: skip
    assert found["eu"]["error"]["message"] == "the process was killed by SIGKILL"
    (log,) = (shards.folder / "logs").glob("migration-*.log")
    assert "database 'eu': the process was killed by SIGKILL" in log.read_text()
    assert watched.code == 0, watched
    assert "2 databases: 2 completed" in watched.out
    assert "default: " in watched.err
    assert shards.json("migrate_users")["databases"]["eu"]["status"] == "completed"


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it(shards: Shards) -> None:
    process = start(shards)
    process.kill()
    process.communicate(timeout=60)
    time.sleep(2)
    before = shards.migrated()
    assert before != USERS
    time.sleep(1)
    assert shards.migrated() == before
