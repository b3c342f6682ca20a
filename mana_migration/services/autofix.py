"""Auto-fix: correct what has one reading, under the wallet's lock, booked in the ledgers and undone with its run.

How a fix is written is in ``corrections``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, OuterRef, Q, QuerySet

from mana_migration import conf
from mana_migration.domain import repairs
from mana_migration.domain.options import RollbackOptions
from mana_migration.domain.repairs import Balances, Flag, Left, Repair, UserState
from mana_migration.domain.validation import Finding, FixReport, OnFinding
from mana_migration.engine import dialect, failures, users
from mana_migration.engine.integrity import findings, states
from mana_migration.engine.integrity.scope import Scope, ranges
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.models import IntegrityFix, UserMigration
from mana_migration.services import corrections
from mana_migration.services.corrections import Change
from wishes import conf as wishes_conf
from wishes.models import Wallet
from wishes.rates import COLOURS

#: Users fixed in one transaction: few, because the site waits for their wallets meanwhile.
PAGE: Final = {"postgresql": 500, "sqlite": 70}

#: Tries against the locks of other sessions, and the first wait in seconds; each wait doubles.
TRIES, FIRST_WAIT = 5, 0.1

Decided: TypeAlias = dict[str, tuple[UserState, Repair | Left]]
Decide: TypeAlias = Callable[[UserState], Repair | Left]
Select: TypeAlias = Callable[[Sequence[str]], set[str]]
"""Return those of these users (keys as text) that a run selects."""


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
        work.take(corrections.BY_LEDGER, list(users), repairs.decide_by_ledger)
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
                Change(key, check, state, decision)
                for key, (state, decision) in decided.items()
                if isinstance(decision, Repair)
            ]
            corrections.write(using, changes, actor=self._actor, run=self._run)
        return decided, held

    def _note(self, check: str, decided: Decided) -> None:
        for key, (state, decision) in decided.items():
            if isinstance(decision, Repair):
                change = Change(key, check, state, decision)
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


def _finding(change: Change, *, dry_run: bool) -> Finding:
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
            corrections.write(using, changes, actor=actor, run=rollback)
            undone += len(changes)
            done = {fix.pk for fix in of_each.values()}
            left = [fix for fix in left if fix.pk not in done]
    return undone


def _undoing(key: str, fix: IntegrityFix, state: UserState) -> Change | None:
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
    return Change(key, fix.check_id, state, repair, undoes=fix.pk, migrated_at=flagged)
