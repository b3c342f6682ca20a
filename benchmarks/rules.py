"""What the database enforces: read before anything is timed, and compared with what ``migrate`` made."""

from __future__ import annotations

from typing import Any, Final

_RULES: Final = {
    "trigger": (
        "SELECT c.relname || ': ' || pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text FROM pg_trigger t "
        "JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = current_schema() AND NOT t.tgisinternal"
    ),
    "foreign-key check": (
        "SELECT c.relname || ': ' || f.proname || ' for ' || k.conname || ' enabled ' || t.tgenabled::text "
        "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_constraint k ON k.oid = t.tgconstraint "
        "WHERE n.nspname = current_schema() AND t.tgisinternal"
    ),
    "constraint": (
        "SELECT c.relname || ': ' || k.conname || ' ' || pg_get_constraintdef(k.oid) FROM pg_constraint k "
        "JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = current_schema()"
    ),
    "index": "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()",
    "column": (
        "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable "
        "FROM information_schema.columns WHERE table_schema = current_schema()"
    ),
    "table": (
        "SELECT c.relname || ' ' || c.relpersistence::text FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema() AND c.relkind = 'r'"
    ),
    "guard": "SELECT proname || ' ' || md5(prosrc) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
    "WHERE n.nspname = current_schema() AND prorettype = 'trigger'::regtype",
    "session": "SELECT 'session_replication_role ' || current_setting('session_replication_role')",
}


class WeakenedError(Exception):
    """A database that is to be measured enforces less than ``migrate`` makes it enforce."""


def rules_in_force(connection: Any) -> frozenset[str]:
    """Return every trigger, foreign-key check, constraint, index, column and guard function as a line of text.

    A trigger that is switched off, a constraint that is not valid, a table that is not logged and a
    session that fires no triggers each give another line than the sound one.
    """
    found = set()
    with connection.cursor() as cursor:
        for kind, query in _RULES.items():
            cursor.execute(query)
            found |= {f"{kind} {line}" for (line,) in cursor.fetchall()}
    return frozenset(found)


def refuse_weakened(expected: frozenset[str], found: frozenset[str], database: str) -> None:
    """Refuse to measure a database that lacks one of the rules.

    Raises:
        WeakenedError: it does.
    """
    if lacking := sorted(expected - found):
        raise WeakenedError(f"database {database} does not enforce what it must: {'; '.join(lacking)}")
