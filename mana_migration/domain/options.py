"""What an operator may ask for, as frozen values; raw command-line options stop before here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Final

from mana_migration.domain.pacing import AUTO
from mana_migration.domain.words import gettext_noop
from mana_migration.errors import UsageError

#: Users per batch, in one transaction, where nothing else is asked for.
DEFAULT_BATCH_SIZE: Final = 50

#: Users per batch of an emergency rollback, where nothing else is asked for.
EMERGENCY_BATCH_SIZE: Final = 2_000

#: The largest batch accepted: beyond it a transaction holds its locks for too long.
LARGEST_BATCH: Final = 100_000

#: Percent of failed users above which a migration stops and is rolled back.
DEFAULT_ERROR_THRESHOLD: Final = Decimal(10)

#: Users that may be named one by one; they are handled in a single transaction.
MAX_SELECTED_USERS: Final = 1_000

#: Processes that one command starts on its machine, at most: beyond it they only wait for one another.
MOST_WORKERS: Final = 64

SKIP, WRITE_OFF = "skip", "write-off"

#: Who works on a run: this machine's processes, or Celery's workers anywhere.
LOCAL, CELERY = "local", "celery"


def parse_batch_size(value: object) -> int | str:
    """Return a batch size from a number, its text, or ``auto``.

    Raises:
        UsageError: it is neither, or out of range.
    """
    if value == AUTO:
        return AUTO
    try:
        size = int(str(value))
    except ValueError:
        size = 0
    if not 1 <= size <= LARGEST_BATCH:
        raise UsageError(
            gettext_noop("batch size {value}: give a whole number of users from 1 to {most}, or auto"),
            value=repr(value),
            most=LARGEST_BATCH,
        )
    return size


def parse_threshold(value: object) -> Decimal:
    """Return an error threshold in percent, from 0 to 100.

    Raises:
        UsageError: it is no number or out of range.
    """
    try:
        threshold = Decimal(str(value))
    except InvalidOperation:
        threshold = Decimal(-1)
    if not threshold.is_finite() or not 0 <= threshold <= 100:
        raise UsageError(gettext_noop("error threshold {value}: give a percentage from 0 to 100"), value=repr(value))
    return threshold


def parse_delay(value: object) -> float | str:
    """Return the pause between batches in seconds, or ``auto``.

    Raises:
        UsageError: it is neither, negative or above an hour.
    """
    if value == AUTO:
        return AUTO
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise UsageError(
            gettext_noop("delay {value}: give a number of seconds from 0 to 3600, or auto"), value=repr(value)
        )
    return seconds


def parse_until(value: object) -> str:
    """Return the end of a window as an ISO date-time with its zone, from such a text; empty or ``none`` for none.

    Raises:
        UsageError: it is no date-time, or has no zone.
    """
    text = str(value or "").strip()
    if text in ("", "none"):
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"until {text!r}: give an ISO date-time with its zone, such as 2026-11-24T05:00+01:00, or none"
        )
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def parse_workers(value: object) -> int:
    """Return a number of processes on one machine from a number or its text.

    Raises:
        UsageError: it is no whole number, or out of range.
    """
    try:
        workers = int(str(value))
    except ValueError:
        workers = 0
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(
            gettext_noop("{value} workers: give a whole number of processes from 1 to {most}"),
            value=repr(value),
            most=MOST_WORKERS,
        )
    return workers


def parse_cohort(value: str) -> int:
    """Return a share of the users in hundredths of a percent, from a text such as ``1%`` or ``0.25%``.

    Raises:
        UsageError: it is no percentage from 0.01 to 100 with at most two decimals.
    """
    try:
        share = Decimal(value.removesuffix("%").strip()) * 100
    except InvalidOperation:
        share = Decimal(0)
    if not share.is_finite() or share != share.to_integral_value() or not 1 <= share <= 10_000:
        raise UsageError(
            gettext_noop("cohort {value}: give a percentage from 0.01% to 100% with at most two decimals"),
            value=repr(value),
        )
    return int(share)


@dataclass(frozen=True, slots=True)
class Controls:
    """What may be changed while a run is open; each change is an event.

    ``batch_size`` in users or ``auto``; ``delay`` between batches in seconds or ``auto``;
    ``error_threshold`` in percent of the users attempted; ``until``: the end of the run's window as
    an ISO date-time with its zone, empty for none.
    """

    NAMES: ClassVar = ("batch_size", "delay", "error_threshold", "until")

    batch_size: int | str = DEFAULT_BATCH_SIZE
    delay: float | str = AUTO
    error_threshold: Decimal = DEFAULT_ERROR_THRESHOLD
    until: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the controls for JSON; the window only where there is one."""
        values = {"batch_size": self.batch_size, "delay": self.delay, "error_threshold": str(self.error_threshold)}
        return values | ({"until": self.until} if self.until else {})

    def window_is_over(self) -> bool:
        """Say whether the run has a window that has ended."""
        return bool(self.until) and datetime.now(UTC) >= datetime.fromisoformat(self.until)

    def contradictions(self, asked: Controls, given: Collection[str]) -> list[str]:
        """Return, in words, where these controls in force are not those asked for by name."""
        return [
            f"{name} is {self.as_dict()[name]!r}, not {asked.as_dict()[name]!r}"
            for name in self.as_dict()
            if name != "until" and name in given and getattr(self, name) != getattr(asked, name)
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Controls:
        """Build controls from JSON; what is absent has its default.

        Raises:
            UsageError: a value is out of range.
        """
        default = cls()
        return cls(
            batch_size=parse_batch_size(values.get("batch_size", default.batch_size)),
            delay=parse_delay(values.get("delay", default.delay)),
            error_threshold=parse_threshold(values.get("error_threshold", default.error_threshold)),
            until=parse_until(values.get("until", "")),
        )


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """What a migration run is asked to do; frozen on the run.

    ``users``: primary keys as text of named users, empty for all.  ``limit``: users at most, None for
    all.  ``cohort``: share of the users in hundredths of a percent, None for all.  ``given``: the
    controls that were asked for by name; the others merely have their defaults and contradict nothing.
    """

    users: tuple[str, ...] = ()
    limit: int | None = None
    cohort: int | None = None
    skip_invalid: bool = False
    retry_failed: bool = False
    auto_fix: bool = False
    auto_rollback: bool = True
    plan_digest: str = ""
    controls: Controls = field(default_factory=Controls)
    given: frozenset[str] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """Return the frozen options for JSON; the controls are kept apart."""
        return {
            "users": list(self.users),
            "limit": self.limit,
            "cohort": self.cohort,
            "skip_invalid": self.skip_invalid,
            "retry_failed": self.retry_failed,
            "auto_fix": self.auto_fix,
            "auto_rollback": self.auto_rollback,
            "plan_digest": self.plan_digest,
        }

    def require_valid(self) -> None:
        """Refuse values of types and sizes that the command line would not let through.

        Raises:
            UsageError: an option has one.
        """
        kinds = dict.fromkeys(("skip_invalid", "retry_failed", "auto_fix", "auto_rollback"), bool)
        wrong = {name for name, kind in {**kinds, "plan_digest": str}.items() if type(getattr(self, name)) is not kind}
        for name, most in (("limit", 2**63 - 1), ("cohort", 10_000)):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value <= most):
                wrong.add(name)
        if wrong:
            name = min(wrong)
            raise UsageError(f"{name} {str(getattr(self, name))[:50]!r} is not a value that this option can have")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], controls: Mapping[str, Any]) -> MigrationOptions:
        """Build options from what ``as_dict`` returned and the controls kept beside it."""
        known = {name: values[name] for name in cls().as_dict() if name in values and name != "users"}
        return cls(users=tuple(values.get("users", ())), controls=Controls.from_dict(controls), **known)


@dataclass(frozen=True, slots=True)
class RollbackOptions:
    """What a rollback is asked to reverse; frozen on the run.  Exactly one selector is given.

    ``users``: primary keys as text.  ``since``: conversions at or after that moment.  ``run``: those
    of one run.  ``everything``: all.  ``until`` is the moment of the start, so that the selection is
    frozen.  ``approved_by``: a second person, who is needed once the migration is closed.  ``keep_fixes``
    leaves what auto-fix did for the runs reversed.  ``given``: as for a migration.
    """

    users: tuple[str, ...] = ()
    since: datetime | None = None
    run: int | None = None
    everything: bool = False
    emergency: bool = False
    on_shortfall: str = SKIP
    preserve_logs: bool = True
    reason: str = ""
    approved_by: str = ""
    until: datetime | None = None
    breaker: bool = False
    keep_fixes: bool = False
    controls: Controls = field(default_factory=Controls)
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        given = [bool(self.users), self.since is not None, self.run is not None, self.everything]
        if sum(given) != 1:
            raise UsageError(
                "a rollback takes exactly one of: selected users, a date, a run, or all; "
                + ("none was given" if not any(given) else "more than one was given")
            )

    @property
    def write_off(self) -> bool:
        """Say whether spent mana is booked as shortfall instead of leaving the user migrated."""
        return self.emergency or self.on_shortfall == WRITE_OFF

    def as_dict(self) -> dict[str, Any]:
        """Return the frozen options for JSON; the controls are kept apart."""
        return {
            "users": list(self.users),
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "run": self.run,
            "everything": self.everything,
            "emergency": self.emergency,
            "on_shortfall": self.on_shortfall,
            "preserve_logs": self.preserve_logs,
            "breaker": self.breaker,
            **({"keep_fixes": True} if self.keep_fixes else {}),
            **({"approved_by": self.approved_by} if self.approved_by else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], controls: Mapping[str, Any]) -> RollbackOptions:
        """Build options from what ``as_dict`` returned and the controls kept beside it."""
        known = dict(values)
        known["users"] = tuple(known.get("users", ()))
        for name in ("since", "until"):
            known[name] = datetime.fromisoformat(known[name]) if known.get(name) else None
        return cls(**known, controls=Controls.from_dict(controls))
