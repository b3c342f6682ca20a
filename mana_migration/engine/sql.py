"""The statements that a run sends, as ``--show-sql`` prints them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and what it is for; its parameters are written ``%(name)s``."""

    purpose: str
    sql: str

    def printed(self, values: Mapping[str, str]) -> str:
        """Return the statement below its purpose, with SQL in the place of each parameter."""
        return f"-- {self.purpose}\n{self.sql % values};"


def literal(value: Any) -> str:
    """Return a value as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict | list):
        value = json.dumps(value)
    return "'" + str(value).replace("'", "''") + "'"


def insert(table: str, values: Mapping[str, str]) -> str:
    """Return the INSERT of one row, given as SQL by column."""
    return f"INSERT INTO {table} (\n    {', '.join(values)}\n)\nVALUES (\n    {', '.join(values.values())}\n)"


def script(header: Sequence[str], parts: Sequence[str]) -> str:
    """Return statements as a script that begins with lines of comment."""
    return "\n".join(f"-- {line}" for line in header) + "\n\n" + "\n\n".join(parts) + "\n"
