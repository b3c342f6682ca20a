"""What the readers of databases share."""

from __future__ import annotations

from typing import Final

from mana_migration.engine.sources.base import SourceOptions
from mana_migration.errors import SourceError

#: Rows fetched at a time.
CHUNK: Final = 5_000

#: The table of balances where no other is named.
USUAL_TABLE: Final = "users"


def table_name(options: SourceOptions) -> list[str]:
    """Return the parts of ``table`` or ``schema.table``.

    Raises:
        SourceError: it is not such a name, or a sheet is asked for.
    """
    if options.sheet is not None:
        raise SourceError("a database has no sheets; leave out --sheet")
    table = options.table
    parts = (table or USUAL_TABLE).split(".")
    if len(parts) > 2 or not all(parts) or any("\0" in part for part in parts):
        raise SourceError(f"--table {table!r}: give TABLE or SCHEMA.TABLE")
    return parts
