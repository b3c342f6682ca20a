"""Where benchmarks take place: a throw-away server, a database full of users, copies of it with the same rules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg2
import psycopg2.extensions

from benchmarks.rules import refuse_weakened, rules_in_force
from tests.support.postgres import Postgres

PROJECT: Final = Path(__file__).resolve().parent.parent

#: What a small server of a site would have; everything else as PostgreSQL comes.
SETTINGS: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}

SITE: Final = "site"


class BenchmarkError(Exception):
    """A measurement would say nothing: something went wrong that must not."""


def expect(truth: bool, otherwise: str) -> None:
    """Stop the benchmark unless something is true; a figure of work that was not done is worth nothing."""
    if not truth:
        raise BenchmarkError(otherwise)


class Stage:
    """A server with one database that Django calls ``default``, and copies of it for what it is compared with.

    ``rules`` are those that ``migrate`` made; no database is handed out that enforces less.
    """

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable
        self.server = Postgres(durable=durable, in_memory=not durable, settings=SETTINGS)
        self.rules: frozenset[str] = frozenset()

    def __enter__(self) -> Stage:
        self.server.start()
        self.admin(f"CREATE DATABASE {SITE}")
        os.environ |= {
            "DATABASE_URL": self.server.url(SITE),
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "LOG_LEVEL": "ERROR",
        }
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        from mana_migration import guards
        from wishes import guards as wishes_guards

        call_command("migrate", verbosity=0, skip_checks=True)
        lacking = [*wishes_guards.faults(connection), *guards.faults(connection)]
        expect(not lacking, f"migrate did not install {', '.join(lacking)}")
        with closing(self.connect()) as site:
            self.rules = rules_in_force(site)
        return self

    def __exit__(self, *error: object) -> None:
        from django.db import connections

        connections.close_all()
        self.server.close()

    @property
    def conditions(self) -> str:
        """Say what the figures were measured on."""
        kind = "durable (fsync and synchronous_commit on)" if self.durable else "volatile (fsync off)"
        return (
            f"PostgreSQL {self.server.version}, {kind}, shared_buffers {SETTINGS['shared_buffers']}, "
            f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}"
        )

    def admin(self, sql: str) -> None:
        """Execute one statement outside any transaction."""
        with closing(psycopg2.connect(self.server.url("postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)

    def connect(self, database: str = SITE) -> psycopg2.extensions.connection:
        """Open a session as a script would, committing each message; refuse one that enforces less than it must."""
        connection = psycopg2.connect(self.server.url(database))
        connection.autocommit = True
        if self.rules:
            refuse_weakened(self.rules, rules_in_force(connection), database)
        return connection

    def fill(self, users: int) -> None:
        """Put so many users with wishes into the empty site, in the order of their keys."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email, is_staff, "
                "is_active, date_joined) SELECT '!', false, 'user-' || g, '', '', '', false, true, now() "
                "FROM generate_series(1, %s) g",
                [users],
            )
            cursor.execute(
                "INSERT INTO wishes_wallet (user_id, green, blue, red, mana, updated_at) "
                "SELECT id, (id::bigint * 7919) % 97, id % 5, id % 3, 0, now() FROM auth_user ORDER BY id"
            )
            cursor.execute("VACUUM ANALYZE")
        from django.db import connection as ours

        refuse_weakened(self.rules, rules_in_force(ours), SITE)

    def empty(self) -> None:
        """Make the site new: no users, no runs."""
        from django.db import connections

        connections.close_all()
        tables = (
            "wishes_manaentry, wishes_wishentry, wishes_wallet, auth_user, mana_migration_migrationrun, "
            "mana_migration_usermigration"
        )
        with closing(psycopg2.connect(self.server.url(SITE))) as connection, connection, connection.cursor() as cursor:
            # the guards refuse this, as they should; the setting ends with the transaction
            cursor.execute(f"SET LOCAL session_replication_role = replica; TRUNCATE {tables} RESTART IDENTITY CASCADE")

    @contextmanager
    def copy(self, name: str) -> Iterator[psycopg2.extensions.connection]:
        """Copy the site into another database for a block and return a session of it."""
        from django.db import connections

        connections.close_all()
        self.admin(f"DROP DATABASE IF EXISTS {name}")
        self.admin(f"CREATE DATABASE {name} TEMPLATE {SITE}")
        connection = self.connect(name)
        try:
            yield connection
        finally:
            connection.close()
            connections.close_all()
            self.admin(f"DROP DATABASE {name}")

    @contextmanager
    def copied_servers(self, count: int) -> Iterator[list[Postgres]]:
        """Start so many servers with the site's data for a block."""
        from django.db import connections

        connections.close_all()
        self.server.stop()
        try:
            with ExitStack() as stack:
                copies = [
                    Postgres(durable=self.durable, in_memory=not self.durable, settings=SETTINGS, copy_of=self.server)
                    for _ in range(count)
                ]
                yield [stack.enter_context(each) for each in copies]
        finally:
            self.server.start()


def one(connection: psycopg2.extensions.connection, sql: str, *values: Any) -> Any:
    """Return the one value that a query answers."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        row = cursor.fetchone()
    expect(row is not None, f"no answer to {sql}")
    return row[0] if row else None
