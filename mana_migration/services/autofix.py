"""Auto-fix: correct what has one reading, under the wallet's lock, booked in the ledgers and undone with its run.

# Note [How a fix is booked]
Every unit has an entry.  Mana that no entry backs is booked twice, as what was found and as what was written off: the
sum of the ledger stays what it was, and the wallet comes down to it.  Wishes are booked as one adjustment of their
colour.  A rollback undoes a fix by a second one that refers to it, with entries of its own: wallets are then as they
were before, invalid values included, and the ledgers and the fixes show both.  No fix is ever changed or deleted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from mana_migration import conf
from mana_migration.domain import chain, repairs
from mana_migration.domain.options import RollbackOptions
from mana_migration.domain.repairs import Balances, Flag, Left, Repair, UserState
from mana_migration.domain.validation import Finding, FixReport, OnFinding
from mana_migration.engine import dialect, failures, users
from mana_migration.engine.integrity import findings, states
from mana_migration.engine.integrity.scope import Scope, ranges
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.models import IntegrityFix, UserMigration
from wishes import conf as wishes_conf
from wishes import guards, posting
from wishes.errors import WriteNotKeptError
from wishes.models import EntryKind, ManaEntry, Wallet, WishEntry
from wishes.moments import from_database
from wishes.rates import COLOURS

#: Users fixed in one transaction: few, because the site waits for their wallets meanwhile.
PAGE: Final = {"postgresql": 500, "sqlite": 70}

#: Tries against the locks of other sessions, and the first wait in seconds; each wait doubles.
TRIES, FIRST_WAIT = 5, 0.1

#: The check under which a repair by the ledger is recorded.
BY_LEDGER: Final = "ledger_mismatch"

#: A number for the lock under which fixes are linked to one another, one transaction after the other.
_LINKING: Final = 0x6D616E61

Decided: TypeAlias = dict[str, tuple[UserState, Repair | Left]]
Decide: TypeAlias = Callable[[UserState], Repair | Left]
Select: TypeAlias = Callable[[Sequence[str]], set[str]]
"""Return those of these users (keys as text) that a run selects."""

_COLUMNS: Final = ("user_id", "green", "blue", "red", "mana", "flag")

_FLAG: Final = (
    "CASE picked.flag WHEN 'clear' THEN NULL WHEN 'set' THEN (SELECT MAX(r.created_at) "
    "FROM mana_migration_usermigration r WHERE r.user_id = picked.user_id AND r.status = 'migrated') "
    "ELSE wishes_wallet.migrated_at END"
)


@dataclass(frozen=True, slots=True)
class _Change:
    """One change of one user's wallet, and what it is: a fix, or with ``undoes`` the undoing of one."""

    user: str
    check: str
    state: UserState
    repair: Repair
    undoes: int | None = None
    migrated_at: str = ""

    @property
    def before(self) -> dict[str, Any]:
        return _as_json(self.repair.before, self.state.migrated_at)

    @property
    def after(self) -> dict[str, Any]:
        kept = self.state.migrated_at if self.repair.flag is Flag.KEEP else self.migrated_at
        return _as_json(self.repair.after, kept, flagged=self.repair.flag is Flag.SET)

    @property
    def changes(self) -> dict[str, int]:
        before, after = self.repair.before, self.repair.after
        return {name: getattr(after, name) - getattr(before, name) for name in (*COLOURS, "mana")}


def fix_all(
    *,
    using: str = "default",
    actor: str,
    run: int | None = None,
    users: Sequence[str] = (),
    select: Select | None = None,
    dry_run: bool = False,
    checks: Sequence[str] = repairs.FIXABLE,
    on_finding: OnFinding | None = None,
) -> FixReport:
    """Fix every finding that has one reading; see Note [One reading] in ``mana_migration.domain.repairs``.

    A wallet that another session holds is waited for last, and left if it is never released.

    Args:
        using: database alias.
        actor: who asked, for the record.
        run: the run that it is made for, if there is one already.
        users: primary keys as text; empty for all.
        select: keeps those whom a run selects; None: all.
        dry_run: only report what would be fixed.
        checks: which findings to fix.
        on_finding: takes each finding that was, or would be, fixed, and each that a lock kept from it.

    Raises:
        django.db.Error: the database refused; the pages before are committed.
        WriteNotKeptError: the database did not keep what was written; the pages before are committed.
    """
    work = _Work(using, actor, run, dry_run, on_finding)
    scope = Scope(users=tuple(users))
    with read_only_snapshot(using) if dry_run else nullcontext():
        for check in checks:
            for page in _pages(connections[using], check, scope):
                chosen = page if select is None else sorted(select(page), key=page.index)
                work.take(check, chosen, partial(repairs.decide, check))
            work.take_held()
    return work.report()


def fix_by_ledger(
    *,
    using: str = "default",
    actor: str,
    users: Sequence[str],
    dry_run: bool = False,
    on_finding: OnFinding | None = None,
) -> FixReport:
    """Bring the wallets of these users to what their ledger and their records say, whatever happened to them.

    Raises:
        django.db.Error, WriteNotKeptError: as ``fix_all`` does.
    """
    work = _Work(using, actor, None, dry_run, on_finding, explain=True)
    with read_only_snapshot(using) if dry_run else nullcontext():
        work.take(BY_LEDGER, list(users), repairs.decide_by_ledger)
        work.take_held()
    return work.report()


def remaining(checks: Sequence[str], select: Select, *, using: str = "default") -> dict[str, int]:
    """Return how many users that a run selects have findings of these checks, by check; none is 0."""
    connection = connections[using]
    found = {check: sum(len(select(page)) for page in _pages(connection, check, Scope())) for check in checks}
    return {check: number for check, number in found.items() if number}


def assign_to_run(run_id: int, fixes: FixReport, *, actor: str, using: str = "default") -> None:
    """Record that fixes were made for a run which could only be opened after them."""
    made = IntegrityFix.objects.using(using).filter(pk__gt=fixes.after, run=None, actor=actor)
    made.update(run_id=run_id)


class _Work:
    """Fixes made page by page, and what came of them."""

    def __init__(
        self,
        using: str,
        actor: str,
        run: int | None,
        dry_run: bool,
        on_finding: OnFinding | None,
        *,
        explain: bool = False,
    ) -> None:
        self._using, self._actor, self._run, self._dry_run = using, actor, run, dry_run
        self._on_finding, self._explain = on_finding, explain
        self._fixed: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._users: set[str] = set()
        self._changes: Counter[str] = Counter()
        self._held: list[tuple[str, list[str], Decide]] = []
        newest = IntegrityFix.objects.using(using).order_by("-pk").values_list("pk", flat=True).first()
        self._after = newest or 0

    def report(self) -> FixReport:
        """Return what was done."""
        fixed, left, changes = dict(self._fixed), dict(self._left), dict(self._changes)
        return FixReport(fixed, left, self._dry_run, self._after, len(self._users), changes)

    def take(self, check: str, keys: Sequence[str], decide: Decide) -> None:
        """Fix these users; those whose wallets another session holds come last, see ``take_held``."""
        if not keys:
            return
        connection = connections[self._using]
        if self._dry_run:
            self._note(check, _decide(connection, check, keys, decide))
            return
        decided, held = _patiently(lambda: self._fix_page(check, keys, decide, wait=False))
        self._note(check, decided)
        if held:
            self._held.append((check, held, decide))

    def take_held(self) -> None:
        """Wait for the wallets that were held, one by one; leave and name those that stay held."""
        held, self._held = self._held, []
        for check, keys, decide in held:
            for key in keys:
                try:
                    decided, _ = _patiently(lambda: self._fix_page(check, [key], decide, wait=True))  # noqa: B023
                except DatabaseError as error:
                    if failures.kind_of(error) is not failures.Failure.TRANSIENT:
                        raise
                    self._leave(check, key, "another session holds the wallet: give the command again")
                    continue
                self._note(check, decided)

    def _fix_page(self, check: str, keys: Sequence[str], decide: Decide, *, wait: bool) -> tuple[Decided, list[str]]:
        """Lock wallets, read them anew, correct them and keep before and after: one transaction."""
        using, connection = self._using, connections[self._using]
        with transaction.atomic(using=using):
            dialect.set_timeouts(connection, lock_ms=conf.lock_timeout_ms(), statement_ms=conf.statement_timeout_ms())
            held = states.lock_wallets(connection, keys, wait=wait)
            decided = _decide(connection, check, [key for key in keys if key not in set(held)], decide)
            changes = [
                _Change(key, check, state, decision)
                for key, (state, decision) in decided.items()
                if isinstance(decision, Repair)
            ]
            _write(using, changes, actor=self._actor, run=self._run)
        return decided, held

    def _note(self, check: str, decided: Decided) -> None:
        for key, (state, decision) in decided.items():
            if isinstance(decision, Repair):
                change = _Change(key, check, state, decision)
                self._fixed[check] += 1
                self._users.add(key)
                for name, amount in change.changes.items():
                    self._changes[name] += amount
                self._report(_finding(change, dry_run=self._dry_run))
            elif decision is not repairs.NOTHING_WRONG:
                self._left[check] += 1
                if self._explain:
                    self._report(Finding(check, key, reason=decision.reason))

    def _leave(self, check: str, key: str, reason: str) -> None:
        self._left[check] += 1
        self._report(Finding(check, key, reason=reason))

    def _report(self, finding: Finding) -> None:
        if self._on_finding is not None:
            self._on_finding(finding)


def _finding(change: _Change, *, dry_run: bool) -> Finding:
    before, after = change.before, change.after
    names = (*COLOURS, "mana", "migrated")
    changed = {name: f"{before[name]} -> {after[name]}" for name in names if before[name] != after[name]}
    reason = f"would be fixed: {change.repair.reason}" if dry_run else f"fixed: {change.repair.reason}"
    record = change.state.live[0].id if change.state.live else None
    return Finding(change.check, change.user, record, figures=changed, fixed=not dry_run, reason=reason)


def _pages(connection: BaseDatabaseWrapper, check: str, scope: Scope) -> Iterator[list[str]]:
    """Yield the users with findings of a check, some at a time; each is read when the page before is done."""
    size = PAGE[connection.vendor]
    terms = WalletTerms(wishes_conf.rates(), conf.large_conversion())
    for part in ranges(connection, scope):
        keys = findings.users_hit(connection, check, part, terms)
        for start in range(0, len(keys), size):
            yield keys[start : start + size]


def _decide(connection: BaseDatabaseWrapper, check: str, keys: Sequence[str], decide: Decide) -> Decided:
    found = states.load(connection, keys, with_ledger=check != "negative_balance")
    return {key: (state, decide(state)) for key, state in found.items()}


def _patiently(work: Callable[[], Any]) -> Any:
    """Try again where another session held a lock."""
    wait = FIRST_WAIT
    for attempt in range(1, TRIES + 1):
        try:
            return work()
        except DatabaseError as error:
            if failures.kind_of(error) is not failures.Failure.TRANSIENT or attempt == TRIES:
                raise
        time.sleep(wait)
        wait *= 2
    raise AssertionError


# --- Undoing ----------------------------------------------------------------------------------------------------------


def undo_of_rollback(rollback: int, options: RollbackOptions, *, actor: str, using: str = "default") -> int:
    """Undo what auto-fix did, for the runs that a rollback reversed, to the users who are not migrated any more.

    May be given again: what was undone stays so.  Returns how many fixes were undone.

    Raises:
        django.db.Error, WriteNotKeptError: as ``fix_all`` does.
    """
    connection = connections[using]
    keys = [users.to_text(key) for key in _undoable(rollback, options, using).values_list("user_id", flat=True)]
    keys = list(dict.fromkeys(keys))
    undone = 0
    for start in range(0, len(keys), PAGE[connection.vendor]):
        page = keys[start : start + PAGE[connection.vendor]]
        undone += _patiently(lambda: _undo_page(rollback, options, page, actor=actor, using=using))  # noqa: B023
    return undone


def _undoable(rollback: int, options: RollbackOptions, using: str) -> QuerySet[IntegrityFix]:
    """Return the fixes that a rollback undoes, the newest first."""
    fixes = IntegrityFix.objects.using(using).filter(undoes=None, undone_by=None)
    live = UserMigration.objects.filter(user_id=OuterRef("user_id"), status="migrated")
    fixes = fixes.filter(
        ~Exists(live), Exists(Wallet.objects.filter(pk=OuterRef("user_id"), migrated_at=None)), run__isnull=False
    )
    if options.run is not None:
        fixes = fixes.filter(run_id=options.run)
    elif options.users:
        fixes = fixes.filter(user_id__in=options.users)
    elif options.since is not None:
        fixes = fixes.filter(Q(run__finished_at=None) | Q(run__finished_at__gte=options.since))
    if options.preserve_logs and (options.users or options.since is not None):
        reversed_now = UserMigration.objects.filter(
            user_id=OuterRef("user_id"), run_id=OuterRef("run_id"), reversal_run_id=rollback
        )
        fixes = fixes.filter(Exists(reversed_now))
    return fixes.order_by("-pk")


def _undo_page(rollback: int, options: RollbackOptions, keys: Sequence[str], *, actor: str, using: str) -> int:
    """Undo the fixes of some users in one transaction, the newest of each user first."""
    connection = connections[using]
    undone = 0
    with transaction.atomic(using=using):
        dialect.set_timeouts(connection, lock_ms=conf.lock_timeout_ms(), statement_ms=conf.statement_timeout_ms())
        states.lock_wallets(connection, keys)
        left = list(_undoable(rollback, options, using).filter(user_id__in=keys))
        while left:
            of_each = {users.to_text(fix.user_id): fix for fix in reversed(left)}  # the last one wins: the newest
            loaded = states.load(connection, list(of_each))
            changes = []
            for key, fix in of_each.items():
                change = _undoing(key, fix, loaded[key])
                if change is not None:
                    changes.append(change)
            _write(using, changes, actor=actor, run=rollback)
            undone += len(changes)
            done = {fix.pk for fix in of_each.values()}
            left = [fix for fix in left if fix.pk not in done]
    return undone


def _undoing(key: str, fix: IntegrityFix, state: UserState) -> _Change | None:
    """Return the change that undoes a fix; None where the wallet has no room for it."""
    wallet = state.wallet
    if wallet is None or (fix.after.get("migrated") and not fix.before.get("migrated")):
        return None  # what it corrected was a conversion, and that is reversed
    restored = Balances(
        wallet.green - fix.green_change,
        wallet.blue - fix.blue_change,
        wallet.red - fix.red_change,
        wallet.mana - fix.mana_change,
    )
    flagged = fix.before.get("migrated_at", "") if not fix.after.get("migrated") else ""
    if flagged and restored.wishes != (0, 0, 0):
        return None
    if restored.mana < 0 or not repairs.in_range(restored):
        return None
    repair = Repair(wallet, restored, Flag.KEEP, f"undoes fix {fix.pk}")
    if flagged:
        repair = replace(repair, flag=Flag.SET)
    return _Change(key, fix.check_id, state, repair, undoes=fix.pk, migrated_at=flagged)


# --- Writing ----------------------------------------------------------------------------------------------------------


def _write(using: str, changes: Sequence[_Change], *, actor: str, run: int | None) -> None:
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


def _record(using: str, changes: Sequence[_Change], *, actor: str, run: int | None) -> list[IntegrityFix]:
    """Write a fix for each change, each linked to the one before it."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LINKING])
    link = IntegrityFix.objects.using(using).order_by("-pk").values_list("link", flat=True).first() or ""
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


def _entries(changes: Sequence[_Change], fixes: Sequence[IntegrityFix]) -> tuple[list[ManaEntry], list[WishEntry]]:
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


def _correct(connection: BaseDatabaseWrapper, changes: Sequence[_Change]) -> None:
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
    changes: Sequence[_Change],
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
    said: dict[str, Any] = {name: getattr(balances, name) for name in (*COLOURS, "mana")}
    said["migrated"] = flagged or bool(migrated_at)
    if migrated_at:
        said["migrated_at"] = migrated_at
    return said
