"""A server that goes away in the middle of a run, or takes no writes for a while: several processes wait for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.support.commands import PROJECT, manage_environment, run_manage
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

USERS = 400

FILL = """
    INSERT INTO auth_user (username, password, is_superuser, first_name, last_name, email, is_staff, is_active,
                           date_joined)
    SELECT 'user-' || n, '', false, '', '', '', false, true, now() FROM generate_series(1, %s) AS n;
    INSERT INTO wishes_wallet (user_id, green, blue, red) SELECT id, 3, 2, 1 FROM auth_user;
"""


class Site:
    """A database of its own with users to migrate, and the commands on it."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.environment = manage_environment(os.environ | {"DATABASE_URL": server.url("postgres")})
        assert self.command("migrate", "--verbosity", "0") == 0
        self.execute(FILL, [USERS])

    def command(self, *argv: str) -> int:
        """Run a command to its end and return its exit code."""
        return run_manage(*argv, env=self.environment).code

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "manage.py", *argv], cwd=PROJECT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def execute(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Execute SQL and return its rows."""
        with closing(
            psycopg2.connect(self.server.url("postgres"), options="-c default_transaction_read_only=off")
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return list(cursor.fetchall()) if cursor.description else []

    def until_at_work(self, kind: str) -> None:
        """Wait until a run of this kind has done some batches."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ((done,),) = self.execute(
                "SELECT COUNT(*) FROM mana_migration_migrationbatch b JOIN mana_migration_migrationrun r "
                "ON r.id = b.run_id WHERE r.kind = %s AND b.status = 'done'",
                [kind],
            )
            if done > 3:
                return
            time.sleep(0.05)
        pytest.fail("the run does not begin")


@pytest.fixture
def site(own_postgres: Postgres) -> Site:
    """Return a site with users to migrate."""
    return Site(own_postgres)


def stopped(mode: str) -> Callable[[Site], None]:
    """Return what stops the server for two seconds."""

    def outage(site: Site) -> None:
        site.server.stop(mode)
        time.sleep(2)
        site.server.start()

    return outage


def read_only(site: Site) -> None:
    """Let the server take no writes for two seconds, as while it fails over."""
    site.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
    )
    site.execute(end)
    time.sleep(2)
    site.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
    site.execute(end)


SLOW = ("--batch-size", "5", "--delay", "0.05", "--no-input", "--format", "json")


@pytest.mark.parametrize(
    "outage", [stopped("immediate"), stopped("fast"), read_only], ids=["immediate", "fast", "read-only"]
)
@pytest.mark.parametrize("kind", ["migration", "rollback"])
def test_an_outage_is_waited_for_and_is_no_failure(site: Site, outage: Callable[[Site], None], kind: str) -> None:
    command = ("migrate_users",) if kind == "migration" else ("rollback_migration", "--all")
    if kind == "rollback":
        assert site.command("migrate_users", "--no-input", "--delay", "0") == 0
    process = site.start(*command, "--workers", "2", *SLOW)
    site.until_at_work(kind)
    outage(site)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    done = json.loads(out)
    assert (done["status"], done["users"]["failed"]) == ("completed", 0)
    handled = "SELECT COUNT(*) FROM wishes_wallet WHERE (migrated_at IS NULL) = %s"
    assert site.execute(handled, [kind == "rollback"]) == [(USERS,)]
    assert site.command("validate_migration") == 0


def test_ctrl_c_while_the_database_is_lost_ends_with_130_and_the_run_is_resumed(site: Site) -> None:
    process = site.start("migrate_users", "--workers", "2", *SLOW)
    site.until_at_work("migration")
    site.server.stop("immediate")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    site.server.start()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert site.command("migrate_users", *SLOW) == 0
