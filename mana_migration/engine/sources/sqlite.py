"""A legacy SQLite file, opened read-only and read in one snapshot, a few thousand rows at a time."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from mana_migration.domain.legacy import Typing
from mana_migration.engine.sources.base import LegacySource, SourceOptions, SourceRow, as_text, positions
from mana_migration.engine.sources.databases import CHUNK, table_name
from mana_migration.engine.sources.input import reading
from mana_migration.errors import SourceError


class SqliteSource(LegacySource):
    """A table or view of a SQLite file."""

    kind = "sqlite"
    typing = Typing.FLOATS

    def __init__(self, address: str, options: SourceOptions, connection: sqlite3.Connection | None = None) -> None:
        super().__init__()
        parts = table_name(options)
        self._address, self._owner = address, connection is None
        path = _path(address)
        self._path = path
        with reading(path):
            _check(path)
        self._connection = connection or _connect(path)
        try:
            self._open(parts, options)
        except BaseException:
            self.close()
            raise

    def _open(self, parts: list[str], options: SourceOptions) -> None:
        relation = ".".join(_quoted(part) for part in parts)
        where = f"{self._path}, table {'.'.join(parts)}"
        try:
            if self._owner:
                self._connection.execute("BEGIN")
            found = [column[0] for column in self._connection.execute(f"SELECT * FROM {relation} LIMIT 0").description]
        except sqlite3.Error as error:
            if "no such table" in str(error) or "unknown database" in str(error):
                raise SourceError(f"{where}: no such table; name it with --table") from None
            raise SourceError(f"{where} cannot be read: {error}") from None
        columns = options.columns
        positions(found, columns, where=where)
        self._header = list(columns.values())
        names = ", ".join(_quoted(columns[name]) for name in columns)
        self._query = f"SELECT {names} FROM {relation} ORDER BY {_quoted(next(iter(columns.values())))}"

    def rows(self) -> Iterator[SourceRow]:
        """Yield (None, values) in the order of the ids."""
        count = 0
        try:
            cursor = self._connection.execute(self._query)
            while chunk := cursor.fetchmany(CHUNK):
                for values in chunk:
                    self._latest = values
                    yield None, values
                count += len(chunk)
        except sqlite3.Error as error:
            raise SourceError(f"{self._path}: unreadable after row {count:,} ({error}); check the file") from None

    @property
    def header(self) -> Sequence[str]:
        """Return the names of the columns that are read."""
        return self._header

    def original(self) -> list[list[str]]:
        """Return the latest row."""
        return [[as_text(value) for value in self._latest]]

    def beside(self, options: SourceOptions) -> SqliteSource:
        """Open another table of the same file, in the same snapshot."""
        return SqliteSource(self._address, options, self._connection)

    def close(self) -> None:
        """Close the connection, if it is this source's own."""
        if self._owner:
            self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, isolation_level=None, timeout=20
        )
    except sqlite3.Error as error:
        raise SourceError(f"{path} cannot be opened: {error}") from None
    # text that is not UTF-8 makes its row a bad one, not the file
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def _check(path: Path) -> None:
    """Refuse what is no readable file with anything in it, without opening it.

    It may be the site's own database, and to close any descriptor of it drops all locks that this process has on it.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError
    if not os.access(path, os.R_OK):
        raise PermissionError
    if not found.st_size:
        raise SourceError(f"{path} is empty; give the file of the legacy database")


def _path(address: str) -> Path:
    """Return the file that ``sqlite:///FILE`` names, relative to this folder unless it starts with a slash."""
    rest = address.partition("://")[2].partition("?")[0]
    name = rest.removeprefix("/")
    if rest == name or name in ("", ":memory:"):
        raise SourceError("the address names no SQLite file; give sqlite:///FILE, or sqlite:////FOLDER/FILE")
    return Path(name) if Path(name).exists() else Path(unquote(name))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
