"""One migration on four PostgreSQL servers, of which one is lost in the middle of its run and stays down."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import pytest
from django.db import connections

from tests.mana_migration.running import told
from tests.support.aliases import known_as
from tests.support.commands import PROJECT, manage_environment, run_manage
from tests.support.oracle import Endowment, assert_books_balance, endowment
from tests.support.postgres import SUPERUSER, Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.django_db]

ALIASES = ("default", "eu", "us", "asia")
LOST = "asia"
USERS = 300

#: Aliases of the test's own process, which has its own default database.
HERE = {alias: f"server_{alias}" for alias in ALIASES}

FILL = """
    INSERT INTO auth_user (username, password, is_superuser, first_name, last_name, email, is_staff, is_active,
                           date_joined)
    SELECT 'user-' || n, '', false, '', '', '', false, true, now() FROM generate_series(1, %s) AS n;
    INSERT INTO wishes_wallet (user_id, green, blue, red) SELECT id, 3, 2, 1 FROM auth_user;
"""

#: The records of a fifth of the users are refused.
REFUSE = """
    CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE check_violation; END $$;
    CREATE TRIGGER planted BEFORE INSERT ON mana_migration_usermigration FOR EACH ROW
    WHEN (NEW.status = 'migrated' AND NEW.user_id % 5 = 0) EXECUTE FUNCTION planted();
"""

SLOW = ("--batch-size", "5", "--delay", "0.05")


def execute(server: Postgres, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Execute SQL on a server and return its rows."""
    with closing(psycopg2.connect(server.url())) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall()) if cursor.description else []


class Servers:
    """Four servers with users to migrate, and the commands on all of them."""

    def __init__(self, servers: dict[str, Postgres]) -> None:
        self.servers = servers
        urls = {("" if alias == "default" else f"_{alias.upper()}"): server.url() for alias, server in servers.items()}
        self.environment = manage_environment({f"DATABASE_URL{suffix}": url for suffix, url in urls.items()}) | {
            "DJANGO_SETTINGS_MODULE": "tests.support.impatient_site"
        }

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "manage.py", *argv], cwd=PROJECT, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def all(self, *argv: str, code: int = 0) -> dict[str, Any]:
        """Run a command on all databases and return its JSON."""
        result = run_manage(*argv, "--database", "all", "--format", "json", env=self.environment)
        return told(result, code)

    def execute(self, alias: str, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Execute SQL on one server and return its rows."""
        return execute(self.servers[alias], sql, parameters)

    def until_at_work(self) -> None:
        """Wait until each run has done some batches."""
        done, deadline = (
            "SELECT COUNT(*) FROM mana_migration_migrationbatch WHERE status = 'done'",
            time.monotonic() + 60,
        )
        while min(self.execute(alias, done)[0][0] for alias in ALIASES) < 3:
            assert time.monotonic() < deadline, "the runs do not begin"
            time.sleep(0.05)

    def endowments(self) -> dict[str, Endowment]:
        """Return what must stay the same in each database."""
        found = {alias: endowment(HERE[alias]) for alias in ALIASES}
        for name in HERE.values():
            connections[name].close()  # of the test's own, which would not outlive the server
        return found

    def assert_books_balance(self, before: dict[str, Endowment], aliases: Sequence[str] = ALIASES) -> None:
        """Fail if value was created or lost anywhere."""
        for alias in aliases:
            assert_books_balance(HERE[alias], expected=before[alias])


@pytest.fixture(scope="module")
def template() -> Iterator[Postgres]:
    """Return a server that is stopped, with users to migrate."""
    with Postgres(in_memory=True) as server:
        made = run_manage("migrate", "--verbosity", "0", env=manage_environment({"DATABASE_URL": server.url()}))
        assert made.code == 0, made
        execute(server, FILL, [USERS])
        server.stop()
        yield server


@pytest.fixture
def servers(template: Postgres) -> Iterator[Servers]:
    """Return four servers, each known to the test under an alias."""
    with ExitStack() as stack:
        started = {alias: stack.enter_context(Postgres(in_memory=True, copy_of=template)) for alias in ALIASES}
        for alias, server in started.items():
            own = {"HOST": str(server.folder), "PORT": "5432", "USER": SUPERUSER, "NAME": "postgres"}
            stack.enter_context(known_as(HERE[alias], {"ENGINE": "django.db.backends.postgresql", **own}))
        yield Servers(started)


def test_a_server_that_is_lost_does_not_hold_up_the_others(servers: Servers) -> None:
    before = servers.endowments()
    process = servers.start("migrate_users", "--database", "all", "--workers", "2", "--format", "json", *SLOW)
    servers.until_at_work()
    servers.servers[LOST].stop("immediate")
    out, err = process.communicate(timeout=120)
    done = json.loads(out)

    assert process.returncode == done["exit_code"] == 1, err
    others = [alias for alias in ALIASES if alias != LOST]
    assert set(done["databases"]) == set(ALIASES)
    for alias in others:
        assert (done["databases"][alias]["status"], done["databases"][alias]["exit_code"]) == ("completed", 0)
    assert "the same command resumes it" in done["databases"][LOST]["error"]["message"]
    assert done["totals"]["users"]["migrated"] == len(others) * USERS
    assert f"{LOST}: the database is lost" in err
    assert "Traceback" not in err
    servers.assert_books_balance(before, others)

    servers.servers[LOST].start()
    resumed = servers.all("migrate_users")
    assert resumed["databases"][LOST]["users"]["migrated"] == USERS
    assert {resumed["databases"][alias]["status"] for alias in others} == {"nothing_to_do"}
    servers.assert_books_balance(before)
    assert servers.all("validate_migration")["totals"]["totals"]["migrated"] == len(ALIASES) * USERS


def test_a_breaker_trips_in_its_own_database_alone(servers: Servers) -> None:
    before = servers.endowments()
    servers.execute("eu", REFUSE)
    servers.servers[LOST].stop("immediate")  # and one that was down all along
    done = servers.all("migrate_users", "--delay", "0", code=4)
    assert {alias: values["exit_code"] for alias, values in done["databases"].items()} == {
        "default": 0, "eu": 4, "us": 0, LOST: 1,
    }  # fmt: skip
    assert (done["databases"]["eu"]["cause"], done["databases"]["eu"]["status"]) == ("breaker", "rolled_back")
    for alias, migrated in {"default": USERS, "eu": 0, "us": USERS}.items():
        assert servers.execute(alias, "SELECT COUNT(migrated_at) FROM wishes_wallet") == [(migrated,)]
    servers.assert_books_balance(before, ["default", "eu", "us"])


def test_a_standby_is_not_counted_as_a_database_with_users_of_its_own(servers: Servers) -> None:
    standby = servers.servers[LOST]
    standby.stop()
    (standby.data / "standby.signal").touch()
    standby.start()
    seen = servers.all("monitor_migration", "--status", code=1)
    assert "is a standby" in seen["databases"][LOST]["error"]["message"]
    assert seen["totals"]["users"]["total"] == (len(ALIASES) - 1) * USERS
