"""The refusals that the database itself makes, on PostgreSQL and on SQLite.

``install`` and ``uninstall`` are called by a Django migration; ``announce`` by the one service that
may take a conversion back; ``missing`` by the checks that run before any balance is touched (a
schema change on SQLite rebuilds a table and silently drops its triggers).

The messages are written for the developer whose code was refused: what happened, what to call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

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


def _postgresql() -> Iterator[tuple[str, str, str]]:
    """Yield (trigger, table, statement), functions first with an empty table."""
    yield (
        "",
        "",
        """
        CREATE OR REPLACE FUNCTION wishes_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_ARGV[0];
        END $$
        """,
    )
    yield (
        "",
        "",
        """
        CREATE OR REPLACE FUNCTION wishes_refuse_wallet_delete() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF OLD.migrated_at IS NOT NULL OR OLD.mana <> 0
               OR EXISTS (SELECT 1 FROM wishes_manaentry WHERE user_id = OLD.user_id)
               OR EXISTS (SELECT 1 FROM wishes_wishentry WHERE user_id = OLD.user_id) THEN
                RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = TG_ARGV[0];
            END IF;
            RETURN OLD;
        END $$
        """,
    )
    for table in LEDGERS:
        message = APPEND_ONLY.format(table=table)
        yield (
            f"{table}_no_change",
            table,
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION wishes_refuse('{message}')",
        )
        yield (
            f"{table}_no_truncate",
            table,
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION wishes_refuse('{message}')",
        )
    yield (
        "wishes_wallet_no_stale_write",
        "wishes_wallet",
        "CREATE TRIGGER wishes_wallet_no_stale_write BEFORE UPDATE ON wishes_wallet FOR EACH ROW "
        f"WHEN ({_STALE} AND current_setting('{ANNOUNCEMENT}', true) IS DISTINCT FROM 'on') "
        f"EXECUTE FUNCTION wishes_refuse('{STALE_WALLET}')",
    )
    yield (
        "wishes_wallet_no_delete",
        "wishes_wallet",
        "CREATE TRIGGER wishes_wallet_no_delete BEFORE DELETE ON wishes_wallet "
        f"FOR EACH ROW EXECUTE FUNCTION wishes_refuse_wallet_delete('{WALLET_HAS_HISTORY}')",
    )


def _sqlite() -> Iterator[tuple[str, str, str]]:
    yield "", "", "CREATE TABLE IF NOT EXISTS wishes_guard (announcement text NOT NULL PRIMARY KEY)"
    for table in LEDGERS:
        message = APPEND_ONLY.format(table=table)
        for event in ("UPDATE", "DELETE"):
            name = f"{table}_no_{event.lower()}"
            yield (
                name,
                table,
                f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, '{message}'); END",
            )
    yield (
        "wishes_wallet_no_stale_write",
        "wishes_wallet",
        f"CREATE TRIGGER wishes_wallet_no_stale_write BEFORE UPDATE ON wishes_wallet WHEN {_STALE} "
        f"AND NOT EXISTS (SELECT 1 FROM wishes_guard WHERE announcement = '{ANNOUNCEMENT}') "
        f"BEGIN SELECT RAISE(ABORT, '{STALE_WALLET}'); END",
    )
    yield (
        "wishes_wallet_no_delete",
        "wishes_wallet",
        "CREATE TRIGGER wishes_wallet_no_delete BEFORE DELETE ON wishes_wallet "
        "WHEN OLD.migrated_at IS NOT NULL OR OLD.mana <> 0 "
        "OR EXISTS (SELECT 1 FROM wishes_manaentry WHERE user_id = OLD.user_id) "
        "OR EXISTS (SELECT 1 FROM wishes_wishentry WHERE user_id = OLD.user_id) "
        f"BEGIN SELECT RAISE(ABORT, '{WALLET_HAS_HISTORY}'); END",
    )
    for table, columns in _INTEGER_COLUMNS.items():
        yield from integer_triggers(table, columns)


def integer_triggers(table: str, columns: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
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
        yield (
            name,
            table,
            f"CREATE TRIGGER {name} AFTER {event} ON {table} WHEN {condition} BEGIN SELECT CASE {cases} END; END",
        )


def statements(vendor: str) -> list[tuple[str, str, str]]:
    """Return (trigger, table, SQL) of this database's guards, in the order of installation.

    Raises:
        ValueError: the database is neither PostgreSQL nor SQLite, which alone are guarded.
    """
    if vendor == "postgresql":
        return list(_postgresql())
    if vendor == "sqlite":
        return list(_sqlite())
    raise ValueError(f"wallets can be guarded on postgresql and sqlite, not on {vendor}")


def install(connection: Any, execute: Any = None) -> None:
    """Create every guard on this connection's database; ``execute`` takes one SQL text."""
    run_statements(connection, statements(connection.vendor), execute)


def uninstall(connection: Any) -> None:
    """Drop every guard; for the reverse of the Django migration and for tests that plant violations."""
    drop_triggers(connection, statements(connection.vendor))


def missing(connection: Any) -> list[str]:
    """Return the names of the guards that this database lacks; empty when all are in force."""
    return missing_triggers(connection, statements(connection.vendor))


def run_statements(connection: Any, guards: list[tuple[str, str, str]], execute: Any = None) -> None:
    """Execute guard statements, without parameters, so that ``%`` needs no escaping."""
    if execute is not None:
        for _, _, sql in guards:
            execute(sql)
        return
    with connection.cursor() as cursor:
        for _, _, sql in guards:
            cursor.execute(sql)


def drop_triggers(connection: Any, guards: list[tuple[str, str, str]]) -> None:
    """Drop these triggers where they exist."""
    with connection.cursor() as cursor:
        for name, table, _ in guards:
            if name:
                cursor.execute(
                    f"DROP TRIGGER IF EXISTS {name}" + (f" ON {table}" if connection.vendor == "postgresql" else "")
                )


def missing_triggers(connection: Any, guards: list[tuple[str, str, str]]) -> list[str]:
    """Return the names of those triggers that are absent or disabled."""
    expected = {name for name, _, _ in guards if name}
    query = (
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')"
        if connection.vendor == "postgresql"
        else "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    )
    with connection.cursor() as cursor:
        cursor.execute(query)
        present = {row[0] for row in cursor.fetchall()}
    return sorted(expected - present)


@contextmanager
def announce_reversal(connection: Any) -> Iterator[None]:
    """Lift the wallet guard for the rest of this block's transaction, for the rollback service alone.

    Must be called inside a transaction: on PostgreSQL the announcement ends with it, on SQLite the
    row is removed again before the block ends and is never visible to anybody else.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT set_config(%s, 'on', true)", [ANNOUNCEMENT])
            yield
            cursor.execute("SELECT set_config(%s, 'off', true)", [ANNOUNCEMENT])
        else:
            cursor.execute("INSERT INTO wishes_guard (announcement) VALUES (%s)", [ANNOUNCEMENT])
            yield
            cursor.execute("DELETE FROM wishes_guard WHERE announcement = %s", [ANNOUNCEMENT])
