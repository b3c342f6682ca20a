"""How a moment is written on a page: local time to the second with its zone, and how long ago that is."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext


def plain_moment(at: datetime) -> str:
    """Write a moment in the current time zone, in the order of the language: 2026-11-23 10:02:11 UTC."""
    return _local(at).strftime(pgettext("strftime", "%Y-%m-%d %H:%M:%S %Z")).rstrip()


def moment_html(at: datetime) -> SafeString:
    """Write a moment and how long ago it is, machine-readable as well."""
    return format_html(
        '<time datetime="{}">{}</time> <span class="mm-ago">{}</span>',
        *(_local(at).isoformat(), plain_moment(at), _ago(at)),
    )


def _local(at: datetime) -> datetime:
    return timezone.localtime(timezone.make_aware(at) if timezone.is_naive(at) else at)


def _ago(at: datetime) -> str:
    seconds = int((_local(timezone.now()) - _local(at)).total_seconds())
    if seconds < 1:
        return _("just now")
    if seconds < 60:
        return _("{count} s ago").format(count=seconds)
    if seconds < 3_600:
        return _("{count} min ago").format(count=seconds // 60)
    if seconds < 86_400:
        return _("{count} h ago").format(count=seconds // 3_600)
    days = seconds // 86_400
    return ngettext("{count} day ago", "{count} days ago", days).format(count=days)
