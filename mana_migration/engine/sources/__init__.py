"""Readers of the legacy balances: each streams raw rows, holding a few thousand at most in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from mana_migration.engine.sources.base import LegacySource, SourceOptions
from mana_migration.engine.sources.csv_file import CsvSource
from mana_migration.engine.sources.input import Input, open_input
from mana_migration.engine.sources.json_file import JsonLinesSource, JsonSource
from mana_migration.engine.sources.ods_file import OdsSource
from mana_migration.engine.sources.postgresql import PostgresqlSource
from mana_migration.engine.sources.sqlite import SqliteSource
from mana_migration.engine.sources.xls_file import XlsSource
from mana_migration.engine.sources.xlsx_file import XlsxSource
from mana_migration.engine.sources.yaml_file import YamlSource
from mana_migration.errors import SourceError

_FileReader: TypeAlias = Callable[[Input, SourceOptions], LegacySource]

_FILES: dict[str, _FileReader] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".json": JsonSource,
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".xlsx": XlsxSource,
    ".ods": OdsSource,
    ".xls": XlsSource,
    ".yaml": YamlSource,
    ".yml": YamlSource,
}
_DATABASES: dict[str, type[PostgresqlSource | SqliteSource]] = {
    "postgres": PostgresqlSource,
    "postgresql": PostgresqlSource,
    "sqlite": SqliteSource,
}

#: Endings of formats that resemble those that are read.
_OTHERS = {
    ".xlsm": "save it as .xlsx",
    ".xlsb": "save it as .xlsx",
    ".txt": "rename it to .csv or .tsv if it is a table",
    ".sql": "load it into a database and give its address",
    ".parquet": "export it as CSV",
    **dict.fromkeys((".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz"), "unpack it"),
    ".sqlite3": "give it as sqlite:///FILE",
    ".sqlite": "give it as sqlite:///FILE",
    ".db": "give it as sqlite:///FILE",
}

__all__ = ["LegacySource", "SourceOptions", "open_ledger", "open_source"]


def open_source(
    address: str,
    *,
    columns: Mapping[str, str],
    table: str | None = None,
    sheet: str | None = None,
    backslash: str | None = None,
) -> LegacySource:
    """Open a file or a database and find its columns; the caller closes it.

    ``address``: a path, ``-`` for standard input, or a database's URL (``postgres://``, ``postgresql://``,
    ``sqlite:///``), which no message ever shows.  The rest is explained by ``SourceOptions``.

    Raises:
        SourceError: it is not there, cannot be read, or lacks a column.
    """
    options = SourceOptions(columns=columns, table=table, sheet=sheet, backslash=backslash)
    scheme, separator, _ = address.partition("://")
    if separator and "/" not in scheme:
        database = _DATABASES.get(scheme.lower())
        if database is None:
            raise SourceError(
                f"{scheme.lower()}:// addresses are not read; export it as CSV and give the file, "
                "or give postgres://USER@HOST/NAME or sqlite:///FILE"
            )
        return database(address, options)
    file = open_input(address)
    try:
        return _reader(file)(file, options)
    except BaseException:
        file.close()
        raise


def open_ledger(name: str, source: LegacySource, *, columns: Mapping[str, str]) -> LegacySource:
    """Open the old ledger: a table of the database that the source is, or a file.

    Raises:
        SourceError: it is not there, cannot be read, or lacks a column.
    """
    is_file = "://" in name or name == "-" or Path(name.removesuffix(".gz")).suffix.lower() in (*_FILES, ".zip")
    if source.kind in ("postgresql", "sqlite") and not is_file:
        return source.beside(SourceOptions(columns=columns, table=name))
    return open_source(name, columns=columns)


def _reader(file: Input) -> _FileReader:
    kind = _FILES.get(file.suffix)
    if kind is None:
        cure = _OTHERS.get(file.suffix, f"give a file that ends in {', '.join(_FILES)}")
        raise SourceError(
            f"{file.name}: files of this kind are not read; {cure}, or give a postgres:// or sqlite:/// address"
        )
    return kind
