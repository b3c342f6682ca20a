"""The fastest SQL that could be written by hand for the same writes: what the engine is measured against.

It locks the same wallets and writes the same records with their marks, ledger entries, wallets and
one batch with its figures and digest, with the same indexes, constraints and guards.  It plans no
batches, checks nothing, knows no bad user, obeys no control, and cannot go on after a crash.
Batches are ranges of keys without gaps.

Each piece of work is written in three ways, and the fastest counts: statement by statement as plain
text, the same prepared, and one prepared statement for a whole batch.  A fourth leaves marks and
digests out: it writes less than the product does, and shows what those cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg2.extensions

RANGE: Final = "BETWEEN $1 AND $2"
WORTH: Final = "10 * green + 100 * blue + 1000 * red"

_RECORD_COLUMNS: Final = (
    "user_id, run_id, batch_id, status, green, blue, red, mana_before, mana_credited, error_class, error_message, "
    "mark, created_at"
)
_ENTRY_COLUMNS: Final = "user_id, amount, balance_after, kind, reference, created_at"
_BATCH_COLUMNS: Final = (
    "id, run_id, first_user, last_user, planned, status, folded, attempts, selected, migrated, rolled_back, skipped, "
    "failed, green, blue, red, mana, shortfall, errors, skips, started_at, finished_at, worker, digest"
)

_CONVERTED: Final = f"concat_ws('|', 'record|1|converted', green, blue, red, mana, {WORTH}, '', user_id)"
_REVERSED: Final = "concat_ws('|', 'reversal|2', run_id, green, blue, red, mana_credited, 0, user_id)"


def _sealed(line: str) -> str:
    return f'to_hex(hashtextextended({line} COLLATE "C", 0))'


def _digest(line: str, order: str = "") -> str:
    lines = f"string_agg({line}, E'\\n'{order}) || E'\\n'"
    return f"encode(sha256(convert_to({lines}, 'UTF8')), 'hex')"


_PENDING: Final = f"FROM wishes_wallet WHERE user_id {RANGE} AND migrated_at IS NULL"
_LIVE: Final = f"FROM mana_migration_usermigration WHERE user_id {RANGE} AND status = 'migrated'"


def _mark(run: int, counted: str, worth: str, source: str, *, line: str = "") -> str:
    """Return the INSERT of a batch done, with its figures; ``counted`` is the SQL of migrated and rolled_back."""
    # rows that were picked in the order of their keys need no sorting
    digest = _digest(line, "" if source == "FROM picked" else " ORDER BY user_id") if line else "''"
    return (
        f"INSERT INTO mana_migration_migrationbatch ({_BATCH_COLUMNS}) SELECT $3::bigint, {run}, $1::text, $2::text, "
        f"count(*), 'done', false, 0, count(*), {counted}, 0, 0, sum(green), sum(blue), sum(red), sum({worth}), 0, "
        f"'{{}}', '{{}}', now(), clock_timestamp(), 'by hand', {digest} {source}"
    )


MIGRATE: Final = (
    f"SELECT {_PENDING} ORDER BY user_id FOR NO KEY UPDATE",
    _mark(1, "count(*), 0", WORTH, _PENDING, line=_CONVERTED),
    f"INSERT INTO mana_migration_usermigration ({_RECORD_COLUMNS}) "
    f"SELECT user_id, 1, $3::bigint, 'migrated', green, blue, red, mana, {WORTH}, '', '', {_sealed(_CONVERTED)}, now() "
    f"{_PENDING}",
    f"INSERT INTO wishes_manaentry ({_ENTRY_COLUMNS}) "
    f"SELECT user_id, {WORTH}, mana + {WORTH}, 'conversion', 'conversion:1:' || user_id, now() "
    f"{_PENDING} AND {WORTH} <> 0",
    f"UPDATE wishes_wallet SET green = 0, blue = 0, red = 0, mana = mana + {WORTH}, migrated_at = now(), "
    f"updated_at = now() WHERE user_id {RANGE} AND migrated_at IS NULL",
)


def _migrate_at_once(line: str) -> tuple[str]:
    mark, text = (_sealed("line"), line) if line else ("''", "''")
    return (
        f"WITH picked AS MATERIALIZED (SELECT user_id, green, blue, red, mana, {WORTH} AS worth, "
        f"{text} AS line {_PENDING} ORDER BY user_id FOR NO KEY UPDATE), "
        f"records AS (INSERT INTO mana_migration_usermigration ({_RECORD_COLUMNS}) "
        f"SELECT user_id, 1, $3::bigint, 'migrated', green, blue, red, mana, worth, '', '', {mark}, now() "
        "FROM picked), "
        f"entries AS (INSERT INTO wishes_manaentry ({_ENTRY_COLUMNS}) "
        "SELECT user_id, worth, mana + worth, 'conversion', 'conversion:1:' || user_id, now() FROM picked "
        "WHERE worth <> 0), "
        f"wallets AS (UPDATE wishes_wallet SET green = 0, blue = 0, red = 0, mana = mana + {WORTH}, "
        f"migrated_at = now(), updated_at = now() WHERE user_id {RANGE} AND migrated_at IS NULL) "
        + _mark(1, "count(*), 0", "worth", "FROM picked", line="line" if line else ""),
    )


MIGRATE_AT_ONCE: Final = _migrate_at_once(_CONVERTED)
MIGRATE_UNDIGESTED: Final = _migrate_at_once("")

ROLL_BACK: Final = (
    f"SELECT FROM wishes_wallet WHERE user_id {RANGE} AND migrated_at IS NOT NULL ORDER BY user_id FOR NO KEY UPDATE",
    _mark(2, "0, count(*)", "mana_credited", _LIVE, line=_REVERSED),
    f"INSERT INTO wishes_manaentry ({_ENTRY_COLUMNS}) "
    "SELECT m.user_id, -m.mana_credited, w.mana - m.mana_credited, 'reversal', "
    "'reversal:' || m.run_id || ':' || m.user_id, now() FROM mana_migration_usermigration m "
    f"JOIN wishes_wallet w ON w.user_id = m.user_id AND w.user_id {RANGE} "
    f"WHERE m.user_id {RANGE} AND m.status = 'migrated' AND m.mana_credited <> 0",
    "UPDATE wishes_wallet w SET green = w.green + m.green, blue = w.blue + m.blue, red = w.red + m.red, "
    "mana = w.mana - m.mana_credited, migrated_at = NULL, updated_at = now() FROM mana_migration_usermigration m "
    f"WHERE w.user_id {RANGE} AND m.user_id {RANGE} AND m.user_id = w.user_id AND m.status = 'migrated'",
    "UPDATE mana_migration_usermigration SET status = 'rolled_back', reversal_run_id = 2, reversed_at = now(), "
    f"mana_debited = mana_credited, shortfall = 0, reversal_batch_id = $3::bigint, "
    f"reversal_mark = {_sealed(_REVERSED)} WHERE user_id {RANGE} AND status = 'migrated'",
)


def _roll_back_at_once(line: str) -> tuple[str]:
    mark, text = (_sealed("picked.line"), line) if line else ("''", "''")
    return (
        f"WITH picked AS MATERIALIZED (SELECT *, {text} AS line FROM (SELECT m.id, m.run_id, m.user_id, "
        "m.green, m.blue, m.red, m.mana_credited, w.mana "
        "FROM mana_migration_usermigration m JOIN wishes_wallet w ON w.user_id = m.user_id "
        f"WHERE m.user_id {RANGE} AND w.user_id {RANGE} AND m.status = 'migrated' AND w.migrated_at IS NOT NULL "
        "ORDER BY m.user_id FOR NO KEY UPDATE OF w) locked), "
        f"entries AS (INSERT INTO wishes_manaentry ({_ENTRY_COLUMNS}) "
        "SELECT user_id, -mana_credited, mana - mana_credited, 'reversal', "
        "'reversal:' || run_id || ':' || user_id, now() FROM picked WHERE mana_credited <> 0), "
        "records AS (UPDATE mana_migration_usermigration m SET status = 'rolled_back', reversal_run_id = 2, "
        "reversed_at = now(), mana_debited = m.mana_credited, shortfall = 0, reversal_batch_id = $3::bigint, "
        f"reversal_mark = {mark} FROM picked "
        f"WHERE m.user_id {RANGE} AND m.user_id = picked.user_id AND m.id = picked.id), "
        "wallets AS (UPDATE wishes_wallet w SET green = w.green + picked.green, blue = w.blue + picked.blue, "
        "red = w.red + picked.red, mana = w.mana - picked.mana_credited, migrated_at = NULL, updated_at = now() "
        f"FROM picked WHERE w.user_id {RANGE} AND w.user_id = picked.user_id) "
        + _mark(2, "0, count(*)", "mana_credited", "FROM picked", line="line" if line else ""),
    )


ROLL_BACK_AT_ONCE: Final = _roll_back_at_once(_REVERSED)
ROLL_BACK_UNDIGESTED: Final = _roll_back_at_once("")

#: The setting with which a rollback says what it does to the guard of the wallets, as the product's does.
LIFT: Final = "SET LOCAL wishes.reversal = 'on'"

#: What a prepared statement needs to keep its plan, whatever the tables grow to.
PLANNER: Final = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; "
    "SET enable_nestloop = off; SET jit = off"
)

#: The ways in which each piece of work is written: its statements, and whether they are prepared.
MIGRATIONS: Final = {
    "plain": (MIGRATE, False),
    "prepared": (MIGRATE, True),
    "at_once": (MIGRATE_AT_ONCE, True),
    "undigested": (MIGRATE_UNDIGESTED, True),
}
ROLLBACKS: Final = {
    "plain": (ROLL_BACK, False),
    "prepared": (ROLL_BACK, True),
    "at_once": (ROLL_BACK_AT_ONCE, True),
    "undigested": (ROLL_BACK_UNDIGESTED, True),
}

#: Those that write what the product writes.
SAME_WRITES: Final = ("plain", "prepared", "at_once")

#: Ids of batches that a script marks, beyond those of any run: one number for each session.
BATCHES_FROM: Final = 1_000_000_000


class Script:
    """One batch a message and a message a transaction.

    Args:
        connection: in autocommit mode.
        statements: with ``$1`` and ``$2``, the first and the last user, and ``$3``, the batch.
        prepared: prepare them beforehand instead of sending their text each time.
        first: a statement that each message begins with.
        session: a number of its own for each of several sessions on one database.
    """

    def __init__(
        self,
        connection: psycopg2.extensions.connection,
        statements: Sequence[str],
        *,
        prepared: bool,
        first: str = "",
        session: int = 1,
    ) -> None:
        self._cursor = connection.cursor()
        self._first = f"{first}; " if first else ""
        self._batch = session * BATCHES_FROM + (500_000_000 if first else 0)
        if prepared:
            self._cursor.execute(f"DEALLOCATE ALL; {PLANNER}")
            for number, statement in enumerate(statements):
                self._cursor.execute(f"PREPARE by_hand_{number} (bigint, bigint, bigint) AS {statement}")
            self._text = "; ".join(f"EXECUTE by_hand_{number} ($1, $2, $3)" for number in range(len(statements)))
        else:
            self._text = "; ".join(statements)

    def handle(self, first: int, last: int) -> None:
        """Handle the users from one key to another, both included, in one transaction."""
        self._batch += 1
        text = self._text.replace("$1", str(first)).replace("$2", str(last)).replace("$3", str(self._batch))
        self._cursor.execute(self._first + text)


def open_rollback(connection: psycopg2.extensions.connection) -> None:
    """Make run 2, a rollback, for the batches of a script to belong to, after the likeness of run 1."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mana_migration_migrationrun SET status = 'stopped' WHERE id = 1")
        cursor.execute(
            "INSERT INTO mana_migration_migrationrun SELECT (jsonb_populate_record(r, "
            '\'{"id": 2, "kind": "rollback", "status": "running"}\')).* '
            "FROM mana_migration_migrationrun r WHERE id = 1"
        )


_PROCEDURE: Final = """
CREATE OR REPLACE PROCEDURE migrate_by_hand(a bigint, upto bigint, size bigint, batch bigint)
LANGUAGE plpgsql AS $procedure$
DECLARE z bigint;
BEGIN
    WHILE a <= upto LOOP
        z := least(a + size - 1, upto); batch := batch + 1;
        {0};
        COMMIT;
        a := z + 1;
    END LOOP;
END $procedure$
"""


def install_procedure(connection: psycopg2.extensions.connection) -> None:
    """Install the migration as a procedure, which needs no round trip for a batch."""
    (statement,) = MIGRATE_AT_ONCE
    body = statement.replace("$1", "a").replace("$2", "z").replace("$3", "batch")
    with connection.cursor() as cursor:
        cursor.execute(_PROCEDURE.replace("{0}", body))
        cursor.execute(PLANNER)
