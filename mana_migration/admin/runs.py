"""Runs with their batches, events, records and fixes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration.admin.lists import (
    PageAdmin,
    changelist_link,
    find_users,
    moment_html,
    number_html,
    page_link,
    reason_of,
    run_link,
    status_label,
    user_link,
)
from mana_migration.domain.results import Totals
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, RunEvent, RunRequest, UserMigration
from mana_migration.reports.formatting import number
from mana_migration.selectors.run_list import totals_of
from mana_migration.selectors.runs import event_line
from mana_migration.states import PROBLEM_STATUSES

_OUTCOMES = ("selected", "migrated", "rolled_back", "skipped", "failed")

#: Events shown on a run's page; the rest is one link away.
EVENTS_SHOWN = 50


def as_list(values: dict[str, Any]) -> SafeString | str:
    """Return a JSON object as a plain list of its entries."""
    if not values:
        return _("none")
    items = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items())
    return format_html('<ul class="mm-plain">{}</ul>', format_html_join("", "<li>{}: {}</li>", items))


class SelectedUsersFilter(admin.SimpleListFilter):
    """Leaves out the runs of single users, unless they are asked for."""

    title = gettext_lazy("users")
    parameter_name = "users"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Offer runs of single users, and all runs."""
        return [("selected", gettext_lazy("Only runs for single users")), ("all", gettext_lazy("All runs"))]

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Call what is shown without a choice by its name."""
        first, *others = super().choices(changelist)
        yield {**first, "display": gettext_lazy("Mass runs")}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep mass runs, or those of single users."""
        single = ~Q(options__users=[]) & Q(options__has_key="users")
        if self.value() == "all":
            return queryset
        return queryset.filter(single) if self.value() == "selected" else queryset.exclude(single)


class ErrorFilter(admin.SimpleListFilter):
    """Keeps the records of one class of errors, of those that the latest runs had."""

    title = gettext_lazy("error")
    parameter_name = "error_class"
    RUNS = 50

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Offer the classes of errors and reasons for skipping of the latest runs."""
        runs = list(MigrationRun.objects.order_by("-id")[: self.RUNS])
        totals = totals_of(runs, using="default").values()
        return [(name, name) for name in sorted({name for total in totals for name in (*total.errors, *total.skips)})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the records of the class chosen; the statuses lead to the index of those who failed or were skipped."""
        value = self.value()
        return queryset.filter(error_class=value, status__in=PROBLEM_STATUSES) if value else queryset


@admin.register(MigrationRun)
class MigrationRunAdmin(PageAdmin):
    """Runs with their figures."""

    list_display = (
        "id",
        "kind",
        "state",
        "migrated",
        "rolled_back",
        "skipped",
        "failed",
        "mana",
        "created_at",
        "actor",
    )
    list_filter = ("kind", "status", SelectedUsersFilter)
    date_hierarchy = "created_at"
    search_fields = ("actor",)  # shows the search box; get_search_results does the work
    search_help_text = gettext_lazy("The number of a run, or who started it.")
    sortable_by = ("id",)
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("kind", "state", "stop_reason", "related")}),
        (gettext_lazy("Figures"), {"fields": ("users", "wishes", "mana", "shortfall", "errors", "skips")}),
        (
            gettext_lazy("How it was started"),
            {"fields": ("actor", "host", "reason", "target_run", "created_at", "finished_at")},
        ),
        (gettext_lazy("Settings"), {"fields": ("shown_rates", "shown_options", "shown_controls", "expected")}),
        (gettext_lazy("Latest events"), {"fields": ("latest_events",)}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by number or by who started the run."""
        term = search_term.strip().replace("\0", "")
        if not term:
            return queryset, False
        if term.isascii() and term.isdecimal() and len(term) < 19:
            return queryset.filter(pk=int(term)), False
        return queryset.filter(actor__iexact=term), False

    def complete(self, rows: list[MigrationRun]) -> None:
        """Sum up the visible runs."""
        totals = totals_of(rows, using=rows[0]._state.db or "default") if rows else {}
        for run in rows:
            run.shown_totals = totals[run.pk]  # type: ignore[attr-defined]

    def _totals(self, run: MigrationRun) -> Totals:
        if not hasattr(run, "shown_totals"):
            self.complete([run])
        totals: Totals = run.shown_totals  # type: ignore[attr-defined]
        return totals

    @admin.display(description=gettext_lazy("status"))
    def state(self, run: MigrationRun) -> SafeString:
        """Return where the run stands."""
        return status_label(run.status, run.get_status_display())

    @admin.display(description=gettext_lazy("migrated"))
    def migrated(self, run: MigrationRun) -> SafeString:
        """Return how many users it converted."""
        return number_html(self._totals(run).migrated)

    @admin.display(description=gettext_lazy("rolled back"))
    def rolled_back(self, run: MigrationRun) -> SafeString:
        """Return how many conversions it took back."""
        return number_html(self._totals(run).rolled_back)

    @admin.display(description=gettext_lazy("skipped"))
    def skipped(self, run: MigrationRun) -> SafeString:
        """Return how many users it left out."""
        return number_html(self._totals(run).skipped)

    @admin.display(description=gettext_lazy("failed"))
    def failed(self, run: MigrationRun) -> SafeString:
        """Return how many users it could not handle."""
        return number_html(self._totals(run).failed)

    @admin.display(description=gettext_lazy("mana"))
    def mana(self, run: MigrationRun) -> SafeString:
        """Return the mana credited, or debited by a rollback."""
        return number_html(self._totals(run).mana)

    @admin.display(description=gettext_lazy("mana written off"))
    def shortfall(self, run: MigrationRun) -> SafeString:
        """Return the mana that was spent already and written off."""
        return number_html(self._totals(run).shortfall)

    @admin.display(description=gettext_lazy("users"))
    def users(self, run: MigrationRun) -> str:
        """Return the users by outcome."""
        totals = self._totals(run)
        return _(
            "{selected} handled: {migrated} migrated, {rolled_back} rolled back, {skipped} skipped, {failed} failed"
        ).format(**{name: number(getattr(totals, name)) for name in _OUTCOMES})

    @admin.display(description=gettext_lazy("wishes"))
    def wishes(self, run: MigrationRun) -> str:
        """Return the wishes converted or given back."""
        totals = self._totals(run)
        return _("{green} green, {blue} blue, {red} red").format(
            **{colour: number(getattr(totals, colour)) for colour in ("green", "blue", "red")}
        )

    @admin.display(description=gettext_lazy("failed by error"))
    def errors(self, run: MigrationRun) -> SafeString | str:
        """Return the failed users by error class."""
        return as_list(dict(self._totals(run).errors))

    @admin.display(description=gettext_lazy("skipped by reason"))
    def skips(self, run: MigrationRun) -> SafeString | str:
        """Return the skipped users by reason."""
        return as_list(dict(self._totals(run).skips))

    @admin.display(description=gettext_lazy("rates, in mana a wish"))
    def shown_rates(self, run: MigrationRun) -> SafeString | str:
        """Return the frozen rates."""
        return as_list(run.rates)

    @admin.display(description=gettext_lazy("options"))
    def shown_options(self, run: MigrationRun) -> SafeString | str:
        """Return the frozen options."""
        return as_list(run.options)

    @admin.display(description=gettext_lazy("settings in force"))
    def shown_controls(self, run: MigrationRun) -> SafeString | str:
        """Return what may be changed while it runs."""
        return as_list(run.controls)

    @admin.display(description=gettext_lazy("more"))
    def related(self, run: MigrationRun) -> SafeString:
        """Return links to everything that belongs to the run."""
        links = (
            (page_link("run", _("page of the run"), run.pk),),
            (changelist_link("usermigration", _("records"), run__id__exact=run.pk),),
            (changelist_link("migrationbatch", _("batches"), run__id__exact=run.pk),),
            (changelist_link("runevent", _("events"), run__id__exact=run.pk),),
            (changelist_link("integrityfix", _("fixes"), run__id__exact=run.pk),),
        )
        return format_html_join(", ", "{}", links)

    @admin.display(description=gettext_lazy("events"))
    def latest_events(self, run: MigrationRun) -> SafeString | str:
        """Return what happened last, newest first."""
        events = run.events.order_by("-id")[:EVENTS_SHOWN]
        rows = ((moment_html(line.at), line.label, line.actor, line.message) for line in map(event_line, events))
        return format_html(
            '<ul class="mm-plain">{}</ul>', format_html_join("", "<li>{} <b>{}</b> <bdi>{}</bdi> {}</li>", rows)
        )


class _OfRunAdmin(PageAdmin):
    """Rows that belong to a run, with a link to it."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Let links filter by run and batch."""
        return lookup in ("run__id__exact", "batch__id__exact") or super().lookup_allowed(lookup, value, request)

    @admin.display(description=gettext_lazy("run"), empty_value="-")
    def of_run(self, row: Any) -> SafeString | None:
        """Return the run with a link to it."""
        return run_link(row.run_id)

    @admin.display(description=gettext_lazy("batch"))
    def of_batch(self, row: Any) -> SafeString:
        """Return the batch with a link to its records."""
        return changelist_link("usermigration", row.batch_id, batch__id__exact=row.batch_id)


@admin.register(MigrationBatch)
class MigrationBatchAdmin(_OfRunAdmin):
    """The slices of runs."""

    list_display = ("id", "of_run", "status", "selected", "migrated", "rolled_back", "skipped", "failed",
                    "mana", "attempts", "finished_at", "worker")  # fmt: skip
    list_filter = ("status",)
    sortable_by = ("id",)
    ordering = ("-id",)


@admin.register(RunEvent)
class RunEventAdmin(_OfRunAdmin):
    """Who did what to which run."""

    list_display = ("created_at", "of_run", "request_id", "kind", "actor", "message")
    list_filter = ("kind",)
    date_hierarchy = "created_at"
    sortable_by = ("id",)
    ordering = ("-id",)


@admin.register(RunRequest)
class RunRequestAdmin(_OfRunAdmin):
    """Mass runs that needed a second person's approval."""

    list_display = ("page", "kind", "state", "actor", "reason", "of_run", "created_at")
    list_display_links = None  # the first column leads to the staff page
    list_filter = ("kind", "status")
    date_hierarchy = "created_at"
    sortable_by = ()
    ordering = ("-id",)

    @admin.display(description=gettext_lazy("request"))
    def page(self, request: RunRequest) -> SafeString:
        """Return the number with a link to the page of the request."""
        return page_link("request", str(request.pk), request.pk)

    @admin.display(description=gettext_lazy("status"))
    def state(self, request: RunRequest) -> SafeString:
        """Return where the request is."""
        return status_label(request.status, request.get_status_display())


class _OfUserAdmin(_OfRunAdmin):
    """Rows of one user each, found by the user."""

    search_fields = ("pk",)  # shows the search box; get_search_results does the work
    list_select_related = ("user",)
    sortable_by = ("id",)
    ordering = ("-id",)
    row_word = "record"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by ``record:ID`` (or ``fix:ID``), else by the user's exact name or key; always through an index."""
        term = search_term.strip().replace("\0", "")
        for prefix, lookup in ((f"{self.row_word}:", "pk"), ("run:", "run")):
            own = term.removeprefix(prefix)
            if own != term:
                known = own.isascii() and own.isdecimal() and len(own) < 19
                return queryset.filter(**{lookup: int(own)}) if known else queryset.none(), False
        return (queryset.filter(user__in=find_users(term, queryset.db)) if term else queryset), False

    @admin.display(description=gettext_lazy("user"))
    def username(self, row: Any) -> SafeString:
        """Return the user's name with a link to the user's page."""
        return user_link(row.user)


@admin.register(UserMigration)
class UserMigrationAdmin(_OfUserAdmin):
    """What each run did to each user."""

    search_help_text = gettext_lazy(
        "The exact username or primary key of a user, run:ID, or record:ID for the record of a report."
    )
    list_display = ("id", "username", "outcome", "reason", "of_run", "of_batch", "green", "blue", "red",
                    "mana_credited", "created_at", "shortfall")  # fmt: skip
    list_filter = ("status", ErrorFilter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Add what has corrected a problem since."""
        return super().get_queryset(request).with_fix()  # type: ignore[attr-defined, no-any-return]

    @admin.display(description=gettext_lazy("error class"))
    def reason(self, record: UserMigration) -> str:
        """Return why the user failed or was skipped, and whether that was corrected since."""
        return reason_of(record)

    @admin.display(description=gettext_lazy("status"))
    def outcome(self, record: UserMigration) -> SafeString:
        """Return what the run did."""
        return status_label(record.status, record.get_status_display())


@admin.register(IntegrityFix)
class IntegrityFixAdmin(_OfUserAdmin):
    """What auto-fix changed."""

    row_word = "fix"
    date_hierarchy = "created_at"
    search_help_text = gettext_lazy("The exact username or primary key of a user, run:ID, or fix:ID.")
    list_display = ("id", "username", "check_id", "of_run", "green_change", "blue_change", "red_change", "mana_change",
                    "actor", "created_at")  # fmt: skip
