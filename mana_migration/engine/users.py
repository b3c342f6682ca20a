"""Users' primary keys as batches keep them: text that any type of key survives."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.contrib.auth import get_user_model
from django.db.backends.base.base import BaseDatabaseWrapper


@cache
def _key_field() -> Any:
    return get_user_model()._meta.pk


def to_text(key: Any) -> str:
    """Return a user's primary key as the text that a batch keeps."""
    return str(key)


def from_text(text: str) -> Any:
    """Return the Python primary key of a user from the text that a batch keeps."""
    return _key_field().to_python(text)


def to_sql(connection: BaseDatabaseWrapper, text: str) -> Any:
    """Return the parameter for SQL for a user's primary key kept as text."""
    field = _key_field()
    return field.get_db_prep_value(field.to_python(text), connection)


def from_sql(connection: BaseDatabaseWrapper, value: Any) -> Any:
    """Return the Python primary key for a value read with raw SQL (SQLite keeps UUIDs as hex text)."""
    return _key_field().to_python(value)


def key_sql(vendor: str, column: str) -> str:
    """Return the SQL of a user's key as canonical text, for references and stable hashes."""
    return f"CAST({column} AS text)"
