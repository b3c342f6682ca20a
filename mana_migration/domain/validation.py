"""The integrity checks by name, and what a validation found: plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from mana_migration.domain.chain import Walk
from mana_migration.domain.words import gettext_noop

ERROR, WARNING, INFO = gettext_noop("error"), gettext_noop("warning"), gettext_noop("info")
PRE, POST, BOTH = "pre", "post", "both"

SEVERITIES: Final = (ERROR, WARNING, INFO)
PHASES: Final = (PRE, POST, BOTH)


@dataclass(frozen=True, slots=True)
class Check:
    """One integrity check: how bad a finding is, when it is looked for, what it says, and why nothing fixes it.

    Where ``no_fix`` is empty, auto-fix decides by the user's data (``mana_migration.domain.repairs``).
    """

    id: str
    severity: str
    phase: str
    sentence: str
    no_fix: str = ""
    only_counted: bool = False
    """At millions of users a list says nothing: its findings are listed only when asked for."""

    def belongs_to(self, phase: str) -> bool:
        """Say whether a validation of this phase runs the check."""
        return BOTH in (phase, self.phase) or phase == self.phase


_BY_HAND: Final = "what happened is not known from the data: compare with a backup or an archive"
_DIRECT: Final = "find what writes wallets directly; nothing needs to be repaired"

#: What a person decides about one user, once the cause is gone; ``repairs.decide_by_ledger`` does it.
BY_LEDGER: Final = "remove the cause, then repair it: validate_migration --fix-issues --by-ledger --user-id ID"

CHECKS: Final = (
    Check("negative_balance", ERROR, PRE, gettext_noop("wishes are negative")),
    Check("orphaned_mana", ERROR, PRE, gettext_noop("mana of an unmigrated user is not backed by ledger entries")),
    Check(
        "overflow", ERROR, PRE, gettext_noop("the wishes' worth and the mana together are beyond the limit of BIGINT"),
        "there is no room for so much mana: split or correct the balance by hand",
    ),
    Check(
        "no_user", ERROR, PRE, gettext_noop("the wallet belongs to no user"),
        "create the user with this primary key again, or delete the wallet",
    ),
    Check("migration_inconsistency", ERROR, BOTH, gettext_noop("the wallet's flag and the records disagree")),
    Check(
        "large_conversion", WARNING, PRE, gettext_noop("the wishes are worth more than the limit set for attention"),
        "nothing is wrong; check whether the balance is plausible",
    ),
    Check("already_migrated", INFO, PRE, gettext_noop("the user is migrated"), "nothing is wrong", only_counted=True),
    Check(
        "zero_balance", INFO, PRE, gettext_noop("an unmigrated user has no wishes"), "nothing is wrong",
        only_counted=True,
    ),
    Check(
        "no_wallet", INFO, PRE, gettext_noop("the user has no wallet, so no wishes"), "nothing is wrong",
        only_counted=True,
    ),
    Check(
        "conversion_mismatch", ERROR, POST, "a record's figures contradict each other or the rates of its run",
        "a record is what happened, and never rewritten: compare with a backup or an archive",
    ),
    Check(
        "ledger_mismatch", ERROR, POST,
        "the ledger entries do not say what the wallet holds, or contradict one another", BY_LEDGER,
    ),
    Check(
        "missing_entry", ERROR, POST, "a record lacks its ledger entry, or an entry its record",
        "no entry or record is ever made up: compare with a backup or an archive",
    ),
    Check("negative_mana", ERROR, POST, "mana is negative", BY_LEDGER),
    Check("late_wishes", ERROR, POST, "there are wishes on a migrated wallet", BY_LEDGER),
    Check("value_not_conserved", ERROR, POST, "sums of a run's records, batches and ledger entries differ", _BY_HAND),
    Check(
        "digest_mismatch", ERROR, POST, "records or batches are not what was written when they were handled",
        "a record was changed afterwards: compare with a backup and with heads that were kept elsewhere",
    ),
    Check("run_incomplete", ERROR, POST, "a run's batches do not account for its users", _BY_HAND),
    Check(
        "unmigrated_remaining", WARNING, POST, "the user is not migrated",
        "migrate_users migrates them", only_counted=True,
    ),
    Check(
        "unbooked_change", WARNING, POST,
        "the wallets' value changed beside the ledgers: they were written directly", _DIRECT,
    ),
)  # fmt: skip

BY_ID: Final[Mapping[str, Check]] = {check.id: check for check in CHECKS}

#: Checks of the sums over runs, ledgers and wallets, and of the chains of digests: of no user in particular.
OF_RUNS: Final = ("value_not_conserved", "run_incomplete", "unbooked_change")
OF_CHAINS: Final = ("digest_mismatch",)


def checks_of(phase: str) -> tuple[Check, ...]:
    """Return the checks of a phase, in the order in which they are shown."""
    return tuple(check for check in CHECKS if check.belongs_to(phase))


@dataclass(frozen=True, slots=True)
class Finding:
    """One hit of a check.

    ``user`` is a primary key as text, ``record`` and ``run`` are ids; None where there is none.
    ``figures`` are exact integers by name, in wishes or mana.  ``reason`` says what was done, or why
    nothing can be done automatically.
    """

    check: str
    user: str | None = None
    record: int | None = None
    run: int | None = None
    figures: Mapping[str, int | str | None] = field(default_factory=dict)
    fixed: bool = False
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return {
            "check": self.check,
            "severity": BY_ID[self.check].severity,
            "user": self.user,
            "record": self.record,
            "run": self.run,
            "figures": dict(self.figures),
            "fixed": self.fixed,
            "reason": self.reason,
        }


OnFinding: TypeAlias = Callable[[Finding], None]
"""Take one finding; called while the validation reads on."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found: ``count`` findings, ``fixed`` of them corrected since.

    ``would_fix``: how many auto-fix would correct; None where that was not asked.  ``known``: how many of the rest
    were there before the run that is checked: they are reported and do not fail it.
    """

    id: str
    severity: str
    count: int
    fixed: int = 0
    would_fix: int | None = None
    known: int = 0

    @property
    def remaining(self) -> int:
        """Findings that are still there, and that the run which is checked answers for."""
        return self.count - self.fixed - self.known

    @property
    def blocks(self) -> bool:
        """Say whether error-level findings remain."""
        return self.severity == ERROR and self.remaining > 0

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        values = {"id": self.id, "severity": self.severity, "count": self.count, "fixed": self.fixed}
        return values if self.would_fix is None else values | {"would_fix": self.would_fix}


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What a validation found, as of one moment.

    ``totals``: exact sums over the wallets looked at, by name.  ``baseline``: the same and those of
    the ledgers as text, for a run to keep; empty where only part of the users was looked at.
    ``walk``: what following the chains of digests found; None where they were not followed.  ``kept_at``: when a run
    kept what its own check found, at its end; None for what was found just now.
    """

    phase: str
    checks: tuple[CheckResult, ...]
    totals: Mapping[str, int] = field(default_factory=dict)
    baseline: Mapping[str, str] = field(default_factory=dict)
    walk: Walk | None = None
    seconds: float = 0.0
    kept_at: datetime | None = None

    def as_details(self) -> dict[str, Any]:
        """Return what a run keeps of the check at its end."""
        return {
            "ok": self.ok,
            "checks": {check.id: check.count for check in self.checks if check.count},
            "made": [check.id for check in self.checks],
            "totals": dict(self.totals),
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_details(cls, details: Mapping[str, Any], kept_at: datetime) -> ValidationReport | None:
        """Return what a run kept of the check at its end; None of a run that kept less, as earlier versions did."""
        if "made" not in details:
            return None
        counts = details["checks"]
        return cls(
            phase=POST,
            checks=tuple(CheckResult(name, BY_ID[name].severity, counts.get(name, 0)) for name in details["made"]),
            totals=details["totals"],
            seconds=details["seconds"],
            kept_at=kept_at,
        )

    @classmethod
    def joined(cls, phase: str, parts: Sequence[ValidationReport]) -> ValidationReport:
        """Return what the parts of one validation found together; ``totals`` are those of its part with the sums."""
        counts, made, totals, walk = Counter[str](), set[str](), dict[str, int](), None
        for part in parts:
            counts.update({check.id: check.count for check in part.checks})
            made |= {check.id for check in part.checks}
            walk = part.walk or walk
            totals |= part.totals if any(check.id in OF_RUNS for check in part.checks) else {}
        return cls(
            phase=phase,
            checks=tuple(
                CheckResult(check.id, check.severity, counts[check.id]) for check in CHECKS if check.id in made
            ),
            totals=totals,
            walk=walk,
            seconds=sum(part.seconds for part in parts),
        )

    @property
    def ok(self) -> bool:
        """Say whether no error-level finding remains."""
        return not self.error_count

    @property
    def broken(self) -> str:
        """Return the checks with error-level findings that remain, with their counts; empty where all passed."""
        return ", ".join(f"{check.id} {check.count:,}" for check in self.checks if check.blocks)

    @property
    def error_count(self) -> int:
        """Error-level findings that remain."""
        return self.remaining(ERROR)

    @property
    def warning_count(self) -> int:
        """Warnings that remain."""
        return self.remaining(WARNING)

    def remaining(self, severity: str) -> int:
        """Return the findings of a severity that remain."""
        return sum(check.remaining for check in self.checks if check.severity == severity)

    def check(self, check_id: str) -> CheckResult:
        """Return one check's result; one that was not run has found nothing."""
        found = next((check for check in self.checks if check.id == check_id), None)
        return found or CheckResult(check_id, BY_ID[check_id].severity, 0)

    def expected(self, *, limit: int | None = None, cohort: int | None = None) -> int:
        """Return how many users a migration will have to handle: all, a share in hundredths of a percent, a limit."""
        users = self.totals.get("unmigrated", 0)
        if cohort is not None:
            users = (users * cohort + 5_000) // 10_000
        return users if limit is None else min(users, limit)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON; integers stay exact."""
        return {
            "phase": self.phase,
            "ok": self.ok,
            "checks": [check.as_dict() for check in self.checks],
            "totals": dict(self.totals),
            **({} if self.walk is None else {"chains": [asdict(head) for head in self.walk.heads]}),
            "seconds": round(self.seconds, 3),
            **({} if self.kept_at is None else {"checked_at": self.kept_at.isoformat()}),
        }


@dataclass(frozen=True, slots=True)
class FixReport:
    """What auto-fix did, or would do: findings fixed and left by check.

    ``after`` is the newest integrity fix there was before; ``users`` how many wallets it changed, by
    ``changes`` of green, blue, red and mana in all.
    """

    fixed_by_check: Mapping[str, int] = field(default_factory=dict)
    left_by_check: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False
    after: int = 0
    users: int = 0
    changes: Mapping[str, int] = field(default_factory=dict)

    @property
    def fixed(self) -> int:
        """Findings fixed, over all checks."""
        return sum(self.fixed_by_check.values())

    @property
    def left(self) -> int:
        """Findings looked at and left, over all checks."""
        return sum(self.left_by_check.values())


def remaining(found: Mapping[str, int], fixes: FixReport) -> dict[str, int]:
    """Return the findings by check that are left once these fixes are made; none is 0."""
    left = {check: number - fixes.fixed_by_check.get(check, 0) for check, number in found.items()}
    return {check: number for check, number in left.items() if number > 0}


def by_check(found: Mapping[str, int]) -> str:
    """Write findings by check in a line: ``overflow 1, negative_balance 20``."""
    return ", ".join(f"{check} {number:,}" for check, number in found.items())


def errors_in_words(findings: int) -> str:
    """Say how many error-level findings there are."""
    return f"{findings:,} error-level finding{'s' * (findings != 1)}"
