"""psycopg 3 in the place of psycopg2: an environment of its own, built once from requirements-psycopg3.txt.

``scripts/test_matrix.py`` runs the whole suite on it; here is one way through everything that differs: COPY, messages
of several statements, a legacy database, JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import database_url
from tests.support.databases import address, own_database
from tests.support.legacy import legacy_database

PROJECT = Path(__file__).resolve().parent.parent
LOCK = PROJECT / "requirements-psycopg3.txt"

pytestmark = [pytest.mark.postgres, pytest.mark.own_database, pytest.mark.slow]

Manage = Callable[..., Any]


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the interpreter of an environment that has psycopg 3 and no psycopg2."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = PROJECT / "var" / f"psycopg3-{sys.version_info[0]}.{sys.version_info[1]}-{digest}"
    inside = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        for step in (
            [sys.executable, "-m", "venv", str(folder)],
            [*pip, "--require-hashes", "--no-deps", "-r", str(LOCK)],
        ):
            ended = subprocess.run(step, capture_output=True, text=True, check=False)
            if ended.returncode:
                last = (ended.stderr or ended.stdout).strip().splitlines()[-1:]
                pytest.skip(f"the environment with psycopg 3 cannot be built: {' '.join(last)}")
        done.touch()
    return inside


@pytest.fixture
def manage(python: Path, tmp_path: Path, django_db_blocker: Any) -> Iterator[Manage]:
    """Return a function that runs a command of this project with psycopg 3 on an empty database, and its output."""
    with own_database(tmp_path) as settings:

        def run(*argv: str, code: int = 0) -> Any:
            environment = os.environ | {"DATABASE_URL": address(settings), "MANA_MIGRATION_LOG_DIR": str(tmp_path)}
            ended = subprocess.run(
                [str(python), "manage.py", *argv],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ended.returncode == code, f"{argv}: {ended.stdout}{ended.stderr}"
            return json.loads(ended.stdout) if "json" in argv else ended.stdout

        yield run


@pytest.mark.django_db
def test_import_migration_report_and_rollback_work_with_psycopg_3(manage: Manage, tmp_path: Path) -> None:
    driver = "from mana_migration.engine import driver; print(driver.VERSION)"
    assert manage("shell", "--no-imports", "-c", driver).strip() == "3"
    manage("migrate", "--verbosity", "0")
    with legacy_database(database_url(), users=1_500) as legacy:
        assert manage("import_balances", legacy, "--format", "json", "--no-input")["imported"] == 1_500
    # a batch at a time at first, then several in a message
    done = manage("migrate_users", "--batch-size", "10", "--delay", "0", "--no-input", "--format", "json")
    assert done["users"] == {"selected": 1_500, "migrated": 1_500, "rolled_back": 0, "skipped": 0, "failed": 0}
    assert manage("validate_migration", "--post-migration", "--format", "json")["ok"]
    report = tmp_path / "report.csv"
    manage("monitor_migration", "--export", "csv", "--output", str(report))
    assert report.read_text().count("\n") > 1_500
    back = manage("rollback_migration", "--all", "--batch-size", "10", "--no-input", "--format", "json")
    assert back["users"]["rolled_back"] == 1_500
    assert manage("migrate_users", "--workers", "2", "--no-input", "--format", "json")["users"]["migrated"] == 1_500
    assert manage("validate_migration", "--format", "json")["ok"]
