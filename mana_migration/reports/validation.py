"""What a validation found, as lines for people and as JSON that is written while it is being found."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from mana_migration.domain.validation import BY_ID, PRE, CheckResult, Finding, ValidationReport
from mana_migration.reports.formatting import duration, one_line

#: Chains shown on the screen: those of the newest runs.
CHAINS_SHOWN: Final = 5


class Sink(Protocol):
    """Where findings go while they are found."""

    def take(self, finding: Finding) -> None:
        """Take one finding."""

    def end(self, report: ValidationReport) -> None:
        """Take what the whole came to."""


class Screen:
    """One line a check, the first findings of each, then the totals; with ``shown`` None every finding, as it comes."""

    def __init__(self, write: Callable[[str], Any], *, shown: int | None) -> None:
        self._write, self._shown = write, shown
        self._kept: dict[str, list[Finding]] = defaultdict(list)

    def take(self, finding: Finding) -> None:
        """Print a finding, or keep it for the end."""
        if self._shown is None:
            self._write(f"  {finding_line(finding)}")
        elif len(self._kept[finding.check]) < self._shown:
            self._kept[finding.check].append(finding)

    def end(self, report: ValidationReport) -> None:
        """Print everything but what is printed already."""
        for check in report.checks:
            self._write(_check_line(check))
        if self._kept:
            self._write("findings:")
        for check in report.checks:
            kept = self._kept.get(check.id, [])
            for finding in kept:
                self._write(f"  {finding_line(finding)}")
            if kept and check.count > len(kept):
                self._write(f"  ... and {check.count - len(kept):,} more of {check.id}: --output FILE takes them all")
        for line in [*_totals(report), *_chains(report), verdict(report)]:
            self._write(line)


def verdict(report: ValidationReport) -> str:
    """Return the one sentence that an operator waits for."""
    left = report.check("unmigrated_remaining").remaining if report.phase != PRE else 0
    warnings = _counted(report.warning_count - left, "warning")
    warnings += f", {_counted(left, 'user')} not migrated" if left else ""
    warnings += f" ({duration(report.seconds)})"
    if report.ok:
        return f"ok: no error-level finding, {warnings}"
    remain = "remains" if report.error_count == 1 else "remain"
    return f"not ok: {_counted(report.error_count, 'error-level finding')} {remain}, {warnings}"


def _counted(number: int, noun: str, many: str = "") -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {many or noun + 's'}"


def _check_line(check: CheckResult) -> str:
    fixed = f"{check.fixed:,} fixed" if check.fixed else ""
    if check.would_fix:
        fixed = f"{check.would_fix:,} would be fixed"
    line = f"  {check.severity:<8}{check.id:<24}{check.count:>14,}  {fixed:<18}"
    return f"{line}{BY_ID[check.id].sentence}" if check.count else line.rstrip()


def finding_line(finding: Finding) -> str:
    """Return one finding on one line: check, user by primary key, record, run, figures, reason."""
    whom = [
        f"{name} {value}"
        for name, value in (("user", finding.user), ("record", finding.record), ("run", finding.run))
        if value is not None
    ]
    figures = [
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in finding.figures.items()
        if value is not None
    ]
    reason = f" ({finding.reason})" if finding.reason else ""
    subject = f" {', '.join(whom)}" if whom else ""
    return one_line(f"{finding.check}{subject}: {', '.join(figures) or 'no figures'}{reason}")


def _totals(report: ValidationReport) -> Iterator[str]:
    totals = report.totals
    if not totals:
        return
    users = f"{_counted(totals['users'], 'user')}, " if "users" in totals else ""
    yield (
        f"wallets: {users}{_counted(totals['wallets'], 'wallet')}, {totals['migrated']:,} migrated, "
        f"{totals['unmigrated']:,} not migrated"
    )
    yield (
        f"value:   {totals['green']:,} green + {totals['blue']:,} blue + {totals['red']:,} red wishes, worth "
        f"{totals['worth']:,} mana, + {totals['mana']:,} mana = {totals['value']:,} mana"
    )
    if "value_before" in totals:
        yield (
            f"before:  {totals['value_before']:,} mana when the latest run began, "
            f"{totals['booked_since']:+,} booked since by the site, write-offs and fixes"
        )


def _chains(report: ValidationReport) -> Iterator[str]:
    walk = report.walk
    if walk is None:
        return
    for head in walk.heads[-CHAINS_SHOWN:]:
        yield f"chain:   run {head.run}, {_counted(head.links, 'link')}, head {head.head}"
    if len(walk.heads) > CHAINS_SHOWN:
        yield f"         and {_counted(len(walk.heads) - CHAINS_SHOWN, 'older chain')} that hold: --format json has all"
    if walk.unseen:
        yield f"         {_counted(walk.unseen, 'record')} deleted by --no-preserve-logs could not be compared"
    if walk.undigested:
        batches = _counted(walk.undigested, "batch", "batches")
        yield f"         {batches} done before there were digests could not be compared"
    if walk.met is not None:
        run, number = walk.met
        yield f"         the head that was given is link {number:,} of run {run}: all before it is as it was"


class JsonDocument:
    """Write the one JSON object of a validation, findings first, each as soon as it is found."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._separator = '{"findings": ['

    def take(self, finding: Finding) -> None:
        """Write one finding."""
        self._write(f"{self._separator}{json.dumps(finding.as_dict(), default=str)}")
        self._separator = ", "

    def end(self, report: ValidationReport) -> None:
        """Write what the whole came to."""
        if self._separator != ", ":
            self._write(self._separator)
        self._write("], " + json.dumps(report.as_dict())[1:] + "\n")


class JsonLines:
    """Write each finding as one JSON object on a line of its own."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write

    def take(self, finding: Finding) -> None:
        """Write one finding."""
        self._write(json.dumps(finding.as_dict(), default=str).encode() + b"\n")

    def end(self, report: ValidationReport) -> None:
        """Write nothing more: every line is a finding."""
