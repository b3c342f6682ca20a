"""What a run's screen says, as labelled sentences: the same in a terminal, in plain text and on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo

from mana_migration.domain.snapshot import BatchCheck, ErrorRate, EventLine, RunSnapshot
from mana_migration.domain.words import counted
from mana_migration.reports.formatting import clock, duration, number, one_line, percent, span, when
from mana_migration.reports.splits import NEXT_TIME, NOW, split_words
from mana_migration.states import RunStatus, Tone


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the screen: what it is about, what there is to say, and how to take it."""

    label: str
    value: str
    tone: Tone = Tone.PLAIN


def headline(seen: RunSnapshot) -> str:
    """Name the run in a few words: Run 7: migration, running."""
    stalled = ", STALLED" if seen.progress.stalled else ""
    return f"Run {seen.run}: {seen.kind_label.lower()}, {seen.status_label.lower()}{stalled}"


def facts(seen: RunSnapshot, zone: tzinfo | None = None) -> list[Fact]:
    """Return all there is to say about a run, in the order of interest; what does not apply is left out."""
    found = [
        _started(seen, zone),
        Fact("Progress", progress_words(seen)),
        Fact("Users", users_words(seen)),
        Fact("Speed", speed_words(seen)),
        remaining_fact(seen),
        Fact("Mana", mana_words(seen)),
    ]
    if seen.is_rollback or seen.totals.shortfall:
        found.append(Fact("Written off", f"{number(seen.totals.shortfall)} mana that was already spent"))
    found.append(_errors(seen))
    if seen.splits.count:
        found.append(_splits(seen))
    if seen.totals.skips:
        found.append(Fact("Skipped", counts_words(seen.totals.skips), Tone.WARN))
    found.append(_check(seen, zone))
    if seen.waiting:
        found.append(Fact("Held up", one_line(seen.waiting), Tone.WARN))
    found.append(Fact("Settings", controls_words(seen, zone)))
    if seen.reason:
        found.append(Fact("Reason", one_line(seen.reason)))
    if seen.stop_reason:
        found.append(Fact("Ended because", one_line(seen.stop_reason), RunStatus(seen.status).state.tone))
    return found


def progress_words(seen: RunSnapshot) -> str:
    """Say how far the run is: 45 %, 4,500 of about 10,000 users in 90 batches."""
    progress = seen.progress
    batches = f" in {number(seen.batches)} {'batch' if seen.batches == 1 else 'batches'}"
    if seen.imported is not None:
        return (
            f"{counted(seen.imported, 'user')} imported, {number(progress.handled)} of them migrated by the old system"
        )
    if progress.expected is None:
        return f"{counted(progress.handled, 'user')}{batches}"
    if progress.differs:
        expected = f" (about {number(progress.expected)} expected)"
        return f"{percent(progress.share)}, {counted(progress.handled, 'user')}{batches}{expected}"
    about = "about " if seen.is_open else ""
    return (
        f"{percent(progress.share)}, {number(progress.handled)} of {about}{counted(progress.expected, 'user')}{batches}"
    )


def users_words(seen: RunSnapshot) -> str:
    """Say what became of the users handled."""
    totals = seen.totals
    done = f"rolled back {number(totals.rolled_back)}" if seen.is_rollback else f"migrated {number(totals.migrated)}"
    return f"{done}, skipped {number(totals.skipped)}, failed {number(totals.failed)}"


def speed_words(seen: RunSnapshot) -> str:
    """Say how fast it goes, in users per minute."""
    progress = seen.progress
    average = f"{number(progress.rate_average)} users/min on average"
    if not seen.is_open:
        return average if progress.rate_average is not None else "-"
    now = "-" if progress.rate_now is None else number(progress.rate_now)
    return f"{now} users/min now, {average}"


def remaining_fact(seen: RunSnapshot) -> Fact:
    """Say how long it still takes, or why that is not known, or how long it took."""
    progress = seen.progress
    if not seen.is_open:
        return Fact("Took", duration(seen.elapsed) + _paused_words(seen))
    if progress.stalled:
        return Fact("Remaining", f"stalled for {duration(progress.idle)}: {one_line(seen.standstill)}", Tone.BAD)
    if seen.standstill:
        return Fact("Remaining", one_line(seen.standstill), Tone.WARN)
    if progress.remaining is not None:
        return Fact("Remaining", span(progress.remaining.low, progress.remaining.high))
    why = "estimating"
    if seen.status == RunStatus.CHECKING:
        why = "all users processed; running integrity checks"
    elif seen.waiting:
        why = "unknown while it waits"
    elif progress.expected is None:
        why = "unknown: the users were not counted first"
    return Fact("Remaining", why)


def mana_words(seen: RunSnapshot) -> str:
    """Say how much mana was moved, by colour and with the arithmetic."""
    totals = seen.totals
    if seen.is_rollback:  # each conversion is reversed at the rates of its own run
        wishes = f"{number(totals.green)} green, {number(totals.blue)} blue, {number(totals.red)} red"
        return f"{number(totals.mana)} debited ({wishes} given back)"
    parts = [
        f"{number(getattr(totals, colour))} {colour} x {rate} = {number(seen.mana_by_colour[colour])}"
        for colour, rate in seen.rates.items()
    ]
    return f"{number(totals.mana)} credited" + (f" ({', '.join(parts)})" if parts else "")


def error_rate_words(rate: ErrorRate) -> str:
    """Say the error rate against the breaker's limit."""
    limit = "no breaker" if rate.limit is None else f"the breaker trips above {percent(rate.limit)}"
    if rate.share is None:
        return f"no user attempted yet ({limit})"
    return f"{percent(rate.share)}, {number(rate.failed)} of {number(rate.attempted)} attempted ({limit})"


def counts_words(counts: Mapping[str, int]) -> str:
    """List counts by name, the largest first: overflow 12, locked 3."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{one_line(name, 60)} {number(count)}" for name, count in ordered)


def controls_words(seen: RunSnapshot, zone: tzinfo | None = None) -> str:
    """Say which settings are in force."""
    controls = seen.controls
    delay, has_breaker = controls.get("delay"), "error_threshold" in controls and not seen.is_rollback
    parts = [
        f"batch size {controls['batch_size']}" if "batch_size" in controls else "",
        ("delay auto" if delay == "auto" else f"delay {float(delay):g} s") if delay is not None else "",
        f"error threshold {controls['error_threshold']} %" if has_breaker else "",
        f"window until {when(datetime.fromisoformat(controls['until']), zone)}" if controls.get("until") else "",
    ]
    return ", ".join(part for part in parts if part) or "-"


def event_words(event: EventLine, zone: tzinfo | None = None) -> str:
    """Write one event on one line: 10:02:11 Paused by olga: the backup runs."""
    by = f" by {one_line(event.actor, 60)}" if event.actor else ""
    message = f": {one_line(event.message)}" if event.message else ""
    return f"{clock(event.at, zone)} {event.label}{by}{message}"


def _started(seen: RunSnapshot, zone: tzinfo | None) -> Fact:
    ago = f", {duration(seen.elapsed)} ago{_paused_words(seen)}" if seen.is_open else ""
    who = f" by {one_line(seen.actor, 60)} on {one_line(seen.host, 60)}" if seen.actor else ""
    named = f", for {counted(seen.selected_users, 'selected user')}" if seen.selected_users else ""
    target = f", rolling back run {seen.target_run}" if seen.target_run else ""
    return Fact("Started", f"{when(seen.started_at, zone)}{ago}{who}{named}{target}")


def _paused_words(seen: RunSnapshot) -> str:
    held = seen.elapsed - seen.worked
    return f" (including {duration(held)} paused)" if held >= 1 else ""


def _errors(seen: RunSnapshot) -> Fact:
    rate = seen.error_rate
    tone = Tone.PLAIN
    if rate.failed:
        tone = Tone.BAD if rate.limit is not None and rate.share is not None and rate.share > rate.limit else Tone.WARN
    words = error_rate_words(rate)
    return Fact("Errors", f"{words}: {counts_words(seen.totals.errors)}" if seen.totals.errors else words, tone)


def _splits(seen: RunSnapshot) -> Fact:
    words = split_words(seen.splits)
    if not seen.splits.is_dear:
        return Fact("Splits", words)
    return Fact("Splits", f"{words}; {NOW if seen.is_open else NEXT_TIME}", Tone.WARN)


def _check(seen: RunSnapshot, zone: tzinfo | None) -> Fact:
    if seen.check is None:
        return _batch_check(seen)
    tone = {True: Tone.GOOD, False: Tone.BAD, None: Tone.PLAIN}[seen.check.ok]
    return Fact("Integrity", f"{one_line(seen.check.message)}, checked at {clock(seen.check.at, zone)}", tone)


def _batch_check(seen: RunSnapshot) -> Fact:
    """Say what the batches prove of a run that is not checked yet, or never was."""
    found = seen.batch_check
    ended = "" if seen.is_open else "; the run itself was not checked"
    if found is None or not seen.batches:
        return Fact("Integrity", "no batch to verify yet" if seen.is_open else "not checked")
    if found.conserved is False:
        return Fact("Integrity", f"{batch_check_words(found, seen.batches)}{ended}", Tone.BAD)
    return Fact("Integrity", f"{batch_check_words(found, seen.batches)}{ended}")


def batch_check_words(found: BatchCheck, batches: int) -> str:
    """Say how many batches are verified: 1,240 batches verified, value conserved; or which one is wrong."""
    if found.conserved is False:
        wrong = (
            "the sums of the run are not those of its batches"
            if found.first_wrong is None
            else f"batch {found.first_wrong} moved other mana than its wishes are worth"
        )
        return f"{number(found.verified)} of {counted(batches, 'batch', 'batches')} verified; {wrong}"
    verified = f"{counted(found.verified, 'batch', 'batches')} verified"
    return f"{verified}, value conserved" if found.conserved else f"{verified}; their value is checked at the end"
