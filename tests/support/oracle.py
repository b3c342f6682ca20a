"""The rules that always hold, as SQL that shares no code with the product: call it after every test that moves money.

    before = endowment()
    ...
    assert_books_balance(expected=before)

Each query returns the rows that break its rule; empty means that it holds. They hold at every commit, whatever is under
way: an open run, a crash, records deleted by --no-preserve-logs, imported users, runs of one user. Rule 10 (a dry run
changes nothing) is no state of the data; use ``assert_nothing_changes`` around the dry run.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

COLOURS = ("green", "blue", "red")
RUN, BATCH, RECORD, FIX = (
    f"mana_migration_{name}" for name in ("migrationrun", "migrationbatch", "usermigration", "integrityfix")
)
WALLET, ENTRY, WISH_ENTRY = (f"wishes_{name}" for name in ("wallet", "manaentry", "wishentry"))

CONVERSION = "'conversion:' || r.run_id || ':' || CAST(r.user_id AS text)"
REVERSAL = "'reversal:' || r.run_id || ':' || CAST(r.user_id AS text)"
CONVERTED = "r.status IN ('migrated', 'rolled_back')"

IMPORTS = f"SELECT u.baseline FROM {RUN} u WHERE u.kind = 'import'"

# Whether any rollback has deleted its records, with --no-preserve-logs.
FORGOTTEN = f"EXISTS (SELECT 1 FROM {RUN} u WHERE u.kind = 'rollback' AND {{unset:preserve_logs}})"


@dataclass(frozen=True)
class Violation:
    """One row that breaks a rule; ``row`` is what the rule's query returned."""

    rule: int
    name: str
    row: tuple[Any, ...]

    def __str__(self) -> str:
        """Say which rule, what is wrong and the figures."""
        return f"rule {self.rule}, {self.name}: {self.row}"


@dataclass(frozen=True)
class Endowment:
    """What users had and were given by other ways than the site's services, imports and the migration; constant.

    The four parts are what is left of the wallets when every conversion is taken back at what it took and gave, and
    every earning, spending, write-off and fix undone. ``value`` is the same as one sum in mana at today's rates, found
    without the records; None where some run had other rates, for then it is not constant.
    """

    green: int
    blue: int
    red: int
    mana: int
    value: int | None


# --- The rules --------------------------------------------------------------------------------------------------------

# {sum:x} is the exact sum of x, {sums:} those of the colours; {worth} what the wishes of record r are worth at the
# rates of its run u; {differs:a|b|c} says that a is not b + c, whatever their size.
RULES: tuple[tuple[int, str, str], ...] = (
    (
        2,
        "a record's mana is not its wishes at the rates of its run",
        f"SELECT r.user_id, r.id, r.run_id, r.mana_credited, {{worth}} FROM {RECORD} r "
        f"LEFT JOIN {RUN} u ON u.id = r.run_id WHERE {CONVERTED} "
        f"AND CAST(r.mana_credited AS text) <> COALESCE(CAST({{worth}} AS text), '?')",
    ),
    (
        2,
        "a user who was not converted was credited",
        f"SELECT r.user_id, r.id, r.run_id, r.mana_credited FROM {RECORD} r "
        f"WHERE NOT ({CONVERTED}) AND r.mana_credited <> 0",
    ),
    (
        3,
        "a wallet's mana is not the sum of its entries",
        f"SELECT w.user_id, w.mana, e.total FROM {WALLET} w LEFT JOIN "
        f"(SELECT user_id, {{sum:amount}} AS total FROM {ENTRY} GROUP BY user_id) e ON e.user_id = w.user_id "
        "WHERE CAST(w.mana AS text) <> COALESCE(CAST(e.total AS text), '0')",
    ),
    (
        3,
        "a wallet's mana is not the balance after its newest entry",
        f"SELECT e.user_id, e.id, e.balance_after, w.mana FROM {ENTRY} e LEFT JOIN {WALLET} w ON w.user_id = e.user_id "
        f"WHERE e.id = (SELECT MAX(n.id) FROM {ENTRY} n WHERE n.user_id = e.user_id) "
        "AND (w.user_id IS NULL OR w.mana <> e.balance_after)",
    ),
    (
        3,
        "an entry's balance does not follow from the one before",
        "SELECT user_id, id, amount, balance_after, before FROM (SELECT user_id, id, amount, balance_after, "
        f"COALESCE(LAG(balance_after) OVER (PARTITION BY user_id ORDER BY id), 0) AS before FROM {ENTRY}) e "
        "WHERE {differs:balance_after|before|amount}",
    ),
    (
        4,
        "a migrated wallet has not exactly one live record",
        f"SELECT w.user_id, COUNT(r.id) FROM {WALLET} w LEFT JOIN {RECORD} r "
        "ON r.user_id = w.user_id AND r.status = 'migrated' "
        "WHERE w.migrated_at IS NOT NULL GROUP BY w.user_id HAVING COUNT(r.id) <> 1",
    ),
    (
        4,
        "a live record has no migrated wallet",
        f"SELECT r.user_id, r.id FROM {RECORD} r LEFT JOIN {WALLET} w ON w.user_id = r.user_id "
        "WHERE r.status = 'migrated' AND w.migrated_at IS NULL",
    ),
    (
        5,
        "a conversion has not exactly its entry",
        f"SELECT r.user_id, r.id, r.mana_before, r.mana_credited, e.amount, e.balance_after FROM {RECORD} r "
        f"LEFT JOIN {ENTRY} e ON e.user_id = r.user_id AND e.kind = 'conversion' AND e.reference = {CONVERSION} "
        f"WHERE (NOT ({CONVERTED}) AND e.id IS NOT NULL) OR ({CONVERTED} AND ("
        "(r.mana_credited = 0 AND e.id IS NOT NULL) OR (r.mana_credited <> 0 AND (e.id IS NULL "
        "OR e.amount <> r.mana_credited OR {differs:e.balance_after|r.mana_before|r.mana_credited}))))",
    ),
    (
        5,
        "a reversal has not exactly its entry",
        f"SELECT r.user_id, r.id, r.status, r.mana_debited, e.amount FROM {RECORD} r "
        f"LEFT JOIN {ENTRY} e ON e.user_id = r.user_id AND e.kind = 'reversal' AND e.reference = {REVERSAL} "
        "WHERE (r.status <> 'rolled_back' AND e.id IS NOT NULL) OR (r.status = 'rolled_back' AND ("
        "(r.mana_debited = 0 AND e.id IS NOT NULL) "
        "OR (COALESCE(r.mana_debited, 1) <> 0 AND (e.id IS NULL OR e.amount <> -COALESCE(r.mana_debited, 0)))))",
    ),
    (
        5,
        "a conversion's entry has neither its record nor a reversal that explains its deletion",
        # With --no-preserve-logs the pair stays. Where all the mana had been spent there is no entry of the reversal:
        # the rule on what was written off, below, adds those up.
        f"SELECT e.user_id, e.id, e.reference, e.amount, v.amount FROM {ENTRY} e "
        f"LEFT JOIN {ENTRY} v ON v.user_id = e.user_id AND v.kind = 'reversal' "
        "AND v.reference = 'reversal' || substr(e.reference, 11) WHERE e.kind = 'conversion' "
        f"AND NOT EXISTS (SELECT 1 FROM {RECORD} r WHERE r.user_id = e.user_id AND e.reference = {CONVERSION}) "
        "AND (NOT {forgotten} OR v.id < e.id OR -v.amount > e.amount)",
    ),
    (
        5,
        "a reversal's entry has no conversion before it",
        f"SELECT v.user_id, v.id, v.reference, v.amount, e.amount FROM {ENTRY} v LEFT JOIN {ENTRY} e "
        "ON e.user_id = v.user_id AND e.kind = 'conversion' AND e.reference = 'conversion' || substr(v.reference, 9) "
        "WHERE v.kind = 'reversal' AND (e.id IS NULL OR e.id >= v.id OR -v.amount > e.amount)",
    ),
    (
        5,
        "mana written off is not that of the reversals",
        "SELECT booked, kept, deleted FROM (SELECT "
        f"(SELECT {{sum:b.shortfall}} FROM {BATCH} b JOIN {RUN} u ON u.id = b.run_id "
        "WHERE u.kind = 'rollback' AND b.status = 'done') AS booked, "
        f"(SELECT {{sum:COALESCE(r.shortfall, 0)}} FROM {RECORD} r WHERE r.status = 'rolled_back') AS kept, "
        f"(SELECT {{sum:e.amount}} FROM {ENTRY} e WHERE e.kind IN ('conversion', 'reversal') AND NOT EXISTS "
        f"(SELECT 1 FROM {RECORD} r WHERE r.user_id = e.user_id AND e.reference IN ({CONVERSION}, {REVERSAL}))) "
        "AS deleted) t WHERE {differs:booked|kept|deleted}",
    ),
    (
        5,
        "an opening balance has no record of an import",
        f"SELECT e.user_id, e.id, e.reference FROM {ENTRY} e WHERE e.kind = 'opening' "
        "AND (e.reference <> 'opening:' || CAST(e.user_id AS text) OR NOT EXISTS "
        f"(SELECT 1 FROM {RECORD} r JOIN {RUN} u ON u.id = r.run_id "
        "WHERE r.user_id = e.user_id AND u.kind = 'import'))",
    ),
    (
        5,
        "an entry's reference is not unique",
        f"SELECT MIN(CAST(user_id AS text)), COALESCE(reference, '?'), COUNT(*) FROM {ENTRY} "
        "GROUP BY reference HAVING COUNT(*) > 1 OR reference IS NULL",
    ),
    (
        6,
        "a reversal does not debit exactly its mana, less a recorded shortfall",
        f"SELECT r.user_id, r.id, r.mana_credited, r.mana_debited, r.shortfall FROM {RECORD} r "
        "WHERE r.status = 'rolled_back' AND (r.mana_debited IS NULL OR r.mana_debited < 0 "
        "OR COALESCE(r.shortfall, 0) < 0 OR {differs:r.mana_credited|r.mana_debited|COALESCE(r.shortfall, 0)})",
    ),
    (
        6,
        "a record was not rolled back by a rollback run, or says so without being rolled back",
        f"SELECT r.user_id, r.id, r.status, u.kind FROM {RECORD} r LEFT JOIN {RUN} u ON u.id = r.reversal_run_id "
        "WHERE (r.status = 'rolled_back' AND (u.id IS NULL OR u.kind <> 'rollback' OR r.reversed_at IS NULL)) "
        "OR (r.status <> 'rolled_back' AND (r.reversal_run_id IS NOT NULL OR r.reversed_at IS NOT NULL "
        "OR r.mana_debited IS NOT NULL)) OR (r.status = 'migrated' AND r.shortfall IS NOT NULL)",
    ),
    (
        6,
        "a rollback's batches do not say what its records say",
        # Its records are all there, or, with --no-preserve-logs, all gone.
        f"SELECT u.id, b.*, r.* FROM {RUN} u JOIN (SELECT run_id, SUM(rolled_back) AS users, {{sums:}}, "
        f"{{sum:mana}} AS mana, {{sum:shortfall}} AS shortfall FROM {BATCH} WHERE status = 'done' GROUP BY run_id) b "
        "ON b.run_id = u.id LEFT JOIN (SELECT reversal_run_id, COUNT(*) AS users, {sums:}, "
        f"{{sum:mana_debited}} AS mana, {{sum:COALESCE(shortfall, 0)}} AS shortfall FROM {RECORD} "
        "WHERE status = 'rolled_back' GROUP BY reversal_run_id) r ON r.reversal_run_id = u.id "
        "WHERE u.kind = 'rollback' AND r.users IS NOT NULL AND (b.users <> r.users OR b.green <> r.green "
        "OR b.blue <> r.blue OR b.red <> r.red OR b.mana <> r.mana OR b.shortfall <> r.shortfall)",
    ),
    (
        6,
        "the rollbacks' batches do not add up to the ledger's reversals",
        "SELECT batches, ledger FROM (SELECT "
        f"(SELECT {{sum:b.mana}} FROM {BATCH} b JOIN {RUN} u ON u.id = b.run_id "
        "WHERE u.kind = 'rollback' AND b.status = 'done') AS batches, "
        f"(SELECT {{sum:-amount}} FROM {ENTRY} WHERE kind = 'reversal') AS ledger) t WHERE batches <> ledger",
    ),
    (
        7,
        "mana is negative",
        f"SELECT user_id, mana, NULL FROM {WALLET} WHERE mana < 0 OR mana IS NULL "
        f"UNION ALL SELECT user_id, balance_after, id FROM {ENTRY} WHERE balance_after < 0 OR balance_after IS NULL",
    ),
    (
        7,
        "a migrated wallet holds wishes",
        f"SELECT user_id, green, blue, red FROM {WALLET} WHERE migrated_at IS NOT NULL "
        "AND (COALESCE(green, 1) <> 0 OR COALESCE(blue, 1) <> 0 OR COALESCE(red, 1) <> 0)",
    ),
    (
        8,
        "a batch does not account for its users",
        f"SELECT b.run_id, b.id, b.selected FROM {BATCH} b "
        "WHERE b.selected <> b.migrated + b.rolled_back + b.skipped + b.failed "
        "OR (b.status <> 'done' AND b.selected <> 0)",
    ),
    (
        8,
        "a run is completed although something is left to do",
        f"SELECT u.id, COUNT(b.id) FROM {RUN} u LEFT JOIN {BATCH} b ON b.run_id = u.id AND b.status = 'planned' "
        "WHERE u.status = 'completed' GROUP BY u.id, u.finished_at HAVING COUNT(b.id) > 0 OR u.finished_at IS NULL",
    ),
    (
        8,
        "a run's batches count other users than its records",
        # A record of a conversion may be gone, deleted by --no-preserve-logs: the next rule counts those.
        # A named user without a wallet was skipped and has no record.
        f"SELECT u.id, b.*, r.* FROM {RUN} u LEFT JOIN (SELECT run_id, SUM(migrated) AS migrated, "
        f"SUM(skipped - {{skips:no_wallet}}) AS skipped, SUM(failed) AS failed FROM {BATCH} WHERE status = 'done' "
        "GROUP BY run_id) b "
        f"ON b.run_id = u.id LEFT JOIN (SELECT r.run_id, SUM(CASE WHEN {CONVERTED} THEN 1 ELSE 0 END) AS migrated, "
        "SUM(CASE WHEN r.status = 'skipped' THEN 1 ELSE 0 END) AS skipped, "
        f"SUM(CASE WHEN r.status = 'failed' THEN 1 ELSE 0 END) AS failed FROM {RECORD} r GROUP BY r.run_id) r "
        "ON r.run_id = u.id WHERE COALESCE(b.migrated, 0) < COALESCE(r.migrated, 0) "
        "OR COALESCE(b.skipped, 0) <> COALESCE(r.skipped, 0) OR COALESCE(b.failed, 0) <> COALESCE(r.failed, 0)",
    ),
    (
        8,
        "records are missing that no rollback has deleted",
        "SELECT converted, records, reversed, reversals FROM (SELECT "
        f"(SELECT COALESCE(SUM(migrated), 0) FROM {BATCH} WHERE status = 'done') AS converted, "
        f"(SELECT COALESCE(SUM(rolled_back), 0) FROM {BATCH} WHERE status = 'done') AS reversed, "
        f"(SELECT COUNT(*) FROM {RECORD} r WHERE {CONVERTED}) AS records, "
        f"(SELECT COUNT(*) FROM {RECORD} r WHERE r.status = 'rolled_back') AS reversals) t "
        "WHERE converted - records <> reversed - reversals",
    ),
    (
        8,
        "a migration's batch does not say what its records say",
        # All its records are there unless some were deleted by --no-preserve-logs.
        f"SELECT b.run_id, b.id, b.migrated, b.green, b.blue, b.red, b.mana, r.* FROM {BATCH} b "
        f"JOIN {RUN} u ON u.id = b.run_id JOIN (SELECT batch_id, COUNT(*) AS users, {{sums:}}, "
        f"{{sum:mana_credited}} AS mana FROM {RECORD} r WHERE {CONVERTED} GROUP BY batch_id) r ON r.batch_id = b.id "
        "WHERE u.kind = 'migration' AND b.migrated = r.users AND ({text:b.green} <> {text:r.green} "
        "OR {text:b.blue} <> {text:r.blue} OR {text:b.red} <> {text:r.red} OR {text:b.mana} <> {text:r.mana})",
    ),
    (
        8,
        "a migration's batch converted wishes into other mana than they are worth",
        f"SELECT r.run_id, r.id, r.mana, {{worth}} FROM {BATCH} r JOIN {RUN} u ON u.id = r.run_id "
        "WHERE u.kind = 'migration' AND {text:r.mana} <> COALESCE(CAST({worth} AS text), '?')",
    ),
    (
        8,
        "a migration's batches do not add up to its conversions in the ledger",
        f"SELECT u.id, COALESCE(CAST(b.mana AS text), '0'), COALESCE(CAST(e.mana AS text), '0') FROM {RUN} u "
        f"LEFT JOIN (SELECT run_id, {{sum:mana}} AS mana FROM {BATCH} WHERE status = 'done' GROUP BY run_id) b "
        "ON b.run_id = u.id LEFT JOIN (SELECT CAST({run_of:reference} AS bigint) AS run_id, {sum:amount} AS mana "
        f"FROM {ENTRY} WHERE kind = 'conversion' GROUP BY 1) e ON e.run_id = u.id WHERE u.kind = 'migration' "
        "AND COALESCE(CAST(b.mana AS text), '0') <> COALESCE(CAST(e.mana AS text), '0')",
    ),
    (
        9,
        "a user has several live records",
        f"SELECT user_id, COUNT(*) FROM {RECORD} WHERE status = 'migrated' GROUP BY user_id HAVING COUNT(*) > 1",
    ),
    (
        9,
        "a user has several records of one run",
        f"SELECT user_id, run_id, COUNT(*) FROM {RECORD} GROUP BY user_id, run_id HAVING COUNT(*) > 1",
    ),
    (
        9,
        "a user was converted again before the conversion was taken back",
        f"SELECT c.user_id, c.reference, d.reference FROM {ENTRY} c JOIN {ENTRY} d ON d.user_id = c.user_id "
        "AND d.kind = 'conversion' AND d.id > c.id WHERE c.kind = 'conversion' "
        f"AND NOT EXISTS (SELECT 1 FROM {ENTRY} v WHERE v.user_id = c.user_id AND v.kind = 'reversal' "
        "AND v.reference = 'reversal' || substr(c.reference, 11) AND v.id > c.id AND v.id < d.id) "
        # taken back without an entry, because everything had been spent
        f"AND NOT EXISTS (SELECT 1 FROM {RECORD} r WHERE r.user_id = c.user_id AND c.reference = {CONVERSION} "
        "AND r.status = 'rolled_back' AND r.mana_debited = 0) "
        f"AND (EXISTS (SELECT 1 FROM {RECORD} r WHERE r.user_id = c.user_id AND c.reference = {CONVERSION}) "
        "OR NOT {forgotten})",
    ),
    (
        9,
        "more than one run is open",
        f"SELECT COUNT(*) FROM {RUN} WHERE status IN ('running', 'paused', 'checking') HAVING COUNT(*) > 1",
    ),
)

# --- Asking -----------------------------------------------------------------------------------------------------------


def violations(
    using: str = "default", *, expected: Endowment | None = None, orphans: Collection[object] = ()
) -> list[Violation]:
    """Return everything that breaks a rule, in one snapshot.

    With ``expected``, an earlier ``endowment()``, rule 1 is among them. ``orphans`` are the keys of users who came with
    mana that no entry backs (dirty legacy data), whom rule 3 cannot hold for.
    """
    unbacked = {_plain(key) for key in orphans}
    found: list[Violation] = []
    with _snapshot(using) as connection:
        for rule, name, sql in RULES:
            rows = _rows(connection, sql)
            found += [Violation(rule, name, row) for row in rows if rule != 3 or _plain(row[0]) not in unbacked]
        if expected is not None:
            found += _lost_or_created(expected, _endowment(connection))
    return found


def assert_books_balance(
    using: str = "default", *, expected: Endowment | None = None, orphans: Collection[object] = ()
) -> None:
    """Fail with every violation of a rule; see ``violations``."""
    found = violations(using, expected=expected, orphans=orphans)
    assert not found, "\n".join(["The books do not balance:", *map(str, found[:20]), f"({len(found)} in all)"])


def endowment(using: str = "default") -> Endowment:
    """Return what must stay the same until the site writes a wallet by itself or users are imported."""
    with _snapshot(using) as connection:
        return _endowment(connection)


def fingerprint(using: str = "default", *, ignoring: Collection[str] = ()) -> dict[str, str]:
    """Return a digest of each table's rows, whatever their order."""
    connection = connections[using]
    with _snapshot(using), connection.cursor() as cursor:
        tables = [name for name in connection.introspection.table_names(cursor) if name not in ignoring]
        return {table: _digest(cursor, table) for table in sorted(tables)}


@contextmanager
def assert_nothing_changes(using: str = "default", *, ignoring: Collection[str] = ()) -> Iterator[None]:
    """Fail if the block changed a row of any table (rule 10)."""
    before = fingerprint(using, ignoring=ignoring)
    yield
    after = fingerprint(using, ignoring=ignoring)
    changed = sorted(table for table in before.keys() | after.keys() if before.get(table) != after.get(table))
    assert not changed, f"These tables were changed: {', '.join(changed)}"


def assert_everyone_is_accounted_for(run: int, using: str = "default") -> None:
    """Fail if a mass migration of everybody left a user without a record, neither migrated before nor by it."""
    with _snapshot(using) as connection:
        rows = _rows(
            connection,
            f"SELECT w.user_id FROM {WALLET} w WHERE w.migrated_at IS NULL AND NOT EXISTS "
            f"(SELECT 1 FROM {RECORD} r WHERE r.user_id = w.user_id AND r.run_id = {int(run)})",
        )
    assert not rows, f"run {run} left out {len(rows)} users: {rows[:20]}"


# --- Rule 1 -----------------------------------------------------------------------------------------------------------


def _endowment(connection: BaseDatabaseWrapper) -> Endowment:
    """Take from the wallets all that was added by a way that leaves a record."""
    wallets = _sums(connection, f"SELECT {{sums:}}, {{sum:mana}} FROM {WALLET}")
    live = _sums(connection, f"SELECT {{sums:}}, {{sum:mana_credited}} FROM {RECORD} WHERE status = 'migrated'")
    fixes = _sums(
        connection,
        f"SELECT {{sum:green_change}}, {{sum:blue_change}}, {{sum:red_change}}, {{sum:mana_change}} FROM {FIX}",
    )
    # conversions and reversals are the migration's, opening balances are part of what was imported
    (booked,) = _sums(connection, f"SELECT {{sum:amount}} FROM {ENTRY} WHERE kind IN ('earn', 'spend', 'adjustment')")
    wishes = dict(
        _rows(connection, f"SELECT colour, {{sum:amount}} FROM {WISH_ENTRY} WHERE kind <> 'adjustment' GROUP BY colour")
    )
    (written_off,) = _sums(
        connection,
        f"SELECT {{sum:b.shortfall}} FROM {BATCH} b JOIN {RUN} u ON u.id = b.run_id "
        "WHERE u.kind = 'rollback' AND b.status = 'done'",
    )
    imports = [_json(row[0]).get("imported", {}) for row in _rows(connection, IMPORTS)]
    added = {
        part: fixes[place] + sum(int(brought.get(part, 0)) for brought in imports)
        for place, part in enumerate((*COLOURS, "mana"))
    }
    for colour in COLOURS:
        added[colour] += int(wishes.get(colour, 0))
    added["mana"] += booked + written_off
    left = {part: wallets[place] - added[part] for place, part in enumerate((*COLOURS, "mana"))}
    rates = _rates()
    value = left["mana"] + sum(rates[colour] * left[colour] for colour in COLOURS)
    return Endowment(
        **{colour: left[colour] + live[place] for place, colour in enumerate(COLOURS)},
        mana=left["mana"] - live[3],
        value=value if _rates_never_changed(connection, rates) else None,
    )


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _lost_or_created(expected: Endowment, actual: Endowment) -> list[Violation]:
    return [
        Violation(1, f"{part} was lost or created", (was, now))
        for part in (*COLOURS, "mana", "value")
        if None not in (was := getattr(expected, part), now := getattr(actual, part)) and was != now
    ]


def _rates() -> Mapping[str, int]:
    rates: Mapping[str, int] = getattr(settings, "WISHES_RATES", None) or {"green": 10, "blue": 100, "red": 1000}
    return rates


def _rates_never_changed(connection: BaseDatabaseWrapper, rates: Mapping[str, int]) -> bool:
    frozen = ", ".join("{rate:" + colour + "}" for colour in COLOURS)
    kinds = _rows(connection, f"SELECT DISTINCT {frozen} FROM {RUN} u WHERE u.kind = 'migration'")
    today = tuple(str(rates[colour]) for colour in COLOURS)
    return all(tuple(map(str, row)) == today for row in kinds)


# --- SQL --------------------------------------------------------------------------------------------------------------


class _ExactSum:
    """SQLite's SUM ends at 64 bits; this one does not."""

    def __init__(self) -> None:
        self.total = 0

    def step(self, value: int | None) -> None:
        self.total += value or 0

    def finalize(self) -> str:
        return str(self.total)


def _worth(*numbers: int | None) -> str | None:
    if None in numbers:
        return None
    amounts, rates = numbers[:3], numbers[3:]
    return str(sum(int(amount or 0) * int(rate or 0) for amount, rate in zip(amounts, rates, strict=True)))


def _differs(whole: int | str | None, first: int | str | None, second: int | str | None) -> bool:
    return whole is None or first is None or second is None or int(whole) != int(first) + int(second)


@contextmanager
def _snapshot(using: str) -> Iterator[BaseDatabaseWrapper]:
    """Open one read-only snapshot, unless a transaction is open already, which is then what is looked at."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        connection.connection.create_aggregate("oracle_sum", 1, _ExactSum)
        connection.connection.create_function("oracle_differs", 3, _differs, deterministic=True)
        connection.connection.create_function("oracle_worth", 6, _worth, deterministic=True)
    if connection.in_atomic_block:
        yield connection
        return
    with transaction.atomic(using=using):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield connection


def _translate(vendor: str, sql: str) -> str:
    """Fill in the macros of the rules."""
    postgres = vendor == "postgresql"
    sql = sql.replace("{sums:}", ", ".join("{sum:" + colour + "} AS " + colour for colour in COLOURS))
    sql = sql.replace("{forgotten}", FORGOTTEN)
    rates = ", ".join("{rate:" + colour + "}" for colour in COLOURS)
    amounts = ", ".join(f"r.{colour}" for colour in COLOURS)
    products = " + ".join(f"r.{colour}::numeric * {{rate:{colour}}}" for colour in COLOURS)
    sql = sql.replace("{worth}", f"({products})" if postgres else f"oracle_worth({amounts}, {rates})")
    macros = {
        "sum": "COALESCE(SUM(({})::numeric), 0)" if postgres else "COALESCE(oracle_sum({}), '0')",
        "differs": "({})::numeric <> ({})::numeric + ({})::numeric" if postgres else "oracle_differs({}, {}, {})",
        "rate": "(u.rates->>'{}')::numeric" if postgres else "json_extract(u.rates, '$.{}')",
        "text": "CAST({} AS text)",
        "unset": "u.options->>'{}' = 'false'" if postgres else "json_extract(u.options, '$.{}') = 0",
        "skips": "COALESCE((skips->>'{}')::bigint, 0)" if postgres else "COALESCE(json_extract(skips, '$.{}'), 0)",
        "run_of": "split_part({}, ':', 2)" if postgres else "substr({}, 12)",
    }
    for name, text in macros.items():
        while (start := sql.find("{" + name + ":")) >= 0:
            end = sql.index("}", start)
            sql = sql[:start] + text.format(*sql[start + len(name) + 2 : end].split("|")) + sql[end + 1 :]
    return sql


def _rows(connection: BaseDatabaseWrapper, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_translate(connection.vendor, sql))
        return list(cursor.fetchall())


def _sums(connection: BaseDatabaseWrapper, sql: str) -> tuple[int, ...]:
    (row,) = _rows(connection, sql)
    return tuple(int(total) for total in row)


def _plain(key: object) -> str:
    return str(key).replace("-", "")


def _digest(cursor: Any, table: str) -> str:
    # Order does not matter, so that an UPDATE to the same values, which moves a row, changes nothing.
    cursor.execute(f'SELECT * FROM "{table}"')
    total, count = 0, 0
    while rows := cursor.fetchmany(5000):
        count += len(rows)
        for row in rows:
            total += int.from_bytes(hashlib.sha256(repr(row).encode()).digest(), "big")
    return f"{count} rows, {total % 2**256:x}"
