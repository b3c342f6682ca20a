"""Auto-fix: put right what has one reading, under the wallet's lock, and keep what was there before."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Final

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration import conf
from mana_migration.domain import repairs
from mana_migration.domain.repairs import Balances, Flag, Repair, UserState
from mana_migration.domain.validation import Finding, FixReport, OnFinding
from mana_migration.engine import dialect, failures, users
from mana_migration.engine.integrity import findings, states
from mana_migration.engine.integrity.scope import Scope, ranges
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.models import IntegrityFix
from wishes import conf as wishes_conf
from wishes import guards, posting

#: Users fixed in one transaction: few, because the site waits for their wallets meanwhile.
PAGE: Final = {"postgresql": 500, "sqlite": 70}

#: Tries of one page against somebody else's locks, and the first wait in seconds; each wait doubles.
TRIES, FIRST_WAIT = 5, 0.1

_COLUMNS: Final = (
    "user_id", "green", "blue", "red", "mana", "flag", "state_before", "state_after",
    "green_change", "blue_change", "red_change", "mana_change",
)  # fmt: skip

_FLAG: Final = (
    "CASE picked.flag WHEN 'clear' THEN NULL WHEN 'set' THEN (SELECT MAX(r.created_at) "
    "FROM mana_migration_usermigration r WHERE r.user_id = picked.user_id AND r.status = 'migrated') "
    "ELSE wishes_wallet.migrated_at END"
)


def fix_all(
    *,
    using: str = "default",
    actor: str,
    run: int | None = None,
    users: Sequence[str] = (),
    dry_run: bool = False,
    checks: Sequence[str] = repairs.FIXABLE,
    on_finding: OnFinding | None = None,
) -> FixReport:
    """Fix every finding that has one reading; see Note [One reading] in ``mana_migration.domain.repairs``.

    Args:
        using: database alias.
        actor: who asked, for the record.
        run: the run that it is made for, if there is one already.
        users: primary keys as text; empty for everybody.
        dry_run: only say what would be fixed.
        checks: which findings to fix.
        on_finding: told of each finding that was, or would be, fixed.

    Raises:
        django.db.Error: a wallet stayed locked, or the database refused; the pages before are committed.
    """
    fixed: Counter[str] = Counter()
    left: Counter[str] = Counter()
    after = IntegrityFix.objects.using(using).order_by("-pk").values_list("pk", flat=True).first() or 0
    connection = connections[using]
    scope = Scope(users=tuple(users))
    with read_only_snapshot(using) if dry_run else nullcontext():
        for check in checks:
            for page in _pages(connection, check, scope):
                decided = (
                    _decide(connection, check, page)
                    if dry_run
                    else _patiently(lambda: _fix_page(using, check, page, actor=actor, run=run))  # noqa: B023 (called at once)
                )
                for key, (state, decision) in decided.items():
                    if decision is repairs.NOTHING_WRONG:
                        continue
                    if not isinstance(decision, Repair):
                        left[check] += 1
                        continue
                    fixed[check] += 1
                    if on_finding is not None:
                        on_finding(_told(check, key, state, decision, dry_run=dry_run))
    return FixReport(dict(fixed), dict(left), dry_run, after)


def assign_to_run(run_id: int, fixes: FixReport, *, actor: str, using: str = "default") -> None:
    """Say that fixes were made for a run which could only be opened after them."""
    made = IntegrityFix.objects.using(using).filter(pk__gt=fixes.after, run=None, actor=actor)
    made.update(run_id=run_id)


def _told(check: str, key: str, state: UserState, repair: Repair, *, dry_run: bool) -> Finding:
    before = _as_json(repair.before, migrated=state.migrated)
    after = _as_json(repair.after, migrated=_migrated_after(state, repair))
    changed = {name: f"{before[name]} -> {after[name]}" for name in before if before[name] != after[name]}
    reason = f"would be fixed: {repair.reason}" if dry_run else f"fixed: {repair.reason}"
    record = state.live[0].id if state.live else None
    return Finding(check, key, record, figures=changed, fixed=not dry_run, reason=reason)


def _pages(connection: BaseDatabaseWrapper, check: str, scope: Scope) -> Iterator[list[str]]:
    """Yield the users with findings of a check, some at a time; each is read when the page before is done."""
    size = PAGE[connection.vendor]
    terms = WalletTerms(wishes_conf.rates(), conf.large_conversion())
    for part in ranges(connection, scope):
        keys = findings.users_hit(connection, check, part, terms)
        for start in range(0, len(keys), size):
            yield keys[start : start + size]


def _decide(
    connection: BaseDatabaseWrapper, check: str, keys: Sequence[str]
) -> dict[str, tuple[UserState, repairs.Repair | repairs.Left]]:
    found = states.load(connection, keys, with_ledger=check != "negative_balance")
    return {key: (state, repairs.decide(check, state)) for key, state in found.items()}


def _patiently(work: Callable[[], Any]) -> Any:
    """Do it again where somebody else was in the way."""
    wait = FIRST_WAIT
    for attempt in range(1, TRIES + 1):
        try:
            return work()
        except DatabaseError as error:
            if failures.judge(error) is not failures.Failure.TRANSIENT or attempt == TRIES:
                raise
        time.sleep(wait)
        wait *= 2
    raise AssertionError


def _fix_page(
    using: str, check: str, keys: Sequence[str], *, actor: str, run: int | None
) -> dict[str, tuple[UserState, repairs.Repair | repairs.Left]]:
    """Lock some wallets, look again, correct them and keep before and after; one transaction."""
    connection = connections[using]
    with transaction.atomic(using=using):
        dialect.set_timeouts(connection, lock_ms=conf.lock_timeout_ms(), statement_ms=conf.statement_timeout_ms())
        states.lock_wallets(connection, keys)
        decided = _decide(connection, check, keys)
        chosen = {key: (state, decision) for key, (state, decision) in decided.items() if isinstance(decision, Repair)}
        if chosen:
            unflags = any(repair.flag is Flag.CLEAR for _, repair in chosen.values())
            with guards.announce_reversal(connection) if unflags else nullcontext():
                _write(connection, check, chosen, actor=actor, run=run)
    return decided


def _write(
    connection: BaseDatabaseWrapper,
    check: str,
    chosen: dict[str, tuple[UserState, Repair]],
    *,
    actor: str,
    run: int | None,
) -> None:
    vendor = connection.vendor
    now = dialect.now(vendor)
    row = f"({', '.join(['%s'] * len(_COLUMNS))})"
    values = ", ".join([row] * len(chosen))
    json_type = "jsonb" if vendor == "postgresql" else "text"
    names = ", ".join(_COLUMNS)
    changes = "green_change, blue_change, red_change, mana_change"
    record = (
        "INSERT INTO mana_migration_integrityfix "
        f"(check_id, user_id, run_id, before, after, {changes}, actor, created_at) "
        f"SELECT %s, user_id, CAST(%s AS bigint), CAST(state_before AS {json_type}), CAST(state_after AS {json_type}), "
        f"{changes}, %s, {now} FROM picked ORDER BY user_id"
    )
    statement = dialect.SetStatement(
        vendor=vendor,
        columns=_COLUMNS,
        source=f"WITH given ({names}) AS (VALUES {values}) SELECT {names} FROM given",
        writes=[record, posting.update_corrected_wallets(now, _FLAG)],
        result="SELECT COUNT(*) FROM picked",
    )
    parameters = [value for key, (state, repair) in chosen.items() for value in _row(connection, key, state, repair)]
    with connection.cursor() as cursor:
        statement.run(cursor, source=parameters, writes=[[check, run, actor], []])


def _row(connection: BaseDatabaseWrapper, key: str, state: UserState, repair: Repair) -> list[Any]:
    names = ("green", "blue", "red", "mana")
    return [
        users.to_sql(connection, key),
        *(getattr(repair.after, name) for name in names),
        repair.flag.value,
        json.dumps(_as_json(repair.before, migrated=state.migrated)),
        json.dumps(_as_json(repair.after, migrated=_migrated_after(state, repair))),
        *(getattr(repair.after, name) - getattr(repair.before, name) for name in names),
    ]


def _migrated_after(state: UserState, repair: Repair) -> bool:
    return state.migrated if repair.flag is Flag.KEEP else repair.flag is Flag.SET


def _as_json(balances: Balances, *, migrated: bool) -> dict[str, Any]:
    return {
        "green": balances.green,
        "blue": balances.blue,
        "red": balances.red,
        "mana": balances.mana,
        "migrated": migrated,
    }
