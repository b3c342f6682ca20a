"""Databases by the hundred: each trial gets a fresh copy of a scene, and the copy is thrown away."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.databases import how_to_copy
from tests.support.driver import psycopg
from tests.support.memory import folder_in_memory
from tests.torture.zygote import ChildError, Ended, Zygote

#: Bytes of a lab in memory: SIGKILL does not lose what was written there, and thousands of trials write a lot.
ROOM = 500_000_000

SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "DEBUG": "false",
    "SECRET_KEY": "for-tests-only-" * 5,
    "ALLOWED_HOSTS": "localhost",
    "HTTPS_ONLY": "false",
    "COLLECTED_STATIC": "false",
    "CONN_MAX_AGE": "0",
    "TIME_ZONE": "UTC",
}


class Lab:
    """A zygote and the databases that its children work on.

    ``url``: None is SQLite, else a PostgreSQL server's.  ``crashes``: the server itself will be stopped in mid-work.
    """

    def __init__(self, url: str | None, *, crashes: bool = False) -> None:
        self.crashes = crashes
        self.vendor = "postgresql" if url else "sqlite"
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir=folder_in_memory(ROOM)))
        self.url = url
        environment = {
            **SETTINGS,
            "ENV_FILE": str(self.folder / "no.env"),
            "DATABASE_URL": url or f"sqlite:///{self.folder / 'unused.sqlite3'}",
            "MANA_MIGRATION_LOG_DIR": str(self.folder / "logs"),
            "MANA_MIGRATION_REPORT_DIR": str(self.folder / "reports"),
        }
        self.zygote = Zygote(environment)
        self._numbers = itertools.count(1)
        self._prefix = f"lab_{os.getpid()}_{self.folder.name[4:].lower()}"
        self._made: list[str] = []
        self._schema: str | None = None
        self._strategy: str | None = None

    def __enter__(self) -> Self:
        """Return the lab."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clean up."""
        self.close()

    def close(self) -> None:
        """End the zygote and remove every database."""
        self.zygote.close()
        for name in list(self._made):
            self.drop(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Databases

    def scene(self, seeds: Sequence[str], commands: Sequence[Sequence[str]] = ()) -> "Scene":
        """Make a database filled by these seeds, between which the commands are run: seed, command, seed, ..."""
        database = self.empty()
        remembered: dict[str, Any] = {}
        for seed, argv in itertools.zip_longest(seeds, commands):
            if seed is not None:
                remembered |= self.zygote.call("tests.torture.children:seed", database=database, name=seed)
            if argv is not None:
                result = self.zygote.call("tests.torture.children:command", database=database, argv=list(argv))
                if result["code"] not in (0, 3):
                    raise ChildError(f"{argv} ended with {result['code']}")
        return Scene(self, database, remembered)

    def empty(self) -> str:
        """Make a database with the schema and nothing in it; return its name."""
        if self._schema is None:
            self._schema = self._create(None)
            self.zygote.call("tests.torture.children:create_schema", database=self._schema)
        return self._create(self._schema)

    def _create(self, template: str | None) -> str:
        number = next(self._numbers)
        if self.vendor == "sqlite":
            name = str(self.folder / f"{number}.sqlite3")
            if template is not None:
                shutil.copyfile(template, name)
        else:
            name = f"{self._prefix}_{number}"
            self._administrate(
                f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"{self._how()}' if template else "")
            )
            if self.crashes:
                # A copied sequence is logged as it stands, up to 32 values behind what its origin had logged, and the
                # values handed out before the next checkpoint would be forgotten.
                self._administrate("CHECKPOINT")
        self._made.append(name)
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever still uses it."""
        self._made.remove(name)
        if self.vendor == "sqlite":
            for suffix in ("", "-wal", "-shm"):
                Path(name + suffix).unlink(missing_ok=True)
        else:
            self._administrate(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _how(self) -> str:
        if self._strategy is None:
            connection = psycopg.connect(self.url)
            self._strategy = how_to_copy(connection.server_version)
            connection.close()
        return self._strategy

    def _administrate(self, sql: str) -> None:
        connection = psycopg.connect(self.url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
        finally:
            connection.close()


class Scene:
    """A database that is copied for each trial."""

    def __init__(self, lab: Lab, database: str, remembered: dict[str, Any]) -> None:
        self.lab, self.database, self.remembered = lab, database, remembered

    @contextmanager
    def copy(self) -> Iterator["Copy"]:
        """Return a copy of the database; it is dropped at the end of the block."""
        name = self.lab._create(self.database)
        try:
            yield Copy(self.lab, name, self.remembered)
        finally:
            self.lab.drop(name)


class Copy:
    """One trial's database."""

    def __init__(self, lab: Lab, name: str, remembered: dict[str, Any]) -> None:
        self.lab, self.name = lab, name
        self._orphans = remembered.get("orphans", [])

    def run(self, argv: Sequence[str], **plan: Any) -> Ended:
        """Run a command to its end; ``plan``: what befalls it, and how long it may take."""
        return self.start(argv, **plan).wait()

    def start(self, argv: Sequence[str], **plan: Any) -> Any:
        """Start a command and return its process."""
        return self.lab.zygote.start("tests.torture.children:command", database=self.name, argv=list(argv), **plan)

    def inspect(self) -> dict[str, Any]:
        """Return what there is to see now."""
        seen: dict[str, Any] = self.lab.zygote.call(
            "tests.torture.books:inspect", database=self.name, orphans=self._orphans
        )
        return seen
