"""How numbers, times and shares are written for people, the same on every screen and page."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Final

from django.utils.formats import get_format, number_format
from django.utils.translation import gettext as _

#: What is written where there is nothing to say.
NOTHING: Final = "-"

_SIZES: Final = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def number(value: float | None) -> str:
    """Write a number with the separators of the language, exactly where it is whole: 1,234,567."""
    if value is None:
        return NOTHING
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.0f}"
    separator = get_format("THOUSAND_SEPARATOR")  # number_format() is thirty times slower: reports write many
    return text if separator == "," else text.replace(",", separator)


def short_number(value: float) -> str:
    """Write a number in the few characters that an axis has: 1.5M."""
    for size, letter in _SIZES:
        if abs(value) >= size:
            return f"{value / size:.1f}".removesuffix(".0") + letter
    return f"{value:.0f}" if value == int(value) else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    """Write a time span in its two largest units: 2 h 05 min, 3 min 20 s, 4.2 s, 12 ms."""
    if seconds is None:
        return NOTHING
    if seconds < 59.5:
        return _short_duration(seconds)
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def _short_duration(seconds: float) -> str:
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def span(low: float, high: float) -> str:
    """Write a range of time: 4 min 10 s to 6 min 00 s, or one value where both read the same."""
    first, last = duration(low), duration(high)
    return first if first == last else f"{first} to {last}"


def percent(share: float | None) -> str:
    """Write a share of 1 in percent; 100 % is never rounded up to, nor 0 % down to."""
    if share is None:
        return NOTHING
    value = share * 100
    if 99.9 < value < 100:
        return f"{number_format(99.9, 1)} %"
    if 0 < value < 0.1:
        return _("under {percent} %").format(percent=number_format(0.1, 1))
    return f"{number_format(value, 1 if value != int(value) else 0)} %"


def when(at: datetime | None, zone: tzinfo | None = None) -> str:
    """Write a moment to the second with its time zone: 2026-11-23 10:02:11 UTC."""
    if at is None:
        return NOTHING
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def clock(at: datetime, zone: tzinfo | None = None) -> str:
    """Write the time of day alone: 10:02:11."""
    return f"{at.astimezone(zone):%H:%M:%S}"


def one_line(text: str, limit: int = 300) -> str:
    """Return text fit for one line of a terminal: no control characters, no overlong words from elsewhere."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
