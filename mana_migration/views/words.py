"""What a run was asked to do and where it is, in words of the page's language."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from mana_migration.domain.options import parse_until
from mana_migration.domain.pacing import AUTO
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.errors import UsageError
from mana_migration.reports.formatting import number
from mana_migration.states import RunStatus
from wishes.html import plain_moment


def shown_status(seen: RunSnapshot) -> tuple[str, str]:
    """Return a run's status and its label: a run on which no process has begun is queued."""
    begun = seen.batches or seen.splits.batches or any(event.kind == "joined" for event in seen.marks)
    if seen.status == RunStatus.RUNNING and not begun:
        return "queued", _("Queued")
    return seen.status, str(RunStatus(seen.status).label)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return what a run's options select, in words; empty where that is all users."""
    found = []
    if users := options.get("users"):
        found.append(ngettext("{count} selected user", "{count} selected users", len(users)).format(count=len(users)))
    if (limit := options.get("limit")) is not None:
        found.append(ngettext("at most {count} user", "at most {count} users", limit).format(count=number(limit)))
    if (cohort := options.get("cohort")) is not None:
        found.append(_("{percent} % of the users").format(percent=f"{cohort / 100:g}"))
    words = {
        "retry_failed": _("only users who failed earlier"),
        "skip_invalid": _("users with errors are skipped"),
        "auto_fix": _("errors are fixed first"),
        "emergency": _("emergency"),
    }
    found += [sentence for name, sentence in words.items() if options.get(name)]
    if options.get("on_shortfall") == "write-off":
        found.append(_("spent mana is written off"))
    if options.get("preserve_logs") is False:
        found.append(_("records are deleted"))
    return found


def setting_words(controls: Mapping[str, Any], *, rollback: bool) -> list[str]:
    """Return the settings in force, in words."""
    found = []
    if "batch_size" in controls:
        size = controls["batch_size"]
        found.append(_("batch size {size}").format(size=_("auto") if size == AUTO else number(size)))
    if "delay" in controls:
        delay = controls["delay"]
        found.append(_("delay auto") if delay == AUTO else _("delay {seconds} s").format(seconds=f"{float(delay):g}"))
    if "error_threshold" in controls and not rollback:
        found.append(_("error threshold {percent} %").format(percent=controls["error_threshold"]))
    if controls.get("until"):
        found.append(_("window until {until}").format(until=window_end(controls["until"])))
    return found


def window_end(until: str) -> str:
    """Return the end of a window, which is kept as an ISO date-time, in the current time zone."""
    return plain_moment(datetime.fromisoformat(until)) if until else ""


def read_window(text: str) -> str:
    """Return the end of a window from what a form sends: a local date and time.

    Raises:
        UsageError: it is none, or is over.
    """
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise UsageError(_("End of the window {value}: give a date and a time.").format(value=repr(text[:40])))
    moment = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    if moment <= timezone.now().astimezone(UTC):
        raise UsageError(_("The window would be over already: it ends at {until}.").format(until=plain_moment(moment)))
    return parse_until(moment.isoformat())
