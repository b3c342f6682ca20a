"""What a site has attached to our tables: views, row-level security, triggers and rules of its own.

All of it can drop, change or hide rows behind a statement that reports success.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration import guards
from wishes import guards as wishes_guards
from wishes.sql import block

VIEW, HIDDEN, TRIGGER, RULE = "view", "row-level security", "trigger", "rule"


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something on a table that is not ours: its kind, its name (empty for the table itself) and the table."""

    kind: str
    name: str
    table: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} on {self.table}" if self.name else f"{self.kind} of {self.table}"


_POSTGRESQL: Final = """
    WITH ours AS (
        SELECT name, to_regclass(quote_ident(name)) AS oid FROM unnest(%s::text[]) AS name
    )
    SELECT 'view', '', name
      FROM ours JOIN pg_class c ON c.oid = ours.oid
     WHERE c.relkind NOT IN ('r', 'p')
     UNION ALL
    SELECT 'row-level security', '', name
      FROM ours
     WHERE row_security_active(ours.oid)
     UNION ALL
    SELECT 'trigger', t.tgname, name
      FROM ours JOIN pg_trigger t ON t.tgrelid = ours.oid
     WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
     UNION ALL
    SELECT 'rule', r.rulename, name
      FROM ours JOIN pg_rewrite r ON r.ev_class = ours.oid
     WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D'
     ORDER BY 1, 3, 2
"""

_SQLITE: Final = """
    SELECT CASE type WHEN 'view' THEN 'view' ELSE 'trigger' END, CASE type WHEN 'view' THEN '' ELSE name END, tbl_name
      FROM (
           SELECT type, name, tbl_name FROM sqlite_master
            UNION ALL
           SELECT type, name, tbl_name FROM sqlite_temp_master
           )
     WHERE type IN ('view', 'trigger')
     ORDER BY 1, 3, 2
"""


#: The trigger that observes direct writes, which is this tool's own.
OBSERVER: Final = "mana_migration_observe"

#: The tables that a conversion or a reversal writes.
WRITTEN: Final = ("wishes_wallet", "wishes_manaentry", "mana_migration_usermigration", "mana_migration_migrationbatch")


@cache
def own_triggers(vendor: str) -> frozenset[str]:
    """Return the names of the triggers that are this project's own."""
    return frozenset(
        guard.name for module in (wishes_guards, guards) for guard in module.statements(vendor) if guard.name
    ) | {OBSERVER}


def is_attached(connection: BaseDatabaseWrapper) -> bool:
    """Return whether anything of the site's own is attached to the tables that a batch writes."""
    return bool(attachments(connection, WRITTEN, own=own_triggers(connection.vendor)))


def nothing_attached_sql() -> str:
    """Return PostgreSQL's condition that nothing of the site's own is attached to the tables that a batch writes."""
    tables = ", ".join(f"'{table}'::regclass" for table in WRITTEN)
    own = ", ".join(f"'{name}'" for name in sorted(own_triggers("postgresql")))
    return block(
        """
        NOT EXISTS (
            SELECT 1 FROM pg_trigger t
            WHERE t.tgrelid IN ({tables})
              AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgname NOT IN ({own})
            UNION ALL
            SELECT 1 FROM pg_rewrite r
            WHERE r.ev_class IN ({tables}) AND r.ev_enabled <> 'D'
            UNION ALL
            SELECT 1 WHERE {hidden}
        )
        """,
        tables=tables,
        own=own,
        hidden=" OR ".join(f"row_security_active('{table}'::regclass)" for table in WRITTEN),
    )


def attachments(connection: BaseDatabaseWrapper, tables: Sequence[str], *, own: Collection[str]) -> list[Attachment]:
    """Return what is attached to these tables besides the guards, whose names are ``own``."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_POSTGRESQL, [list(tables)])
        else:
            cursor.execute(_SQLITE)
        return [
            Attachment(kind, name, table)
            for kind, name, table in cursor.fetchall()
            if table in tables and not (kind == TRIGGER and name in own)
        ]


_BEHIND: Final = """
    SELECT %(sequence)s, last_value - CASE WHEN is_called THEN 0 ELSE 1 END, (SELECT MAX({column}) FROM {table})
      FROM {sequence}
     WHERE EXISTS (
           SELECT 1 FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = to_regclass(%(table)s) AND a.attname = %(name)s AND i.indpred IS NULL
           )
"""


def sequences_behind(connection: BaseDatabaseWrapper, columns: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
    """Return the sequences of these (table, column) that lag behind their tables, with the number each must have.

    Keys that no index leads with are left out: reading a whole table is no pre-check.  So are sequences that this role
    may not read, as one that only looks on.  SQLite has no sequences.
    """
    if connection.vendor != "postgresql":
        return []
    quote = connection.ops.quote_name
    found = []
    with connection.cursor() as cursor:
        for table, column in columns:
            cursor.execute(
                "SELECT name FROM pg_get_serial_sequence(quote_ident(%s), %s) AS name "
                "WHERE has_sequence_privilege(name, 'SELECT')",
                [table, column],
            )
            (sequence,) = cursor.fetchone() or (None,)
            if sequence is None:
                continue
            cursor.execute(
                _BEHIND.format(column=quote(column), table=quote(table), sequence=sequence),
                {"sequence": sequence, "table": quote(table), "name": column},
            )
            for name, last, newest in cursor.fetchall():
                if newest is not None and newest > last:
                    found.append((name, newest))
    return found
