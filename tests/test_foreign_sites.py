"""Both apps in sites that are not ours, from the built wheel, each in an environment of its own.

The sites are in tests/foreign_sites; everything is done by processes of theirs, as docs/install-into-your-site.md says.
"shop" is run on PostgreSQL with the packages of these tests; ``--long`` runs all three with packages of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection

from tests.support import packages
from tests.support.databases import own_database

SITES = packages.PROJECT / "tests" / "foreign_sites"

pytestmark = pytest.mark.own_database

Run = Callable[..., subprocess.CompletedProcess[str]]

NEW_PYTHON = sys.version_info >= (3, 12)
NEWEST, MIDDLE = ("django>=6.1", "django>=6.0,<6.1") if NEW_PYTHON else ("django>=5.2,<6", "django>=5.2,<6")

#: The sites, and what each has installed beside the wheel: nothing is the environment of these tests.
ENVIRONMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "shop": ("shop", ()),
    "shop-psycopg3": ("shop", ("django>=5.2,<6", "psycopg[binary]>=3.2")),
    "verein": ("verein", (NEWEST, "psycopg[binary]>=3.2")),
    "bare": ("bare", (MIDDLE, "psycopg2-binary>=2.9.10")),
}
# The tutorial does on SQLite what "shop" does on PostgreSQL.
QUICK = pytest.param("shop", marks=pytest.mark.postgres)
ALL = [QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in ENVIRONMENTS if name != "shop")]


@pytest.fixture(params=ALL)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a program of the site on a database of its own."""
    site, requirements = ENVIRONMENTS[request.param]
    python = packages.environment_with(*requirements) if requirements else packages.environment()
    with own_database(tmp_path) as database:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "MANA"))}
        environment |= {
            "SITE_DATABASE": json.dumps(database),
            "SITE_FOLDER": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": f"{site}.settings",
        }

        def program(*argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [python, *argv], cwd=SITES, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == code, f"{argv} ended with {done.returncode}: {done.stdout}\n{done.stderr}"
            return done

        django, driver, path = program("exercise.py", "versions").stdout.split(" ", 2)
        assert Path(path.strip()).parent.name == "site-packages", "this is not what was installed"
        if requirements and connection.vendor == "postgresql":
            assert driver == ("psycopg" if "psycopg[binary]>=3.2" in requirements else "psycopg2")
        assert not NEW_PYTHON or requirements[:1] != (NEWEST,) or tuple(map(int, django.split(".")[:2])) >= (6, 1)
        yield program


def test_a_site_is_imported_migrated_reported_shown_and_rolled_back(run: Run, tmp_path: Path) -> None:
    def told(*argv: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(run("manage.py", *argv, "--format", "json").stdout)
        return found

    run("exercise.py", "make_schema")
    run("manage.py", "makemigrations", "--check", "--dry-run")
    run("manage.py", "migrate", "--verbosity", "0")
    checked = run("manage.py", "check", "--database", "default", "--fail-level", "WARNING")
    assert "no issues" in checked.stdout
    run("exercise.py", "open_site")
    run("manage.py", "import_balances", str(tmp_path / "export.csv"), "--no-input")

    users = {"selected": 30, "migrated": 30, "rolled_back": 0, "skipped": 0, "failed": 0}
    dry = told("migrate_users", "--dry-run")
    assert dry["users"] == users
    done = told("migrate_users", "--batch-size", "7")
    assert done["users"] == users
    worth = sum(range(10)) * 10 + sum(n % 3 for n in range(10)) * 100 + (5 + 20) * 1000 + sum(range(10)) * 10 + 10_000
    assert done["mana"] == dry["mana"] == worth
    run("exercise.py", "after_migration")
    assert told("validate_migration", "--post-migration")["ok"]
    for kind in ("json", "csv", "html"):
        run(
            "manage.py", "monitor_migration", "--report", "--export", kind, "--output", str(tmp_path / f"report.{kind}")
        )
        assert (tmp_path / f"report.{kind}").stat().st_size > 1000
    assert (tmp_path / "logs").is_dir()  # beside the site's BASE_DIR, not where the command was given
    run("exercise.py", "pages")

    one = told("rollback_migration", "--user-id", "member11@shop.example")
    assert one["users"]["rolled_back"] == 1  # type: ignore[index]
    run("exercise.py", "after_one_rollback")
    rest = told("rollback_migration", "--all", "--no-input")
    assert rest["users"]["rolled_back"] == 29  # type: ignore[index]
    run("exercise.py", "after_rollback")
    run("manage.py", "migrate_users", "--no-input")
    run("manage.py", "validate_migration", "--post-migration")


def test_a_sites_own_tests_run(run: Run) -> None:
    done = run("manage.py", "test", "tests_of_sites", "--no-input")
    assert "Ran 3 tests" in done.stderr
