"""Readers of the legacy balances: each streams raw rows, holding a few thousand at most in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mana_migration.engine.sources.base import LegacySource
from mana_migration.engine.sources.csv_file import CsvSource
from mana_migration.engine.sources.json_file import JsonSource
from mana_migration.engine.sources.postgresql import PostgresqlSource
from mana_migration.engine.sources.sqlite import SqliteSource
from mana_migration.engine.sources.xlsx_file import XlsxSource
from mana_migration.errors import SourceError

_FILES: dict[str, type[CsvSource | JsonSource | XlsxSource]] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".json": JsonSource,
    ".jsonl": JsonSource,
    ".ndjson": JsonSource,
    ".xlsx": XlsxSource,
}
_DATABASES: dict[str, type[PostgresqlSource | SqliteSource]] = {
    "postgres": PostgresqlSource,
    "postgresql": PostgresqlSource,
    "sqlite": SqliteSource,
}

__all__ = ["LegacySource", "open_source"]


def open_source(address: str, *, table: str | None, columns: Mapping[str, str]) -> LegacySource:
    """Open a file or a database and find its columns; the caller closes it.

    ``address``: a path that ends in .csv, .tsv, .json, .jsonl, .ndjson or .xlsx, or a database's URL
    (``postgres://``, ``postgresql://``, ``sqlite:///``), which no message ever shows.

    Raises:
        SourceError: it is not there, cannot be read, or lacks a column.
    """
    scheme, separator, _ = address.partition("://")
    if separator:
        database = _DATABASES.get(scheme.lower())
        if database is None:
            raise SourceError("this kind of database cannot be read; give postgres://USER@HOST/NAME or sqlite:///FILE")
        return database(address, table=table, columns=columns)
    path = Path(address)
    kind = _FILES.get(path.suffix.lower())
    if kind is None:
        raise SourceError(
            f"{path.name or address}: what is in it cannot be told from its name; "
            f"give a file that ends in {', '.join(_FILES)}, or a postgres:// or sqlite:/// address"
        )
    return kind(path, table=table, columns=columns)
