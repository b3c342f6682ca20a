"""Writing corrections of wallets: each with its entries and its integrity fix, compared with what the database kept.

# Note [How a fix is booked]
Every unit has an entry.  Mana that no entry backs is booked twice, as what was found and as what was written off: the
sum of the ledger stays what it was, and the wallet comes down to it.  Wishes are booked as one adjustment of their
colour.  A rollback undoes a fix by a second one that refers to it, with entries of its own: wallets are then as they
were before, invalid values included, and the ledgers and the fixes show both.  No fix is ever changed or deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from mana_migration.domain import chain
from mana_migration.domain.repairs import Balances, Flag, Repair, UserState
from mana_migration.engine import dialect, users
from mana_migration.engine.chain import latest_fix_link
from mana_migration.engine.integrity import states
from mana_migration.models import IntegrityFix
from wishes import guards, posting
from wishes.errors import WriteNotKeptError
from wishes.models import EntryKind, ManaEntry, Wallet, WishEntry
from wishes.moments import from_database
from wishes.rates import COLOURS

#: The check under which a repair by the ledger is recorded.
BY_LEDGER: Final = "ledger_mismatch"

_COLUMNS: Final = ("user_id", "green", "blue", "red", "mana", "flag")

_FLAG: Final = (
    "CASE picked.flag WHEN 'clear' THEN NULL WHEN 'set' THEN (SELECT MAX(r.created_at) "
    "FROM mana_migration_usermigration r WHERE r.user_id = picked.user_id AND r.status = 'migrated') "
    "ELSE wishes_wallet.migrated_at END"
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one user's wallet: a fix, or with ``undoes`` the undoing of one."""

    user: str
    check: str
    state: UserState
    repair: Repair
    undoes: int | None = None
    migrated_at: str = ""

    @property
    def before(self) -> dict[str, Any]:
        """Return the wallet before it, for JSON; of a repair by the ledger also up to which entry that confirms it."""
        values = _as_json(self.repair.before, self.state.migrated_at)
        return values | ({"newest_entry": self.state.ledger.newest_entry} if self.check == BY_LEDGER else {})

    @property
    def after(self) -> dict[str, Any]:
        """Return the wallet after it, for JSON."""
        kept = self.state.migrated_at if self.repair.flag is Flag.KEEP else self.migrated_at
        return _as_json(self.repair.after, kept, flagged=self.repair.flag is Flag.SET)

    @property
    def changes(self) -> dict[str, int]:
        """Return the change of each balance, by its name."""
        before, after = self.repair.before, self.repair.after
        return {name: getattr(after, name) - getattr(before, name) for name in (*COLOURS, "mana")}


def write(using: str, changes: Sequence[Change], *, actor: str, run: int | None) -> None:
    """Write fixes, their entries and their wallets, and compare what the database kept; see Note [How a fix is booked].

    The caller holds the wallets' locks.

    Raises:
        WriteNotKeptError: the database kept something else.
    """
    if not changes:
        return
    connection = connections[using]
    fixes = _record(using, changes, actor=actor, run=run)
    mana, wishes = _entries(changes, fixes)
    _create(using, mana)
    _create(using, wishes)
    lifts = any(change.repair.flag is Flag.CLEAR for change in changes)
    with guards.announce_reversal(connection) if lifts else nullcontext():
        _correct(connection, changes)
    for change in changes:
        if change.migrated_at:
            moment = from_database(datetime.fromisoformat(change.migrated_at), connection)
            Wallet.objects.using(using).filter(pk=users.from_text(change.user)).update(migrated_at=moment)
    _compare(using, changes, fixes, mana, wishes)


def _record(using: str, changes: Sequence[Change], *, actor: str, run: int | None) -> list[IntegrityFix]:
    """Write a fix for each change, each linked to the one before it."""
    link = latest_fix_link(using)
    fixes = []
    for change in changes:
        fix = IntegrityFix(
            check_id=change.check,
            user_id=users.from_text(change.user),
            run_id=run,
            before=change.before,
            after=change.after,
            undoes_id=change.undoes,
            actor=actor,
            **{f"{name}_change": value for name, value in change.changes.items()},
        )
        link = fix.link = chain.next_fix_link(link, fix.said())
        fixes.append(fix)
    _create(using, fixes)
    return fixes


def _create(using: str, rows: Sequence[Model]) -> None:
    """Insert rows and give them their ids."""
    if not rows:
        return
    try:
        type(rows[0])._default_manager.using(using).bulk_create(rows)
    except (TypeError, AssertionError) as error:  # Django expects each row back from INSERT ... RETURNING
        raise WriteNotKeptError(
            getattr(rows[0], "user_id", None), f"rows of {rows[0]._meta.db_table} are missing"
        ) from error


def _entries(changes: Sequence[Change], fixes: Sequence[IntegrityFix]) -> tuple[list[ManaEntry], list[WishEntry]]:
    """Return the entries of fixes; see Note [How a fix is booked]."""
    mana, wishes = [], []
    for change, fix in zip(changes, fixes, strict=True):
        reference = f"adjustment:fix:{fix.pk}"
        common = {"user_id": fix.user_id, "kind": EntryKind.ADJUSTMENT}
        ledger, changed = change.state.ledger, change.changes
        unbacked = changed["mana"] if change.undoes else -changed["mana"]
        if not unbacked and change.check == BY_LEDGER:  # the wallet is right, and its newest entry is not
            unbacked = (ledger.newest_balance or 0) - ledger.total
        if unbacked and ledger.total + unbacked >= 0:
            for name, amount, balance in (
                ("found", unbacked, ledger.total + unbacked),
                ("undone" if change.undoes else "written_off", -unbacked, ledger.total),
            ):
                mana.append(ManaEntry(**common, amount=amount, balance_after=balance, reference=f"{reference}:{name}"))
        wishes += [
            WishEntry(
                **common,
                colour=colour,
                amount=changed[colour],
                balance_after=getattr(change.repair.after, colour),
                reference=f"{reference}:{colour}",
            )
            for colour in COLOURS
            if changed[colour]
        ]
    return mana, wishes


def _correct(connection: BaseDatabaseWrapper, changes: Sequence[Change]) -> None:
    row = f"({', '.join(['%s'] * len(_COLUMNS))})"
    names = ", ".join(_COLUMNS)
    statement = dialect.SetStatement(
        vendor=connection.vendor,
        columns=_COLUMNS,
        source=f"WITH given ({names}) AS (VALUES {', '.join([row] * len(changes))}) SELECT {names} FROM given",
        writes=[posting.update_corrected_wallets(dialect.now(connection.vendor), _FLAG)],
        result="SELECT COUNT(*) FROM picked",
    )
    values = [
        value
        for change in changes
        for value in (
            users.to_sql(connection, change.user),
            *(getattr(change.repair.after, name) for name in (*COLOURS, "mana")),
            Flag.KEEP.value if change.migrated_at else change.repair.flag.value,
        )
    ]
    with connection.cursor() as cursor:
        statement.run(cursor, source=values, writes=[[]])


def _compare(
    using: str,
    changes: Sequence[Change],
    fixes: Sequence[IntegrityFix],
    mana: Sequence[ManaEntry],
    wishes: Sequence[WishEntry],
) -> None:
    """Compare the database with what was written: a trigger or a rule of the site's may have dropped or changed it.

    Raises:
        WriteNotKeptError: it differs.
    """
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # so that no trigger is left for the commit
    kept = states.load(connection, [change.user for change in changes])
    booked = {users.to_text(entry.user_id) for entry in mana}
    rows = IntegrityFix.objects.using(using).in_bulk([fix.pk for fix in fixes])
    for change, fix in zip(changes, fixes, strict=True):
        state, ledger = kept[change.user], change.state.ledger
        row = rows.get(fix.pk)
        total = state.ledger.total if change.user in booked else ledger.total
        newest = state.ledger.newest_balance if change.user in booked else total
        flagged = change.repair.flag is Flag.SET or (change.repair.flag is Flag.KEEP and change.state.migrated)
        if (
            state.wallet != change.repair.after
            or state.migrated != flagged
            or total != ledger.total
            or newest != ledger.total
            or row is None
            or row.said() != fix.said()
        ):
            raise WriteNotKeptError(change.user, f"its correction ({change.check}) is not as it was written")
    for entries in (mana, wishes):
        found = {
            (entry.reference, entry.amount, entry.balance_after)
            for entry in (
                type(entries[0]).objects.using(using).filter(reference__in=[e.reference for e in entries])
                if entries
                else ()
            )
        }
        for entry in entries:
            if (entry.reference, entry.amount, entry.balance_after) not in found:
                raise WriteNotKeptError(entry.user_id, f"the entry {entry.reference} is not as it was written")


def _as_json(balances: Balances, migrated_at: str, *, flagged: bool = False) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(balances, name) for name in (*COLOURS, "mana")}
    values["migrated"] = flagged or bool(migrated_at)
    if migrated_at:
        values["migrated_at"] = migrated_at
    return values
