"""What the admin's lists have in common."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from mana_migration.models import UserMigration
from wishes.admin import ReadOnlyAdmin, find_users, name_of, number_html
from wishes.html import moment_html

__all__ = [
    "PageAdmin",
    "ReadOnlyAdmin",
    "changelist_link",
    "find_users",
    "moment_html",
    "name_of",
    "number_html",
    "page_link",
    "run_link",
    "status_label",
    "user_link",
]


class PageAdmin(ReadOnlyAdmin):
    """A list that looks up what its visible rows need in one go, in ``complete``."""

    class Media:
        css = {"all": ["mana_migration/pages.css"]}

    def complete(self, rows: list[Any]) -> None:
        """Fetch what the columns show of these rows, and keep it on them."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return a list that completes its page."""
        return _CompletedChangeList


class _CompletedChangeList(ChangeList):
    model_admin: PageAdmin

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        self.model_admin.complete(rows)
        self.result_list = rows


def status_label(status: str, label: str) -> SafeString:
    """Return a status as a word with a mark of its own, so that colour is not the only sign."""
    return format_html('<span class="mm-status mm-status-{}">{}</span>', status, label)


def changelist_link(model: str, label: str, **filters: Any) -> SafeString:
    """Return a link to the rows of a model that belong together."""
    url = reverse(f"admin:mana_migration_{model}_changelist")
    return format_html('<a href="{}?{}">{}</a>', url, urlencode(filters), label)


def run_link(run_id: int | None) -> SafeString | None:
    """Return a run's number as a link to the run."""
    if run_id is None:
        return None
    return format_html(
        '<a href="{}">{}</a>', reverse("admin:mana_migration_migrationrun_change", args=[run_id]), run_id
    )


def page_link(name: str, label: str, *args: Any) -> SafeString:
    """Return a link to a staff page, the label alone where the site does not include those."""
    try:
        return format_html('<a href="{}">{}</a>', reverse(f"mana_migration:{name}", args=args), label)
    except NoReverseMatch:
        return format_html("{}", label)


def user_link(user: Any) -> SafeString:
    """Return a user's name as a link to the user's page."""
    url = reverse("admin:mana_migration_migratinguser_change", args=[user.pk])
    return format_html('<a href="{}">{}</a>', url, name_of(user))


def reason_of(record: UserMigration) -> str:
    """Return why a user failed or was skipped, and the fix that has corrected that since; see ``with_fix``."""
    fix = getattr(record, "fix", None)
    if not fix:
        return record.error_class
    return _("{error}, corrected since by fix {fix}").format(error=record.error_class, fix=fix)
