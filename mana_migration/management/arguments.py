"""What the commands' options accept: argparse types, each with one clear sentence about a bad value."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from mana_migration.domain import options
from mana_migration.errors import UsageError

#: No run is older than this: an earlier date is a typing error that would mean "everything".
EARLIEST_YEAR = 2000

#: The largest number that a BIGINT holds.
LARGEST_NUMBER: Final = 2**63 - 1


def whole_number(value: str) -> int:
    """Accept a whole number from 1 to 2**63 - 1."""
    return _whole_number(value, least=1)


def _whole_number(value: str, *, least: int) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number > LARGEST_NUMBER:
        raise argparse.ArgumentTypeError(f"{value!r}: give a whole number from {least} to {LARGEST_NUMBER}")
    if number < least:
        raise argparse.ArgumentTypeError(f"{value!r}: give a whole number from {least}")
    return number


def number(value: str) -> int:
    """Accept a whole number from 0 to 2**63 - 1."""
    return _whole_number(value, least=0)


def interval(value: str) -> float:
    """Accept a number of seconds above 0, up to a day."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{value!r}: give a number of seconds above 0, up to 86400")
    return seconds


def text(value: str) -> str:
    """Accept text that the database can store: bytes of the command line that are not UTF-8 cannot be, nor NUL."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise argparse.ArgumentTypeError(f"{value!r} is not valid text; give it in UTF-8")
    return value


def chain_head(value: str) -> str:
    """Accept the head of a chain of digests."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not a head: give the 64 hex digits that a report printed")
    return value.lower()


@contextmanager
def _as_argument_error() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def batch_size(value: str) -> int | str:
    """Accept a number of users or ``auto``."""
    with _as_argument_error():
        return options.parse_batch_size(value)


def workers(value: str) -> int:
    """Accept a number of processes."""
    with _as_argument_error():
        return options.parse_workers(value)


def percentage(value: str) -> Decimal:
    """Accept a percentage from 0 to 100."""
    with _as_argument_error():
        return options.parse_threshold(value)


def delay(value: str) -> float | str:
    """Accept seconds or ``auto``."""
    with _as_argument_error():
        return options.parse_delay(value)


def cohort(value: str) -> int:
    """Accept a share of the users such as ``1%``; returns hundredths of a percent."""
    with _as_argument_error():
        return options.parse_cohort(value)


def user(value: str) -> str:
    """Accept a primary key or username, not nothing."""
    if not value.strip():
        raise argparse.ArgumentTypeError("the value is empty; give a primary key or a username")
    return value


def local_moment(naive: datetime, value: str) -> datetime:
    """Return a local time in the configured time zone; an hour that happens twice or never is refused.

    Raises:
        argparse.ArgumentTypeError: it can be read in two ways, or does not exist, or is out of range.
    """
    try:
        first, second = (timezone.make_aware(naive.replace(fold=fold)) for fold in (0, 1))
        apart = first.utcoffset() != second.utcoffset()
        exists = first.astimezone(UTC).astimezone(first.tzinfo).replace(tzinfo=None) == naive.replace(fold=0)
    except (OverflowError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{value!r} is out of range") from error
    if apart and exists:
        raise argparse.ArgumentTypeError(
            f"{value!r} happens twice, as the clocks are set back: give {first.isoformat()} or {second.isoformat()}"
        )
    if apart:
        raise argparse.ArgumentTypeError(
            f"{value!r} does not exist, as the clocks are set forward: give {second.isoformat()} or {first.isoformat()}"
        )
    return first


def moment(value: str) -> datetime:
    """Accept YYYY-MM-DD (the start of that day) or an ISO date-time in the configured time zone, not in the future."""
    try:
        parsed: datetime | None = parse_datetime(value)
        if parsed is None:
            day = parse_date(value)
            parsed = None if day is None else datetime.combine(day, time.min)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not a date: {error}; give YYYY-MM-DD or an ISO date-time"
        ) from error
    if parsed is None:
        raise argparse.ArgumentTypeError(f"{value!r} is not a date; give YYYY-MM-DD or an ISO date-time")
    if timezone.is_naive(parsed):
        parsed = local_moment(parsed, value)
    now = datetime.now(UTC)
    if parsed.year < EARLIEST_YEAR or parsed > now:
        when = "in the future" if parsed > now else f"before the year {EARLIEST_YEAR}"
        raise argparse.ArgumentTypeError(f"{value!r} is {when}: there is no run of that time")
    return parsed


_DURATION: Final = re.compile(r"(?:(?P<hours>\d+)h)?(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+)s)?")


def run_time(value: str) -> datetime:
    """Accept a duration such as 2h, 90m or 1h30m; returns the moment at which it will be over."""
    match = _DURATION.fullmatch(value.strip())
    parts = {name: int(number) for name, number in match.groupdict().items() if number} if match else {}
    duration = timedelta(**parts) if parts and max(parts.values()) <= 1_000_000 else timedelta()
    if not timedelta() < duration <= timedelta(days=30):
        raise argparse.ArgumentTypeError(
            f"{value!r} is not a duration from 1s to 30 days; give one such as 2h or 1h30m"
        )
    return datetime.now(UTC) + duration


def until(value: str) -> datetime:
    """Accept HH:MM, its next occurrence in the configured time zone, or an ISO date-time in the future."""
    now = timezone.localtime(datetime.now(UTC))
    try:
        clock = time.fromisoformat(value.strip()) if re.fullmatch(r"\d\d:\d\d", value.strip()) else None
        parsed = parse_datetime(value.strip()) if clock is None else None
    except ValueError:
        clock = parsed = None
    if clock is not None:
        parsed = datetime.combine(now.date() + timedelta(days=clock <= now.time()), clock)
    if parsed is None:
        raise argparse.ArgumentTypeError(f"{value!r} is not a time; give HH:MM or an ISO date-time")
    if timezone.is_naive(parsed):
        parsed = local_moment(parsed, value)
    if parsed <= now:
        raise argparse.ArgumentTypeError(f"{value!r} is over; give a time in the future")
    return parsed


def setting(value: str) -> tuple[str, str]:
    """Accept NAME=VALUE of a setting that may change while a run is open."""
    name, separator, text = value.partition("=")
    name = name.strip().replace("-", "_")
    if not separator or name not in options.Controls.NAMES:
        names = ", ".join(options.Controls.NAMES)
        raise argparse.ArgumentTypeError(f"{value!r}: give NAME=VALUE with a name of {names}")
    return name, text.strip()


def run_or_setting(value: str) -> int | tuple[str, str]:
    """Accept the number of a run, or NAME=VALUE of a setting that may change while a run is open."""
    return setting(value) if "=" in value else whole_number(value)


def add_window_options(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--run-time`` and ``--until``."""
    window = group.add_mutually_exclusive_group()
    window.add_argument(
        "--run-time",
        type=run_time,
        metavar="DURATION",
        dest="until",
        help="End after this long, such as 2h or 90m: finish the current batch, leave the run open, exit with 0 "
        "(default: no end). The same command resumes the run.",
    )
    window.add_argument(
        "--until",
        type=until,
        metavar="HH:MM",
        help="End at this time in the configured time zone, today or tomorrow, or at an ISO date-time; otherwise as "
        "--run-time.",
    )


def add_workers_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--workers`` and ``--executor``."""
    parser.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help=f"Work with N processes on this machine, from 1 to {options.MOST_WORKERS}, this one among them; SQLite "
        "takes one (default: 1).",
    )
    parser.add_argument(
        "--executor",
        choices=(options.LOCAL, options.CELERY),
        help="Work on this machine (local), or send --workers N tasks to Celery's workers on any machine (celery); "
        "this command then only follows the run to its end (default: local).",
    )


def add_reason_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--reason``."""
    parser.add_argument("--reason", type=text, default="", help="Why, for the record; kept with the run.")


def add_approval_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--approved-by``."""
    parser.add_argument(
        "--approved-by",
        type=text,
        default="",
        metavar="NAME",
        help="The second person who approved a mass run, kept with the run; needed with MANA_MIGRATION_APPROVAL_HOURS, "
        "and for a mass rollback once the migration is closed.",
    )


def add_user_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup, sentence: str) -> None:
    """Add ``--user-id`` with what it does here."""
    parser.add_argument(
        "--user-id",
        action="append",
        type=user,
        default=[],
        metavar="ID",
        dest="user_ids",
        help=f"{sentence} A primary key or a username; pk:57 or username:57 says which. May be repeated.",
    )
