"""The refusals that the database itself makes, on PostgreSQL and on SQLite.

``install`` and ``uninstall`` are called by Django migrations and ``install_guards``; ``announce_reversal`` by the one
service that may reverse a conversion; ``faults`` by the checks that run before any balance is touched (a schema change
on SQLite rebuilds a table and silently drops its triggers).

The messages are written for the developer whose code was refused: what happened, what to call.

# Note [Who may reverse]
A role that may INSERT into the table ``wishes_guard`` may announce a reversal: PostgreSQL itself grants and checks
that right.  Without roles of their own the site and the migration share the owner's role, which may;
``scripts/database_roles.sql`` leaves it to the migrator alone.  The right is checked in the guard's condition, by the
table's identity, so that no setting and no search path gets around it.  On SQLite, which has no roles, the row in that
table is the announcement itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from wishes.errors import ReversalNotAllowedError

LEDGERS: Final = ("wishes_manaentry", "wishes_wishentry")

#: The transaction-local setting (PostgreSQL) or row of ``wishes_guard`` (SQLite) that lifts the wallet guard.
ANNOUNCEMENT: Final = "wishes.reversal"

APPEND_ONLY: Final = "{table} is append-only: book a new entry with wishes.services instead of changing an old one"
STALE_WALLET: Final = (
    "this user was migrated to mana: a stale or direct write would bring wishes back; "
    "use wishes.services (earn_wishes, spend_wishes, earn_mana, spend_mana) instead of saving the wallet"
)
WALLET_HAS_HISTORY: Final = (
    "a wallet that is migrated, holds mana or has ledger entries is never deleted; deactivate the user instead"
)
NOT_AN_INTEGER: Final = "{table}.{column} takes whole numbers only"

_INTEGER_COLUMNS: Final = {
    "wishes_wallet": ("green", "blue", "red", "mana"),
    "wishes_manaentry": ("amount", "balance_after"),
    "wishes_wishentry": ("amount", "balance_after"),
}

_STALE = "OLD.migrated_at IS NOT NULL AND (NEW.migrated_at IS NULL OR NEW.green <> 0 OR NEW.blue <> 0 OR NEW.red <> 0)"

#: The bodies of the trigger functions of PostgreSQL.
FUNCTIONS: Final = {
    "wishes_refuse": """
        BEGIN
            RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_ARGV[0];
        END
    """,
    "wishes_refuse_wallet_delete": """
        DECLARE
            booked boolean;
        BEGIN
            -- in the wallet's own schema, whatever the search path of the session
            EXECUTE format(
                'SELECT EXISTS (SELECT 1 FROM %1$I.wishes_manaentry WHERE user_id = $1) '
                'OR EXISTS (SELECT 1 FROM %1$I.wishes_wishentry WHERE user_id = $1)', TG_TABLE_SCHEMA
            ) INTO booked USING OLD.user_id;
            IF OLD.migrated_at IS NOT NULL OR OLD.mana <> 0 OR booked THEN
                RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_ARGV[0];
            END IF;
            RETURN OLD;
        END
    """,
}


class Guard(NamedTuple):
    """One statement that installs a trigger; or, with an empty name and table, what triggers need."""

    name: str
    table: str
    sql: str


def _postgresql() -> Iterator[Guard]:
    yield Guard("", "", "CREATE TABLE IF NOT EXISTS wishes_guard (announcement text NOT NULL PRIMARY KEY)")
    for name, body in FUNCTIONS.items():
        yield Guard(
            "", "", f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $guard${body}$guard$"
        )
    for table in LEDGERS:
        message = APPEND_ONLY.format(table=table)
        yield row_guard(f"{table}_no_change", table, "DELETE OR UPDATE", message)
        yield Guard(
            f"{table}_no_truncate",
            table,
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION wishes_refuse('{message}')",
        )
    # see Note [Who may reverse]
    unannounced = (
        f"current_setting('{ANNOUNCEMENT}', true) IS DISTINCT FROM 'on' "
        "OR NOT has_table_privilege('wishes_guard'::regclass, 'INSERT')"
    )
    yield row_guard(
        "wishes_wallet_no_stale_write", "wishes_wallet", "UPDATE", STALE_WALLET, f"{_STALE} AND ({unannounced})"
    )
    yield row_guard(
        "wishes_wallet_no_delete",
        "wishes_wallet",
        "DELETE",
        WALLET_HAS_HISTORY,
        function="wishes_refuse_wallet_delete",
    )


def row_guard(
    name: str, table: str, events: str, message: str, condition: str = "", *, function: str = "wishes_refuse"
) -> Guard:
    """Return a guard of PostgreSQL on each row; several events in the order in which PostgreSQL lists them."""
    when = f"WHEN ({condition}) " if condition else ""
    return Guard(
        name,
        table,
        f"CREATE TRIGGER {name} BEFORE {events} ON {table} FOR EACH ROW {when}EXECUTE FUNCTION {function}('{message}')",
    )


def sqlite_guard(name: str, table: str, event: str, message: str, condition: str = "") -> Guard:
    """Return a guard of SQLite on each row."""
    when = f"WHEN {condition} " if condition else ""
    return Guard(
        name,
        table,
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} {when}BEGIN SELECT RAISE(ABORT, '{message}'); END",
    )


def _sqlite() -> Iterator[Guard]:
    yield Guard("", "", "CREATE TABLE IF NOT EXISTS wishes_guard (announcement text NOT NULL PRIMARY KEY)")
    for table in LEDGERS:
        message = APPEND_ONLY.format(table=table)
        for event in ("UPDATE", "DELETE"):
            yield sqlite_guard(f"{table}_no_{event.lower()}", table, event, message)
    yield sqlite_guard(
        "wishes_wallet_no_stale_write",
        "wishes_wallet",
        "UPDATE",
        STALE_WALLET,
        f"{_STALE} AND NOT EXISTS (SELECT 1 FROM wishes_guard WHERE announcement = '{ANNOUNCEMENT}')",
    )
    yield sqlite_guard(
        "wishes_wallet_no_delete",
        "wishes_wallet",
        "DELETE",
        WALLET_HAS_HISTORY,
        "OLD.migrated_at IS NOT NULL OR OLD.mana <> 0 "
        "OR EXISTS (SELECT 1 FROM wishes_manaentry WHERE user_id = OLD.user_id) "
        "OR EXISTS (SELECT 1 FROM wishes_wishentry WHERE user_id = OLD.user_id)",
    )
    for table, columns in _INTEGER_COLUMNS.items():
        yield from integer_guards(table, columns)


def integer_guards(table: str, columns: tuple[str, ...]) -> Iterator[Guard]:
    """Yield SQLite triggers that refuse text and floats in these columns.

    SQLite takes any value in a BIGINT column, and an integer overflow silently becomes a float.
    """
    for event in ("INSERT", "UPDATE"):
        name = f"{table}_integers_on_{event.lower()}"
        cases = " ".join(
            f"WHEN typeof(NEW.{column}) <> 'integer' "
            f"THEN RAISE(ABORT, '{NOT_AN_INTEGER.format(table=table, column=column)}')"
            for column in columns
        )
        condition = " OR ".join(f"typeof(NEW.{column}) <> 'integer'" for column in columns)
        yield Guard(
            name,
            table,
            f"CREATE TRIGGER {name} AFTER {event} ON {table} WHEN {condition} BEGIN SELECT CASE {cases} END; END",
        )


def statements(vendor: str) -> list[Guard]:
    """Return this database's guards in the order of installation.

    Raises:
        ValueError: the database is neither PostgreSQL nor SQLite, which alone are guarded.
    """
    if vendor == "postgresql":
        return list(_postgresql())
    if vendor == "sqlite":
        return list(_sqlite())
    raise ValueError(f"wallets can be guarded on postgresql and sqlite, not on {vendor}")


def install(connection: Any, execute: Callable[[str], Any] | None = None) -> None:
    """Create every guard on this connection's database; ``execute`` takes one SQL text."""
    run_statements(connection, statements(connection.vendor), execute)


def uninstall(connection: Any) -> None:
    """Drop every guard; for the reverse of the Django migration and for tests that plant violations."""
    drop_triggers(connection, statements(connection.vendor))


def faults(connection: Any) -> dict[str, str]:
    """Return what keeps a guard from being in force, by its name; empty when all are."""
    return faulty_triggers(connection, statements(connection.vendor)) | _lifted(connection)


def run_statements(connection: Any, guards: Iterable[Guard], execute: Callable[[str], Any] | None = None) -> None:
    """Execute guard statements, without parameters, so that ``%`` needs no escaping."""
    if execute is not None:
        for guard in guards:
            execute(guard.sql)
        return
    with connection.cursor() as cursor:
        for guard in guards:
            cursor.execute(guard.sql)


def drop_triggers(connection: Any, guards: Iterable[Guard]) -> None:
    """Drop these triggers where they exist."""
    with connection.cursor() as cursor:
        for guard in guards:
            if guard.name:
                on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
                cursor.execute(f"DROP TRIGGER IF EXISTS {guard.name}{on_table}")


def reinstall(connection: Any, guards: Iterable[Guard], names: Collection[str]) -> None:
    """Create these triggers anew, with all that they need; end what lifts them for good."""
    chosen = [guard for guard in guards if not guard.name or guard.name in names]
    drop_triggers(connection, chosen)
    run_statements(connection, chosen)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM wishes_guard")


def against_emptying(connection: Any, guards: Iterable[Guard]) -> list[Guard]:
    """Return those of these guards that are installed and refuse Django's ``flush``, which truncates or deletes."""
    event = "BEFORE TRUNCATE" if connection.vendor == "postgresql" else "BEFORE DELETE"
    chosen = [guard for guard in guards if guard.name and event in guard.sql]
    found = faulty_triggers(connection, chosen)
    return [guard for guard in chosen if found.get(guard.name) != "missing"]


def has_entries(connection: Any) -> bool:
    """Say whether a ledger has an entry."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in LEDGERS))
        return bool(cursor.fetchone()[0])


#: How PostgreSQL's ``tgenabled`` reads where a trigger does not fire for ordinary sessions.
_NOT_FIRING: Final = {"D": "disabled", "R": "fires on replicas only"}

_TRIGGERS: Final = """
    SELECT t.tgname, c.relname, t.tgenabled, pg_get_triggerdef(t.oid, true), p.proname, p.prosrc, l.lanname
      FROM pg_trigger t
      JOIN pg_class c ON c.oid = t.tgrelid
      JOIN pg_proc p ON p.oid = t.tgfoid
      JOIN pg_language l ON l.oid = p.prolang
     WHERE NOT t.tgisinternal AND c.oid IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)
"""


def faulty_triggers(connection: Any, guards: Iterable[Guard]) -> dict[str, str]:
    """Return which of these triggers are not what they claim, by name, and why.

    A trigger counts by the table that unqualified SQL means in this session, its definition, the body of its function
    and whether it fires.
    """
    expected = [guard for guard in guards if guard.name]
    if connection.vendor == "postgresql":
        return _faulty_on_postgresql(connection, expected)
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
        present = {name: (table, sql) for name, table, sql in cursor.fetchall()}
    found = {}
    for guard in expected:
        table, sql = present.get(guard.name, ("", ""))
        if not table:
            found[guard.name] = "missing"
        elif table != guard.table:
            found[guard.name] = f"on {table} instead of {guard.table}"
        elif canonical(sql) != canonical(guard.sql):
            found[guard.name] = "changed"
    return found


def _faulty_on_postgresql(connection: Any, expected: list[Guard]) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(_TRIGGERS, [sorted({guard.table for guard in expected})])
        present = {(name, table): rest for name, table, *rest in cursor.fetchall()}
    found = {}
    for guard in expected:
        if (guard.name, guard.table) not in present:
            found[guard.name] = "missing"
            continue
        enabled, definition, function, body, language = present[guard.name, guard.table]
        if enabled in _NOT_FIRING:
            found[guard.name] = _NOT_FIRING[enabled]
        elif canonical(definition) != canonical(guard.sql):
            found[guard.name] = "changed"
        elif language != "plpgsql" or canonical(body) != canonical(FUNCTIONS.get(function, "")):
            found[guard.name] = f"its function {function} was changed"
    return found


def _lifted(connection: Any) -> dict[str, str]:
    """Return what would keep intact guards from refusing anything in this session."""
    found = {}
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"SELECT current_setting('session_replication_role'), current_setting('{ANNOUNCEMENT}', true)"
            )
            role, announced = cursor.fetchone()
            if role == "replica":
                found["session_replication_role"] = "is replica, so that no guard fires: reset it for this role"
            if announced == "on" and not connection.in_atomic_block:  # in one it may be its own, and ends with it
                found[ANNOUNCEMENT] = "is on for the whole session: reset it for this role"
            return found
        cursor.execute("SELECT 1 FROM sqlite_master WHERE name = 'wishes_guard'")
        if cursor.fetchone() is None:
            return {"wishes_guard": "missing"}
        cursor.execute("SELECT 1 FROM wishes_guard")
        if cursor.fetchone() is not None:
            found["wishes_guard"] = "holds an announcement that was never removed"
    return found


_CASTS: Final = re.compile(r"::(character varying|timestamp with time zone|[\w.]+)(\(\d+\))?(\[\])?")
_TOKENS: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|\w+|[^\s\w]")


def canonical(sql: str) -> list[str]:
    """Return the words of an SQL text, alike for what was written and for what PostgreSQL makes of it.

    PostgreSQL adds casts, parentheses and schemas, and writes ``IN`` as ``= ANY (ARRAY[…])``.
    """
    words = []
    for word in _TOKENS.findall(_CASTS.sub("", re.sub(r'"(\w+)"', r"\1", sql))):
        if word.startswith("--") or word in "()[],;":
            continue
        words.append(word if word.startswith("'") else word.lower())
    text = "\0".join(words)
    return text.replace("=\0any\0array", "in").split("\0")


@contextmanager
def announce_reversal(connection: Any) -> Iterator[None]:
    """Lift the wallet guard for the rest of this block's transaction, for the rollback service alone.

    Must be called inside a transaction: on PostgreSQL the announcement ends with it, on SQLite the
    row is removed again before the block ends and is never visible to another connection.

    Raises:
        ReversalNotAllowedError: this role of the database may not reverse; see Note [Who may reverse].
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            require_reversals(connection)
            cursor.execute("SELECT set_config(%s, 'on', true)", [ANNOUNCEMENT])
            yield
            cursor.execute("SELECT set_config(%s, 'off', true)", [ANNOUNCEMENT])
        else:
            cursor.execute("INSERT INTO wishes_guard (announcement) VALUES (%s)", [ANNOUNCEMENT])
            yield
            cursor.execute("DELETE FROM wishes_guard WHERE announcement = %s", [ANNOUNCEMENT])


def require_reversals(connection: Any) -> None:
    """Refuse a role of the database that may not reverse conversions; nothing to do on SQLite, which has no roles.

    Raises:
        ReversalNotAllowedError: the role may not.
    """
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT has_table_privilege('wishes_guard', 'INSERT'), current_user")
        allowed, role = cursor.fetchone()
    if not allowed:
        raise ReversalNotAllowedError(role)
