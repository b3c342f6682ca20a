"""The Python library: what the commands do, for shells, tests and other code.

    from mana_migration import api

    api.worth(green=3, blue=2, red=1)               # 1230 mana at the rates in force
    api.validate_user(user)                         # errors and warnings, nothing changed
    api.migrate_user(user)                          # one user, at once
    api.migrate_users(progress=print)               # all users, in batches; resumes an open run
    api.migrate_users([user, other])                # these users: who is migrated, skipped, failed
    api.roll_back(users=[user], reason="ticket 7")  # or since=, run=, everything=True
    api.statistics()                                # users, wishes and mana of the whole site

Users are given as user objects or primary keys.  ``using`` is a database alias.  Amounts are exact
integers.  Every error is a ``MigrationError`` whose text says what happened and what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, overload

from django.contrib.auth import get_user_model

from mana_migration.domain.forecast import Forecast
from mana_migration.domain.options import (
    MAX_SELECTED_USERS,
    SKIP,
    Controls,
    MigrationOptions,
    RollbackOptions,
    parse_batch_size,
)
from mana_migration.domain.results import ProgressCallback, RollbackForecast, RunSummary, Totals
from mana_migration.domain.statistics import Statistics
from mana_migration.domain.validation import BY_ID, ERROR, WARNING, Finding
from mana_migration.engine import users as user_keys
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import UserNotFoundError
from mana_migration.selectors.statistics import statistics as site_statistics
from mana_migration.services import dry_run, operation, selected_users, validation
from mana_migration.services.context import RunContext, ignore
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import UserStatus
from wishes import conf as wishes_conf
from wishes.errors import UnknownUserError
from wishes.rates import Rates
from wishes.selectors import user_key

__all__ = [
    "SelectedUsers",
    "Statistics",
    "UserReport",
    "forecast",
    "forecast_rollback",
    "migrate_user",
    "migrate_users",
    "rates",
    "roll_back",
    "statistics",
    "validate_user",
    "worth",
]

#: ``migrate_users`` and ``roll_back`` take their defaults from the commands, but never pause.
_CONTROLS: Final = Controls(delay=0.0)


def rates() -> Rates:
    """Return the conversion rates in force, in mana per wish.

    Raises:
        InvalidRatesError: the setting ``WISHES_RATES`` is wrong.
    """
    return wishes_conf.rates()


def worth(green: int = 0, blue: int = 0, red: int = 0) -> int:
    """Return what these wishes are worth, in mana, at the rates in force."""
    return rates().worth(green, blue, red)


@dataclass(frozen=True, slots=True)
class UserReport:
    """What the checks say of one user; ``valid`` if nothing blocks a conversion."""

    user: str
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def valid(self) -> bool:
        """Say whether there is no error."""
        return not self.errors


def validate_user(user: Any, *, using: str = "default") -> UserReport:
    """Check one user before or after their migration, without changing anything.

    Raises:
        UserNotFoundError: there is no such user.
    """
    key = _key(user, using)
    found: list[Finding] = []
    validation.validate(using=using, phase="both", users=[key], on_finding=found.append, all_hits=True)
    by_severity: dict[str, list[Finding]] = {ERROR: [], WARNING: []}
    notes: list[Finding] = []
    for finding in found:
        if finding.check == "unmigrated_remaining":
            continue  # is about a finished migration, not about a user before theirs
        by_severity.get(BY_ID[finding.check].severity, notes).append(finding)
    return UserReport(key, tuple(by_severity[ERROR]), tuple(by_severity[WARNING]), tuple(notes))


def migrate_user(user: Any, *, using: str = "default") -> RunSummary:
    """Convert one user at once, in one transaction; a user who is migrated already is skipped.

    Raises:
        UserNotFoundError: there is no such user.
        PreflightError, DatabaseUnavailableError: the database is not fit; nothing was changed.
    """
    options = MigrationOptions(users=(_key(user, using),), controls=_CONTROLS)
    return operation.execute(Migration(options), RunContext(using=using))


@dataclass(frozen=True, slots=True)
class SelectedUsers:
    """What became of users who were given one by one, by primary key as text.

    ``skipped`` and ``failed`` hold each user's reason or class of error; ``runs`` are those that handled them.
    """

    migrated: tuple[str, ...]
    skipped: dict[str, str]
    failed: dict[str, str]
    runs: tuple[int, ...]
    totals: Totals


@overload
def migrate_users(
    users: None = None,
    *,
    batch_size: int | str = ...,
    limit: int | None = ...,
    skip_invalid: bool = ...,
    auto_fix: bool = ...,
    progress: ProgressCallback | None = ...,
    using: str = ...,
) -> RunSummary: ...


@overload
def migrate_users(
    users: Iterable[Any],
    *,
    skip_invalid: bool = ...,
    progress: Callable[[int, int], object] | None = ...,
    using: str = ...,
) -> SelectedUsers: ...


def migrate_users(
    users: Iterable[Any] | None = None,
    *,
    batch_size: int | str = Controls().batch_size,
    limit: int | None = None,
    skip_invalid: bool = False,
    auto_fix: bool = False,
    progress: Any = None,
    using: str = "default",
) -> RunSummary | SelectedUsers:
    """Convert all users who are not migrated, resuming an open run, or these users alone.

    An error that concerns one user is not raised: look at ``totals.failed`` of the result, or at ``failed``.

    Args:
        users: user objects or primary keys; they are converted in runs of their own, without a breaker, a thousand in
            a transaction.  None: all users, ``batch_size`` in a transaction.
        batch_size: users in a transaction, or ``auto``.
        limit: users at most; None: all.
        skip_invalid: leave out users with error-level findings instead of refusing the run.
        auto_fix: correct findings that have one right answer first.
        progress: called after each commit: with a ``BatchResult``, whose ``waits_for`` says what a run waits for, or
            of ``users`` with how many are done and how many there are.
        using: database alias.

    Returns:
        The run's summary, or of ``users`` what became of each.

    Raises:
        UserNotFoundError: one of ``users`` does not exist; none was converted.
        FindingsError: error-level findings block the run.
        RunConflictError: another run is open.
        PreflightError, DatabaseUnavailableError: the database is not fit; a run that was open stays so.
    """
    if users is not None:
        return _migrate_selected([_key(user, using) for user in users], skip_invalid, progress, using)
    options = MigrationOptions(
        limit=limit,
        skip_invalid=skip_invalid,
        auto_fix=auto_fix,
        controls=Controls(batch_size=parse_batch_size(batch_size), delay=0.0),
        given=frozenset() if batch_size == Controls().batch_size else frozenset({"batch_size"}),
    )
    return operation.execute(Migration(options), RunContext(using=using, progress=progress or ignore))


def _migrate_selected(
    users: Sequence[str], skip_invalid: bool, progress: Callable[[int, int], object] | None, using: str
) -> SelectedUsers:
    found: dict[str, dict[str, str]] = {status: {} for status in UserStatus.values}
    numbers, totals, keys = list[int](), Totals(), list(dict.fromkeys(users))
    for start in range(0, len(keys), MAX_SELECTED_USERS):
        part = keys[start : start + MAX_SELECTED_USERS]
        options = MigrationOptions(users=tuple(part), skip_invalid=skip_invalid, controls=_CONTROLS)
        done = operation.execute(Migration(options), RunContext(using=using))
        outcomes = selected_users.outcomes(part, done, using=using)
        for key in part:
            status, reason = outcomes.get(key, (UserStatus.SKIPPED, "no_wallet"))
            found[status][key] = reason
        totals.add(done.totals)
        numbers += [] if done.run is None else [done.run]
        if progress is not None:
            progress(start + len(part), len(keys))
    return SelectedUsers(
        migrated=tuple(found[UserStatus.MIGRATED]),
        skipped=found[UserStatus.SKIPPED],
        failed=found[UserStatus.FAILED],
        runs=tuple(numbers),
        totals=totals,
    )


def forecast(*, skip_invalid: bool = False, auto_fix: bool = False, using: str = "default") -> Forecast:
    """Say what ``migrate_users`` would do now; nothing is written."""
    return dry_run.forecast(
        MigrationOptions(skip_invalid=skip_invalid, auto_fix=auto_fix, controls=_CONTROLS), using=using
    )


def roll_back(
    *,
    users: Iterable[Any] = (),
    since: datetime | None = None,
    run: int | None = None,
    everything: bool = False,
    on_shortfall: str = SKIP,
    reason: str = "",
    progress: ProgressCallback = ignore,
    using: str = "default",
) -> RunSummary:
    """Reverse conversions, by exactly one of: users, a date, a run, or all.

    ``on_shortfall`` is ``skip`` or ``write-off``: what to do with users who spent part of their mana.

    Raises:
        UsageError: not exactly one selector was given.
        NothingToRollBackError: there is no such conversion.
        RunConflictError: another rollback is open.
    """
    options = _rollback_options(
        users, since=since, run=run, everything=everything, on_shortfall=on_shortfall, reason=reason, using=using
    )
    return operation.execute(Rollback(options), RunContext(using=using, progress=progress))


def forecast_rollback(
    *,
    users: Iterable[Any] = (),
    since: datetime | None = None,
    run: int | None = None,
    everything: bool = False,
    on_shortfall: str = SKIP,
    using: str = "default",
) -> RollbackForecast:
    """Say what ``roll_back`` would do now, shortfalls included; nothing is written."""
    options = _rollback_options(
        users, since=since, run=run, everything=everything, on_shortfall=on_shortfall, reason="", using=using
    )
    return dry_run.forecast_rollback(options, using=using)


def _rollback_options(
    users: Iterable[Any],
    *,
    since: datetime | None,
    run: int | None,
    everything: bool,
    on_shortfall: str,
    reason: str,
    using: str,
) -> RollbackOptions:
    return RollbackOptions(
        users=tuple(_key(user, using) for user in users),
        since=since,
        run=run,
        everything=everything,
        on_shortfall=on_shortfall,
        reason=reason,
        controls=_CONTROLS,
    )


def statistics(*, using: str = "default") -> Statistics:
    """Count users by status and sum up all wallets, of one moment; the cost grows with the number of users."""
    with read_only_snapshot(using):
        return site_statistics(using)


def _key(user: Any, using: str) -> str:
    """Return the primary key, as text, of a user who exists."""
    try:
        key = user_key(user)
    except UnknownUserError as error:
        raise UserNotFoundError(f"{error}; give a user or a primary key") from error
    if not get_user_model()._base_manager.using(using).filter(pk=key).exists():
        raise UserNotFoundError(f"there is no user with the primary key {key!r}; give a user or a primary key")
    return user_keys.to_text(key)
