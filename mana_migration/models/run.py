"""Runs and what happened to them."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.errors import RunNotFoundError
from mana_migration.states import OPEN_STATUSES, Action, EventKind, RunKind, RunStatus, StopCause
from wishes.moments import MomentField


class MigrationRunQuerySet(models.QuerySet["MigrationRun"]):
    """Runs by what they are and what can be done with them."""

    def open(self) -> MigrationRunQuerySet:
        """Keep the mass run that holds the database's one slot, if there is one."""
        return self.filter(status__in=OPEN_STATUSES)

    def migrations(self) -> MigrationRunQuerySet:
        """Keep the runs that convert."""
        return self.filter(kind=RunKind.MIGRATION)

    def numbered(self, run_id: int) -> MigrationRun:
        """Return the run of this number.

        Raises:
            RunNotFoundError: there is none.
        """
        found = self.filter(pk=run_id).first()
        if found is None:
            raise RunNotFoundError(f"there is no run {run_id}; list the runs with monitor_migration or in the admin")
        return found

    def locked(self, *, skip_locked: bool = False) -> MigrationRunQuerySet:
        """Lock the rows that are read; the caller is in a transaction.

        The lock leaves the runs' keys alone, so that adding a batch or an event does not wait for it: a
        worker that splits a batch would wait for the process that stops the run and waits for that batch.
        """
        return self.select_for_update(of=("self",), no_key=True, skip_locked=skip_locked)

    def current(self) -> MigrationRun | None:
        """Return the open run, else the latest that is no import, else the latest; None where there is none."""
        by_id = self.order_by("-id")
        return by_id.open().first() or by_id.exclude(kind=RunKind.IMPORT).first() or by_id.first()


class MigrationRun(models.Model):
    """One execution of a migration or a rollback, with its frozen options and rates.

    The figures of a run are sums over its batches.  Those of batches long done are kept summed up
    in ``folded`` (exact integers as JSON), so that looking at a run costs the same whatever its
    size; ``mana_migration.engine.totals`` adds the few that are not folded yet.
    """

    kind = models.CharField(verbose_name=_("kind"), max_length=10, choices=RunKind)
    status = models.CharField(verbose_name=_("status"), max_length=12, choices=RunStatus, default=RunStatus.RUNNING)
    options = models.JSONField(
        verbose_name=_("options"), default=dict, help_text=_("What was asked for; never changes.")
    )
    rates = models.JSONField(
        verbose_name=_("rates"), default=dict, help_text=_("Mana per wish of each colour; never changes.")
    )
    controls = models.JSONField(
        verbose_name=_("controls"),
        default=dict,
        help_text=_("Batch size, delay and error threshold in force; each change is an event."),
    )
    actor = models.CharField(
        verbose_name=_("actor"), max_length=150, help_text=_("Who started it: operating-system user or staff account.")
    )
    host = models.CharField(verbose_name=_("host"), max_length=255, help_text=_("The machine that it was started on."))
    reason = models.TextField(
        verbose_name=_("reason"), blank=True, help_text=_("Why it was started, as the operator said.")
    )
    stop_cause = models.CharField(
        verbose_name=_("stop cause"),
        max_length=16,
        choices=StopCause,
        blank=True,
        default="",
        db_default="",
        help_text=_("Why it ended other than by completing; empty: it is open or completed."),
    )
    stop_reason = models.TextField(
        verbose_name=_("stop reason"), blank=True, help_text=_("The same in words, as the operator or the check said.")
    )
    target_run = models.ForeignKey(
        "self",
        verbose_name=_("target run"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="rollbacks",
        help_text=_("For the rollback of one run: which."),
    )
    expected = models.BigIntegerField(
        verbose_name=_("expected"),
        null=True,
        help_text=_("Users selected as counted at the start; the progress bar's end."),
    )
    baseline = models.JSONField(
        verbose_name=_("baseline"),
        default=dict,
        help_text=_("Sums over all wallets in the snapshot of the pre-check, as text of integers."),
    )
    cursor = models.CharField(
        verbose_name=_("cursor"),
        max_length=64,
        blank=True,
        help_text=_("The last user planned; empty: from the start."),
    )
    passes = models.PositiveSmallIntegerField(
        verbose_name=_("passes"),
        default=1,
        help_text=_("Passes over the users begun: after the first, those who signed up or were locked."),
    )
    planned_users = models.BigIntegerField(
        verbose_name=_("planned users"), default=0, help_text=_("Users put into batches so far.")
    )
    folded = models.JSONField(
        verbose_name=_("folded"), default=dict, help_text=_("Sums over the batches that are folded.")
    )
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)
    finished_at = MomentField(verbose_name=_("finished at"), null=True, blank=True, always_aware=True)

    objects: ClassVar[MigrationRunQuerySet] = MigrationRunQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        verbose_name = _("migration run")
        verbose_name_plural = _("migration runs")
        ordering = ("-id",)
        get_latest_by = "id"
        constraints = (
            models.UniqueConstraint(
                Value(1),
                condition=Q(status__in=OPEN_STATUSES),
                name="mana_migration_one_open_run",
            ),
            models.CheckConstraint(condition=Q(status__in=RunStatus.values), name="mana_migration_run_status_known"),
            models.CheckConstraint(condition=Q(kind__in=RunKind.values), name="mana_migration_run_kind_known"),
            models.CheckConstraint(
                condition=Q(finished_at__gte=F("created_at")), name="mana_migration_run_ends_after_start"
            ),
        )
        permissions = (
            ("pause_run", "Can pause a run"),
            ("resume_run", "Can resume a run"),
            ("stop_run", "Can stop a run"),
            ("start_run", "Can start a migration"),
            ("approve_run", "Can approve a run that another person asks for"),
            ("rollback_run", "Can roll back a run"),
            ("rollback_user", "Can roll back a user"),
            ("export_report", "Can download reports"),
            ("view_metrics", "Can read the metrics"),
        )

    def __str__(self) -> str:
        return f"run {self.pk} ({self.get_kind_display().lower()}, {self.get_status_display().lower()})"

    @property
    def is_open(self) -> bool:
        """Say whether this run holds the database's one slot."""
        return RunStatus(self.status).is_open

    def allows(self, action: Action) -> bool:
        """Say whether this can be asked of the run now."""
        return action in RunStatus(self.status).state.allows

    @property
    def is_rollback(self) -> bool:
        """Say whether this run reverses conversions."""
        return self.kind == RunKind.ROLLBACK

    @property
    def tripped_run(self) -> int | None:
        """Return the run whose breaker opened this rollback; None for any other run."""
        return self.target_run_id if self.is_rollback and self.options.get("breaker") else None

    @property
    def deletes_records(self) -> bool:
        """Say whether this rollback deletes the records of the users it rolls back."""
        return self.is_rollback and self.options.get("preserve_logs") is False

    @property
    def controls_in_force(self) -> Controls:
        """Return the batch size, delay and error threshold in force."""
        return Controls.from_dict(self.controls)

    @property
    def migration_options(self) -> MigrationOptions:
        """Return what this migration was asked to do."""
        return MigrationOptions.from_dict(self.options, self.controls)

    @property
    def rollback_options(self) -> RollbackOptions:
        """Return what this rollback was asked to reverse."""
        return RollbackOptions.from_dict(self.options, self.controls)

    @property
    def description(self) -> str:
        """Return the kind and number of this run, as in a sentence: ``rollback run 7``."""
        return f"{self.get_kind_display().lower()} run {self.pk}"

    def said(self) -> dict[str, Any]:
        """Return what is written when it is created and never changes: what the link of its first event hangs on."""
        return {
            "run": self.pk,
            "kind": self.kind,
            "options": self.options,
            "rates": self.rates,
            "actor": self.actor,
            "host": self.host,
            "reason": self.reason,
            "target_run": self.target_run_id,
            "expected": self.expected,
            "baseline": self.baseline,
        }

    @property
    def status_words(self) -> str:
        """Return the status as in a sentence: ``rolling back``."""
        return self.get_status_display().lower()


class RunEvent(models.Model):
    """Who did what to a run, or to the request for one, and why."""

    run = models.ForeignKey(
        MigrationRun, verbose_name=_("run"), null=True, on_delete=models.PROTECT, related_name="events"
    )
    request = models.ForeignKey(
        "RunRequest", verbose_name=_("request"), null=True, on_delete=models.PROTECT, related_name="events"
    )
    kind = models.CharField(verbose_name=_("kind"), max_length=20, choices=EventKind)
    actor = models.CharField(verbose_name=_("actor"), max_length=150, blank=True)
    message = models.TextField(verbose_name=_("message"), blank=True)
    details = models.JSONField(verbose_name=_("details"), default=dict)
    link = models.CharField(verbose_name=_("link"), max_length=64, default="", db_default="", editable=False)
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        verbose_name = _("run event")
        verbose_name_plural = _("run events")
        ordering = ("id",)

    def __str__(self) -> str:
        what = f"request {self.request_id}" if self.run_id is None else f"run {self.run_id}"
        return f"{what}: {self.get_kind_display().lower()}"

    def said(self) -> dict[str, Any]:
        """Return what its link is the hash of: all but the time."""
        return {
            "kind": self.kind,
            "request": self.request_id,
            "actor": self.actor,
            "message": self.message,
            "details": self.details,
        }
