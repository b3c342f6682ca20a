"""Both apps in somebody else's site: another user model with UUID keys, another layout, no setting of ours.

The site is tests/foreign_site; everything is done by processes of its own, as docs/install-into-your-site.md says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.databases import own_database

PROJECT = Path(__file__).resolve().parent.parent
SITE = PROJECT / "tests" / "foreign_site"

#: What the package is made of; built from a copy, because a build leaves its traces.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "wishes", "mana_migration")

pytestmark = pytest.mark.own_database

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the package was installed, without anything else of this project."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run([*pip, *offline], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def run(tmp_path: Path, installed: Path) -> Iterator[Run]:
    """Return a function that runs a program of the site on a database of its own."""
    with own_database(tmp_path) as database:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "MANA"))}
        environment |= {
            "SHOP_DATABASE": json.dumps(database),
            "SHOP_FOLDER": str(tmp_path),
            "PYTHONPATH": str(installed),
        }

        def program(*argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [sys.executable, *argv], cwd=SITE, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == code, f"{argv} ended with {done.returncode}: {done.stdout}\n{done.stderr}"
            return done

        yield program


def test_a_site_with_its_own_users_is_migrated_and_rolled_back(run: Run) -> None:
    run("manage.py", "check")
    run("manage.py", "makemigrations", "--check", "--dry-run")
    run("manage.py", "migrate", "--verbosity", "0")
    run("exercise.py", "open_shop")

    told = json.loads(run("manage.py", "migrate_users", "--dry-run", "--format", "json").stdout)
    assert told["users"]["migrated"] == 30
    done = json.loads(run("manage.py", "migrate_users", "--batch-size", "7", "--format", "json").stdout)
    assert done["users"] == {"selected": 30, "migrated": 30, "rolled_back": 0, "skipped": 0, "failed": 0}
    worth = sum(range(20)) * 10 + sum(n % 3 for n in range(20)) * 100 + (10 + 20) * 1000
    assert done["mana"] == told["mana"] == worth
    run("exercise.py", "after_migration")
    report = json.loads(run("manage.py", "validate_migration", "--post-migration", "--format", "json").stdout)
    assert report["ok"]
    run("exercise.py", "pages")

    one = run("manage.py", "rollback_migration", "--user-id", "member21@shop.example", "--format", "json")
    assert json.loads(one.stdout)["users"]["rolled_back"] == 1
    run("exercise.py", "after_one_rollback")
    everybody = run("manage.py", "rollback_migration", "--all", "--no-input", "--format", "json")
    assert json.loads(everybody.stdout)["users"]["rolled_back"] == 29
    run("exercise.py", "after_rollback")
    run("manage.py", "migrate_users", "--no-input")
    run("manage.py", "validate_migration", "--post-migration")
