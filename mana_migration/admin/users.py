"""Users with their migration status, and one user's page."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar, Final

from django.apps.registry import Apps
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connections, models
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration.admin.lists import PageAdmin, name_of, number_html, reason_of, status_label
from mana_migration.selectors import explanation
from mana_migration.selectors.user_list import USERS_SEARCHED, Standing, is_bounded, standings, with_standing

_User = get_user_model()


class MigratingUser(_User):  # type: ignore[misc, valid-type]
    """The site's user as the migration's admin lists them.

    The class lives in a registry of its own: in Django's it would need a schema migration, which
    would have to name the user model that another site chose.
    """

    objects: ClassVar[models.Manager[Any]] = models.Manager()

    class Meta:
        proxy = True
        app_label = "mana_migration"
        apps = Apps()
        verbose_name = gettext_lazy("user with migration status")
        verbose_name_plural = gettext_lazy("users with migration status")


_BOUNDED: Final = format_lazy(
    gettext_lazy(
        "Not all users were looked at: this list holds those among the {users} users with the highest ids, or among "
        "the latest records. The page of a run lists its users by error."
    ),
    users=f"{USERS_SEARCHED:,}",
)


class StandingFilter(admin.SimpleListFilter):
    """Keeps users of one standing."""

    title = gettext_lazy("migration status")
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer every standing."""
        return [(str(value), str(label)) for value, label in Standing.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the users of the standing chosen, all of them without a choice."""
        value = self.value()
        if value not in Standing.values:
            return queryset
        if is_bounded(Standing(value), using=queryset.db):
            messages.info(request, _BOUNDED)
        return with_standing(queryset, Standing(value))


#: The end of every range of names with a common beginning, on SQLite.
_LAST_CHARACTER: Final = chr(0x10FFFF)


@admin.register(MigratingUser)
class MigratingUserAdmin(PageAdmin):
    """Every user with their migration status, and the page that explains their numbers."""

    # Names that no user model has fields of: a field would go before the method.
    list_display = ("shown_key", "shown_username", "shown_standing", "shown_wishes", "shown_mana",
                    "shown_record")  # fmt: skip
    list_display_links = ("shown_key", "shown_username")
    list_filter = (StandingFilter,)
    search_fields = ("pk",)  # shows the search box; get_search_results does the work
    search_help_text = gettext_lazy(
        "The beginning of a username, a primary key, or record:ID for the record of a report."
    )
    sortable_by = ("shown_key",)
    ordering = ("pk",)

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Let in users who may view records."""
        return request.user.has_perm("mana_migration.view_usermigration")

    def complete(self, rows: list[Any]) -> None:
        """Look up the standing of the visible users."""
        found = standings([user.pk for user in rows], using=rows[0]._state.db or "default") if rows else {}
        for user in rows:
            user.found = found[user.pk]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by the beginning of a name or by key, each through its index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.startswith("record:"):
            return queryset.filter(pk__in=explanation.users_of_record(term, queryset.db)), False
        wanted = self._begins_with(term, queryset.db)
        with contextlib.suppress(ValidationError, ValueError):  # raised where no key looks like this
            wanted |= models.Q(pk=_User._meta.pk.to_python(term))
        return queryset.filter(wanted), False

    @staticmethod
    def _begins_with(term: str, using: str) -> models.Q:
        name = _User.USERNAME_FIELD
        if connections[using].vendor == "postgresql":
            return models.Q(**{f"{name}__startswith": term})
        return models.Q(**{f"{name}__gte": term, f"{name}__lt": term + _LAST_CHARACTER})

    @admin.display(description=gettext_lazy("id"), ordering="pk")
    def shown_key(self, user: Any) -> str:
        """Return the primary key."""
        return str(user.pk)

    @admin.display(description=gettext_lazy("username"))
    def shown_username(self, user: Any) -> SafeString:
        """Return the name."""
        return name_of(user)

    @admin.display(description=gettext_lazy("status"))
    def shown_standing(self, user: Any) -> SafeString:
        """Return where the user stands, and why where the user failed or was skipped."""
        label = status_label(user.found.standing, user.found.standing.label)
        if user.found.standing not in (Standing.FAILED, Standing.SKIPPED):
            return label
        return format_html('{} <span class="mm-quiet">{}</span>', label, reason_of(user.found.record))

    @admin.display(description=gettext_lazy("green, blue, red"), empty_value="-")
    def shown_wishes(self, user: Any) -> SafeString | None:
        """Return the wishes now, by colour."""
        wallet = user.found.wallet
        if not wallet:
            return None
        return format_html(
            "{} / {} / {}", *(number_html(getattr(wallet, colour)) for colour in ("green", "blue", "red"))
        )

    @admin.display(description=gettext_lazy("mana"), empty_value="-")
    def shown_mana(self, user: Any) -> SafeString | None:
        """Return the mana now."""
        return number_html(user.found.wallet.mana) if user.found.wallet else None

    @admin.display(description=gettext_lazy("record"), empty_value="-")
    def shown_record(self, user: Any) -> int | None:
        """Return the id of the record that reports show."""
        return user.found.record.pk if user.found.record else None

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show one user: wallet, arithmetic, ledger and history."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        user = self.get_object(request, object_id)
        if user is None:
            raise Http404(f"there is no user {object_id}")
        context = {
            **self.admin_site.each_context(request),
            "title": _("User with migration status"),
            "subtitle": None,
            "opts": self.model._meta,
            "user_name": name_of(user),
            "explanation": explanation.explain(user.pk, using=user._state.db or "default"),
            "media": self.media,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/mana_migration/migratinguser/page.html", context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Refuse: nothing is changed here, so there is no history of changes; the page shows what happened."""
        raise Http404("a user's history is on the user's page")
