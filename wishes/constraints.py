"""What the tables themselves must refuse: the models' constraints, unique and foreign keys, as the database has them.

A table that was restored, copied or changed by hand may lack them while Django believes that its schema is complete.
What is expected is read from the models, so that it is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from django.db import models

from wishes.guards import canonical


@dataclass(slots=True)
class _Table:
    """What a table of the database refuses."""

    required: set[str] = field(default_factory=set)
    unique: list[frozenset[str]] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)
    definitions: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a table does not refuse although its model says so."""

    name: str
    model: type[models.Model]
    field: models.Field[Any, Any] | None = None
    constraint: models.BaseConstraint | None = None
    kind: str = ""


def lacking(connection: Any, tables: Iterable[type[models.Model]]) -> list[Lack]:
    """Return what the tables of these models lack, in the order of the models."""
    read = _read_postgresql if connection.vendor == "postgresql" else _read_sqlite
    with connection.cursor() as cursor:
        return [lack for model in tables for lack in _compare(connection, model, read(cursor, model._meta.db_table))]


def _compare(connection: Any, model: type[models.Model], table: _Table) -> Iterator[Lack]:
    name = model._meta.db_table
    for column in model._meta.local_concrete_fields:
        where = f"{name}.{column.column}"
        if not column.null and column.column not in table.required:
            yield Lack(f"NOT NULL of {where}", model, column, kind="required")
        if column.unique and not _is_unique(table, {str(column.column)}):
            yield Lack(f"unique key of {where}", model, column, kind="unique")
        if column.remote_field and column.db_constraint and column.column not in table.foreign:  # type: ignore[attr-defined]
            yield Lack(f"foreign key of {where}", model, column, kind="foreign")
    editor = connection.schema_editor(collect_sql=True)
    for constraint in model._meta.constraints:
        if not isinstance(constraint, models.UniqueConstraint):
            there = _holds(table.definitions, canonical(str(constraint.constraint_sql(model, editor))))
        elif constraint.fields and constraint.condition is None:
            there = _is_unique(table, {_column(model, one) for one in constraint.fields})
        else:
            there = _holds(table.definitions, canonical(str(constraint.create_sql(model, editor))))
        if not there:
            yield Lack(constraint.name, model, constraint=constraint, kind="constraint")


def _column(model: type[models.Model], name: str) -> str:
    return str(model._meta.get_field(name).column)  # type: ignore[union-attr]


def _is_unique(table: _Table, columns: set[str]) -> bool:
    return columns in table.unique


def _holds(definitions: list[list[str]], wanted: list[str]) -> bool:
    """Say whether one of the definitions has these words in a row: on SQLite they are part of CREATE TABLE."""
    size = len(wanted)
    return any(wanted == words[start : start + size] for words in definitions for start in range(len(words) - size + 1))


def _read_postgresql(cursor: Any, name: str) -> _Table:
    table = _Table()
    cursor.execute("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnotnull", [name])
    table.required = {column for (column,) in cursor.fetchall()}
    cursor.execute(
        "SELECT c.contype, 'CONSTRAINT ' || c.conname || ' ' || pg_get_constraintdef(c.oid), "
        "ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)), "
        "NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgconstraint = c.oid AND t.tgenabled NOT IN ('O', 'A')) "
        "FROM pg_constraint c WHERE c.conrelid = to_regclass(%s) AND c.convalidated",
        [name],
    )
    for kind, definition, columns, fires in cursor.fetchall():
        if kind == "c":
            table.definitions.append(canonical(definition))
        elif kind == "f" and fires:
            table.foreign.update(columns)
    cursor.execute(
        "SELECT pg_get_indexdef(i.indexrelid, 0, true), i.indpred IS NULL AND i.indexprs IS NULL, "
        "ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)) "
        "FROM pg_index i WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indisvalid AND i.indisready",
        [name],
    )
    for definition, plain, columns in cursor.fetchall():
        table.definitions.append(canonical(definition.replace(" USING btree", "")))
        if plain:
            table.unique.append(frozenset(columns))
    return table


def _read_sqlite(cursor: Any, name: str) -> _Table:
    table = _Table()
    cursor.execute(f"PRAGMA table_info({name})")
    for _, column, _, required, _, key in cursor.fetchall():
        if required:
            table.required.add(column)
        if key:
            table.unique.append(frozenset({column}))
    cursor.execute(f"PRAGMA index_list({name})")
    for _, index, unique, _, partial in cursor.fetchall():
        if not unique or partial:
            continue
        cursor.execute(f"PRAGMA index_info({index})")
        table.unique.append(frozenset(column for _, _, column in cursor.fetchall()))
    cursor.execute(f"PRAGMA foreign_key_list({name})")
    table.foreign = {row[3] for row in cursor.fetchall()}
    cursor.execute("SELECT sql FROM sqlite_master WHERE tbl_name = %s AND sql IS NOT NULL", [name])
    table.definitions = [canonical(sql) for (sql,) in cursor.fetchall()]
    return table


def add(connection: Any, lacks: Iterable[Lack], *, without_triggers: AbstractContextManager[None]) -> None:
    """Add what tables lack; on SQLite that makes the table anew, which triggers that read it prevent.

    ``without_triggers``: entered in the same transaction where tables are made anew; drops triggers and creates them
    again.

    Raises:
        django.db.Error: rows of the table break it, or this role may not; nothing was changed.
    """
    wanted = list(lacks)
    if not wanted:
        return
    if connection.vendor == "sqlite":
        connection.check_constraints()  # what it refuses at the editor's end would leave the transaction open
    with connection.schema_editor() as editor:
        if connection.vendor == "postgresql":
            for lack in wanted:
                _add_on_postgresql(editor, lack)
            return
        with without_triggers:
            for model in dict.fromkeys(lack.model for lack in wanted):
                _drop_indexes_elsewhere(editor, connection, model)
                editor._remake_table(model)


def _add_on_postgresql(editor: Any, lack: Lack) -> None:
    table = editor.quote_name(lack.model._meta.db_table)
    if lack.constraint is not None:
        name = editor.quote_name(lack.constraint.name)
        editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
        editor.execute(f"DROP INDEX IF EXISTS {name}")
        editor.add_constraint(lack.model, lack.constraint)
    if lack.field is None:
        return
    column = editor.quote_name(lack.field.column)
    if lack.kind == "required":
        editor.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL")
    elif lack.kind == "unique":
        editor.execute(f"ALTER TABLE {table} ADD {'PRIMARY KEY' if lack.field.primary_key else 'UNIQUE'} ({column})")
    else:
        target = lack.field.remote_field.model._meta  # type: ignore[union-attr]
        editor.execute(
            f"ALTER TABLE {table} ADD FOREIGN KEY ({column}) REFERENCES {editor.quote_name(target.db_table)} "
            f"({editor.quote_name(target.pk.column)}) DEFERRABLE INITIALLY DEFERRED"
        )


def _drop_indexes_elsewhere(editor: Any, connection: Any, model: type[models.Model]) -> None:
    """Drop indexes of SQLite that have a name of this table's and are on another, as after a rename."""
    meta = model._meta
    names = {each.name for each in (*meta.indexes, *meta.constraints)}
    own = tuple(f"{meta.db_table}_{column.column}_" for column in meta.local_concrete_fields)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name <> %s",
            [meta.db_table],
        )
        found = [name for (name,) in cursor.fetchall() if name in names or name.startswith(own)]
    for name in found:
        editor.execute(f"DROP INDEX {editor.quote_name(name)}")
