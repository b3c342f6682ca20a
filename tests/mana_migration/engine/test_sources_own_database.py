"""A legacy table that stands in the site's own SQLite file: reading it must not take this process's locks away."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from mana_migration.engine.sources import open_source

COLUMNS = {name: name for name in ("id", "username", "green", "blue", "red")}

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]


def test_the_locks_of_this_process_outlive_the_reading_of_its_own_file() -> None:
    name = connection.settings_dict["NAME"]
    legacy = sqlite3.connect(name)
    try:
        legacy.executescript(
            "CREATE TABLE legacy (id INTEGER, username TEXT, green INTEGER, blue INTEGER, red INTEGER);"
            "INSERT INTO legacy VALUES (1, 'ann', 1, 2, 3)"
        )
        log = Path(f"{name}-wal")
        before = log.stat().st_ino
        with open_source(f"sqlite:///{name}", columns=COLUMNS, table="legacy") as source:
            assert len(list(source.rows())) == 1
        # Another process that is the last to close the file, as far as it can see, removes the log.
        other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM legacy'); c.close()"
        subprocess.run([sys.executable, "-c", other, name], check=True)
        assert log.exists()
        assert log.stat().st_ino == before
    finally:
        legacy.execute("DROP TABLE IF EXISTS legacy")
        legacy.close()
