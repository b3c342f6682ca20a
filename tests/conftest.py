"""The suite runs on SQLite ("pytest") and on PostgreSQL ("pytest --db postgres"); "make test" runs both.

PostgreSQL is a throw-away server that this file starts (see tests/support/postgres.py), or the one that
TEST_DATABASE_URL names, whose user must be a superuser. Nothing here reads .env or writes into the project.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.memory import folder_in_memory
from tests.support.postgres import Postgres

if TYPE_CHECKING:
    from tests.support.economy import Economy

pytest_plugins = ["tests.support.browser"]

#: What SQLite's files and logs may take. In memory a commit waits for no disk, as it must in production.
ROOM = 500_000_000

FOLDER = pytest.StashKey[str]()
SERVER = pytest.StashKey[Postgres]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    group = parser.getgroup("mana")
    group.addoption("--db", choices=("sqlite", "postgres"), default="sqlite", help="the database to test on")
    group.addoption("--random", action="store_true", help="draw new examples in property tests, not the same ones")
    group.addoption("--long", action="store_true", help="also run the tests marked long, which take many minutes")
    group.addoption("--fast", action="store_true", help="leave out the tests marked slow")
    group.addoption("--on-database", action="store_true", help="leave out what touches no database, or is marked once")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the database, then load the settings: before pytest-django looks for them, which it does last."""
    # A shell starts what goes on in the background with Ctrl-C ignored, and commands under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same examples on every run; --random draws others. How fast the machine is proves nothing.
    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
    hypothesis.settings.register_profile("random", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("random" if config.getoption("random") else "repeatable")
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers inherit the environment made here
        _make_environment(config)
    _load_settings()


def _make_environment(config: pytest.Config) -> None:
    folder = config.stash[FOLDER] = tempfile.mkdtemp(prefix="mana-tests-", dir=folder_in_memory(ROOM))
    for name in [name for name in os.environ if name.startswith(("DATABASE_URL", "MANA_MIGRATION_"))]:
        del os.environ[name]
    if config.getoption("db") == "sqlite":
        url = f"sqlite:///{folder}/unused.sqlite3"
    elif "TEST_DATABASE_URL" in os.environ:
        url = os.environ["TEST_DATABASE_URL"]
    else:
        server = config.stash[SERVER] = Postgres(in_memory=True)
        server.start()
        url = server.url()
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "ENV_FILE": f"{folder}/no.env",
        "DATABASE_URL": url,
        "DEBUG": "false",
        "SECRET_KEY": "for-tests-only-" * 5,
        "ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
        "HTTPS_ONLY": "false",
        "COLLECTED_STATIC": "false",
        "CONN_MAX_AGE": "0",
        "TIME_ZONE": "UTC",
        "MANA_MIGRATION_LOG_DIR": f"{folder}/logs",
        "MANA_MIGRATION_REPORT_DIR": f"{folder}/reports",
        "MANA_TESTS_FOLDER": folder,
    }


def _load_settings() -> None:
    from django.conf import settings

    # Argon2 is slow on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    default = settings.DATABASES["default"]
    if default["ENGINE"].endswith("sqlite3"):
        # A file, as in production: in memory there is no WAL, no second connection, no other process.
        default.setdefault("TEST", {})["NAME"] = str(Path(os.environ["MANA_TESTS_FOLDER"]) / "test.sqlite3")

    from tests.support.flush import allow_flush
    from tests.support.schema import remember_schema_migrations

    allow_flush()
    remember_schema_migrations()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the server and remove what the session left in its folder."""
    if SERVER in config.stash:
        config.stash[SERVER].close()
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> str:
    """Say which database it is; majors differ between machines."""
    if config.getoption("db") == "sqlite":
        import sqlite3

        return f"database: SQLite {sqlite3.sqlite_version}"
    if SERVER in config.stash:
        server = config.stash[SERVER]
        return f"database: PostgreSQL {server.version} ({server.bin})"
    from tests.support.driver import psycopg

    with psycopg.connect(os.environ["TEST_DATABASE_URL"]) as connection:
        return f"database: PostgreSQL {connection.info.server_version // 10_000} (TEST_DATABASE_URL)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what belongs to the other database, and what was asked to be left out."""
    unwanted = {"postgres" if config.getoption("db") == "sqlite" else "sqlite"}
    if config.getoption("fast"):
        unwanted.add("slow")
    if not config.getoption("long"):
        unwanted.add("long")
    only_on_database = config.getoption("on_database")
    dropped = [
        item
        for item in items
        if any(item.get_closest_marker(name) for name in unwanted) or (only_on_database and not _touches_database(item))
    ]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        left = set(items) - set(dropped)
        items[:] = [item for item in items if item in left]


def _touches_database(item: pytest.Item) -> bool:
    """Say whether the database that was chosen can make a difference; most others are refused any access to it."""
    if item.get_closest_marker("once"):
        return False
    if any(item.get_closest_marker(name) for name in ("django_db", "own_database", "postgres", "sqlite")):
        return True
    return bool({"db", "transactional_db"} & set(getattr(item, "fixturenames", ())))


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """Return an empty PostgreSQL server of the test's own, to crash and restart at will (mark the test postgres)."""
    with Postgres(durable=True) as server:
        yield server


@pytest.fixture
def economy(db: None) -> Iterator["Economy"]:
    """Return an economy in which everything has happened, in a database that refuses nothing any more."""
    from tests.support import economy
    from tests.support.violations import disarm, rearm

    first = economy.live_through() if economy.remembered is None else None
    if first is not None:
        economy.remember(first)
    disarm()
    yield first or economy.again()
    rearm()
