"""How the pages write numbers, times and statuses: {% load mana %}."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mana_migration.reports import formatting

register = template.Library()


@register.filter
def number(value: float | None) -> str:
    """Write a number with separators: 1,234,567; a dash for None."""
    return formatting.number(value)


@register.filter
def signed(value: int) -> str:
    """Write a change with its sign: +1,234."""
    return f"{value:+,}"


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """Write a moment in the current time zone, machine-readable as well; a dash for None."""
    if at is None:
        return formatting.NOTHING
    local = timezone.localtime(timezone.make_aware(at) if timezone.is_naive(at) else at)
    return format_html('<time datetime="{}">{}</time>', local.isoformat(), f"{local:%Y-%m-%d %H:%M:%S %Z}")


@register.filter
def duration(seconds: float | None) -> str:
    """Write a time span in its two largest units: 2 h 05 min; a dash for None."""
    return formatting.duration(seconds)


@register.filter
def percent(share: float | None) -> str:
    """Write a share of 1 in percent; a dash for None."""
    return formatting.percent(share)


@register.simple_tag
def status(value: str, label: str) -> SafeString:
    """Write a status as its word, with a mark and a colour that only repeat it."""
    return format_html('<span class="mm-status mm-status-{}">{}</span>', value, label)
