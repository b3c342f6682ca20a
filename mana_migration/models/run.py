"""Runs and what happened to them."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now

from mana_migration.states import OPEN_STATUSES, EventKind, RunKind, RunStatus


class MigrationRunQuerySet(models.QuerySet["MigrationRun"]):
    """Runs by what can be done with them."""

    def open(self) -> MigrationRunQuerySet:
        """Keep the mass run that holds the database's one slot, if there is one."""
        return self.filter(status__in=OPEN_STATUSES)


class MigrationRun(models.Model):
    """One execution of a migration or a rollback, with its frozen options and rates.

    The figures of a run are sums over its batches.  Those of batches long done are kept summed up
    in ``folded`` (exact integers as JSON), so that looking at a run costs the same whatever its
    size; ``mana_migration.engine.totals`` adds the few that are not folded yet.
    """

    kind = models.CharField(max_length=10, choices=RunKind)
    status = models.CharField(max_length=12, choices=RunStatus, default=RunStatus.RUNNING)
    options = models.JSONField(default=dict, help_text="What was asked for; never changes.")
    rates = models.JSONField(default=dict, help_text="Mana per wish of each colour; never changes.")
    controls = models.JSONField(
        default=dict, help_text="Batch size, delay and error threshold in force; each change is an event."
    )
    actor = models.CharField(max_length=150, help_text="Who started it: operating-system user or staff account.")
    host = models.CharField(max_length=255, help_text="The machine that it was started on.")
    reason = models.TextField(blank=True, help_text="Why it was started, as the operator said.")
    stop_reason = models.TextField(blank=True, help_text="Why it ended before its time.")
    target_run = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="rollbacks",
        help_text="For the rollback of one run: which.",
    )
    expected = models.BigIntegerField(
        null=True, help_text="Users selected as counted at the start; the progress bar's end."
    )
    baseline = models.JSONField(
        default=dict, help_text="Sums over all wallets in the snapshot of the pre-check, as text of integers."
    )
    cursor = models.CharField(max_length=64, blank=True, help_text="The last user planned; empty: from the start.")
    look = models.PositiveSmallIntegerField(
        default=1, help_text="1: going through all users; later: looks for those who signed up or were busy."
    )
    planned_users = models.BigIntegerField(default=0, help_text="Users put into batches so far.")
    folded = models.JSONField(default=dict, help_text="Sums over the batches that are folded.")
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[MigrationRun]] = MigrationRunQuerySet.as_manager()

    class Meta:
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
        )
        permissions = (
            ("pause_run", "Can pause a run"),
            ("resume_run", "Can resume a run"),
            ("stop_run", "Can stop a run"),
            ("start_run", "Can start a migration"),
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
        return self.status in OPEN_STATUSES


class RunEvent(models.Model):
    """Who did what to a run, and why."""

    run = models.ForeignKey(MigrationRun, on_delete=models.PROTECT, related_name="events")
    kind = models.CharField(max_length=20, choices=EventKind)
    actor = models.CharField(max_length=150, blank=True)
    message = models.TextField(blank=True)
    details = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"run {self.run_id}: {self.get_kind_display().lower()}"
