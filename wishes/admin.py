"""The economy in the admin: wallets and both ledgers, to look at and never to touch.

Every list costs the same however many rows the table has: pages are counted up to a bound, searches
use an index, and nothing is joined that the visible page does not show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.core.paginator import Paginator
from django.db.models import DateTimeField, Field, IntegerField, Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.formats import number_format
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from wishes.html import moment_html
from wishes.models import ManaEntry, Wallet, WishEntry

if TYPE_CHECKING:  # generic in the stubs alone
    AnyPaginator = Paginator[Any]
    AnyModelAdmin = admin.ModelAdmin[Any]
else:
    AnyPaginator = Paginator
    AnyModelAdmin = admin.ModelAdmin


Column = Callable[[Any], SafeString | None]


class BoundedPaginator(AnyPaginator):
    """Counts no further than ``LIMIT`` rows, so that a list of millions opens like one of thousands."""

    LIMIT = 5_000

    @cached_property
    def _rows(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[: self.LIMIT + 1].count()

    @property
    def count(self) -> int:
        """Return the number of rows, or the limit where there are more."""
        return min(self._rows, self.LIMIT)

    @property
    def has_more(self) -> bool:
        """Say whether there are rows behind the last page; a search or a filter reaches them."""
        return self._rows > self.LIMIT


def moment_column(field: Field[Any, Any]) -> Column:
    """Return a column that shows a moment as all pages do."""

    @admin.display(description=field.verbose_name, ordering=field.name, empty_value="-")
    def column(row: Any) -> SafeString | None:
        at = getattr(row, field.attname)
        return None if at is None else moment_html(at)

    column.__name__ = field.name
    return column


def number_column(field: Field[Any, Any]) -> Column:
    """Return a column that shows a whole number grouped and to the right."""

    @admin.display(description=field.verbose_name, ordering=field.name, empty_value="-")
    def column(row: Any) -> SafeString | None:
        value = getattr(row, field.attname)
        return None if value is None else number_html(value)

    column.__name__ = field.name
    return column


def number_html(value: int) -> SafeString:
    """Return a whole number with its thousands apart, for a column of numbers."""
    return format_html('<span class="mm-num">{}</span>', number_format(value, force_grouping=True))


class ReadOnlyAdmin(AnyModelAdmin):
    """An admin that shows and never changes, for superusers as well: the services are the only writers."""

    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # counts of everything, again and again
    actions = None
    view_on_site = False

    class Media:
        css = {"all": ["wishes/admin.css"]}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list without the navigation beside it, which would cut the columns off at 1,280 pixels."""
        return super().changelist_view(request, {"is_nav_sidebar_enabled": False, **(extra_context or {})})

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns, with moments and numbers written as on all pages."""
        return [self._column(name) for name in super().get_list_display(request)]

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Return the fields, with moments and numbers written as on all pages."""
        return [
            (title, {**options, "fields": [self._column(name) for name in options["fields"]]})
            for title, options in super().get_fieldsets(request, obj)
        ]

    def _column(self, name: Any) -> Any:
        try:
            field = self.model._meta.get_field(name) if isinstance(name, str) and not hasattr(self, name) else None
        except FieldDoesNotExist:
            field = None
        if isinstance(field, DateTimeField):
            return moment_column(field)
        if isinstance(field, IntegerField) and not field.primary_key:
            return number_column(field)
        return name

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Refuse: rows are made by services."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Refuse: rows are changed by services."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Refuse: history is kept.

        On other pages, where a user is deleted, the models decide: wallets that never held anything go with their
        user, and all else protects the user, which the page says instead of a lack of permissions.
        """
        page = getattr(request.resolver_match, "url_name", None) or ""
        return obj is not None and f"{self.opts.app_label}_{self.opts.model_name}_" not in f"{page}_"


def name_of(user: Any) -> SafeString:
    """Return a username as HTML that neither its markup nor its writing direction can escape from."""
    return format_html("<bdi>{}</bdi>", user.get_username())


def find_users(term: str, using: str | None) -> list[Any]:
    """Return the primary keys of the users whose key or name is exactly this; at most two."""
    model = get_user_model()
    users = model._base_manager.using(using)
    keys = list(users.filter(**{model.USERNAME_FIELD: term}).values_list("pk", flat=True)[:1])
    with contextlib.suppress(ValidationError, ValueError):  # raised where no key looks like this
        keys += users.filter(pk=model._meta.pk.to_python(term)).values_list("pk", flat=True)
    return keys


class _UserRowsAdmin(ReadOnlyAdmin):
    """Rows of one user each, found by the user's exact name or primary key."""

    search_fields = ("pk",)  # shows the search box; get_search_results does the work
    search_help_text = gettext_lazy("The exact username or primary key of a user.")
    list_select_related = ("user",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by user, through an index."""
        term = search_term.strip().replace("\0", "")
        return (queryset.filter(self._fits(term, queryset.db)) if term else queryset), False

    def _fits(self, term: str, using: str | None) -> Q:
        return Q(user__in=find_users(term, using))

    @admin.display(description=gettext_lazy("user"))
    def username(self, row: Any) -> SafeString:
        """Return the name of the row's user."""
        return name_of(row.user)


class _EntryAdmin(_UserRowsAdmin):
    """Entries of a ledger, newest first, found by user or reference."""

    search_help_text = gettext_lazy("The exact username or primary key of a user, or the reference of an entry.")
    list_filter: ClassVar[Any] = ("kind", "created_at")
    sortable_by = ("id",)
    ordering = ("-id",)

    def _fits(self, term: str, using: str | None) -> Q:
        return super()._fits(term, using) | Q(reference=term)


@admin.register(Wallet)
class WalletAdmin(_UserRowsAdmin):
    """Balances as they are now."""

    list_display = ("user_id", "username", "green", "blue", "red", "mana", "migrated_at")
    list_display_links = ("user_id",)
    list_filter = (("migrated_at", admin.EmptyFieldListFilter),)
    sortable_by = ("user_id",)
    ordering = ("user_id",)


@admin.register(ManaEntry)
class ManaEntryAdmin(_EntryAdmin):
    """The mana ledger."""

    list_display = ("id", "username", "kind", "amount", "balance_after", "reference", "created_at")


@admin.register(WishEntry)
class WishEntryAdmin(_EntryAdmin):
    """The wish ledger."""

    list_display = ("id", "username", "kind", "colour", "amount", "balance_after", "reference", "created_at")
    list_filter = ("kind", "colour", "created_at")
