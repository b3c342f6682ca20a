"""The site's own SQLite file as a source: this process keeps its locks on it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from mana_migration.engine.sources import open_source
from mana_migration.errors import SourceError

COLUMNS = {name: name for name in ("id", "username", "green", "blue", "red")}

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]


def is_kept(log: Path, name: str) -> bool:
    """Say whether another process, which is the last to close the file as far as it can see, leaves the log alone."""
    before = log.stat().st_ino
    other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM legacy'); c.close()"
    subprocess.run([sys.executable, "-c", other, name], check=True)
    return log.exists() and log.stat().st_ino == before


@pytest.mark.parametrize("part", ["", "-wal", "-shm"])
@pytest.mark.parametrize("ending", ["", ".csv", ".db", ".gz", ".zip", ".xlsx"])
def test_the_file_as_a_path_is_refused_before_it_is_opened(tmp_path: Path, part: str, ending: str) -> None:
    name = connection.settings_dict["NAME"]
    legacy = sqlite3.connect(name)
    try:
        legacy.execute("CREATE TABLE legacy (id INTEGER)")
        link = tmp_path / f"link{ending}"
        link.symlink_to(f"{name}{part}")
        with pytest.raises(SourceError, match=r"is the database of this site; .* give sqlite:///"):
            open_source(str(link), columns=COLUMNS)
        assert is_kept(Path(f"{name}-wal"), name)
    finally:
        legacy.execute("DROP TABLE IF EXISTS legacy")
        legacy.close()


def test_the_locks_of_this_process_outlive_the_reading_of_its_own_file() -> None:
    name = connection.settings_dict["NAME"]
    legacy = sqlite3.connect(name)
    try:
        legacy.executescript(
            "CREATE TABLE legacy (id INTEGER, username TEXT, green INTEGER, blue INTEGER, red INTEGER);"
            "INSERT INTO legacy VALUES (1, 'ann', 1, 2, 3)"
        )
        with open_source(f"sqlite:///{name}", columns=COLUMNS, table="legacy") as source:
            assert len(list(source.rows())) == 1
        assert is_kept(Path(f"{name}-wal"), name)
    finally:
        legacy.execute("DROP TABLE IF EXISTS legacy")
        legacy.close()
