"""How the pages write numbers, times and statuses: {% load mana %}."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_lazy

from mana_migration.reports import formatting
from wishes import html

register = template.Library()

_COLOURS: Final = {"green": gettext_lazy("green"), "blue": gettext_lazy("blue"), "red": gettext_lazy("red")}


@register.filter
def number(value: float | None) -> str:
    """Write a number with separators: 1,234,567; a dash for None."""
    return formatting.number(value)


@register.filter
def kept(sentence: str) -> str:
    """Write a sentence that is kept in English with a record in the language of the page, where it is one of ours."""
    return gettext(sentence) if sentence else ""


@register.filter
def signed(value: int) -> str:
    """Write a change with its sign: +1,234."""
    return f"{'+' if value >= 0 else '-'}{formatting.number(abs(value))}"


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """Write a moment in the current time zone with the time since, machine-readable as well; a dash for None."""
    return formatting.NOTHING if at is None else html.moment_html(at)


@register.filter
def plain_moment(at: datetime) -> str:
    """Write a moment in the current time zone."""
    return html.plain_moment(at)


@register.filter
def duration(seconds: float | None) -> str:
    """Write a time span in its two largest units: 2 h 05 min; a dash for None."""
    return formatting.duration(seconds)


@register.filter
def percent(share: float | None) -> str:
    """Write a share of 1 in percent; a dash for None."""
    return formatting.percent(share)


@register.filter
def share_of_100(share: float | None) -> str:
    """Write a share of 1 as a number up to 100 that HTML understands in every language."""
    return f"{(share or 0) * 100:.1f}"


@register.filter
def count(value: Any) -> str:
    """Write a number of users; one that is not exact with a mark."""
    return formatting.number(value.users) if value.exact else f"≈ {formatting.number(value.users)}"


@register.simple_tag
def status(value: str, label: str) -> SafeString:
    """Write a status as its word, with a mark and a colour that only repeat it."""
    return format_html('<span class="mm-status mm-status-{}">{}</span>', value, label)


@register.simple_tag
def colour_name(colour: str) -> str:
    """Return a colour of wishes in the language of the page."""
    return str(_COLOURS.get(colour, colour))


@register.simple_tag
def wishes(totals: Any) -> str:
    """Write wishes by colour."""
    return ", ".join(f"{formatting.number(getattr(totals, colour))} {name}" for colour, name in _COLOURS.items())


@register.simple_tag(takes_context=True)
def admin_link(context: Mapping[str, Any], model: str, page: str, label: str, *args: Any, **query: Any) -> SafeString:
    """Return a link to a page of the admin, empty where there is no such page or the account may not see it."""
    user = getattr(context.get("request"), "user", None)
    permission = "view_usermigration" if model == "migratinguser" else f"view_{model}"
    if user is None or context.get("alias_query") or not user.has_perm(f"mana_migration.{permission}"):
        return SafeString("")
    try:
        address = reverse(f"admin:mana_migration_{model}_{page}", args=args)
    except NoReverseMatch:
        return SafeString("")
    return format_html('<a href="{}">{}</a>', f"{address}?{urlencode(query)}" if query else address, label)


@register.simple_tag(takes_context=True)
def user_count(context: Mapping[str, Any], value: Any, standing: str) -> SafeString:
    """Write a number of users as a link to the list of them in the admin, where the account may see it."""
    text = format_html("<b>{}</b>", count(value))
    return admin_link(context, "migratinguser", "changelist", text, standing=standing) or text
