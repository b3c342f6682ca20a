"""Batches: the work list of a run and the source of all its figures."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from mana_migration.models.run import MigrationRun
from mana_migration.states import BatchStatus
from wishes.moments import MomentField


class MigrationBatchQuerySet(models.QuerySet["MigrationBatch"]):
    """Batches by what has become of them."""

    def planned(self) -> MigrationBatchQuerySet:
        """Keep those that wait for a worker or are in one's hands."""
        return self.filter(folded=False, status=BatchStatus.PLANNED)

    def done(self) -> MigrationBatchQuerySet:
        """Keep those that were handled."""
        return self.filter(status=BatchStatus.DONE)

    def unfolded(self) -> MigrationBatchQuerySet:
        """Keep those that were handled and are not in the run's sums yet, oldest first; at most a few hundred."""
        return self.done().filter(folded=False).order_by("finished_at", "id")


class MigrationBatch(models.Model):
    """A slice of a run's users, handled in one transaction.

    ``first_user`` and ``last_user`` are primary keys as text, both included, so that numbers and
    UUIDs are kept alike.  Money columns are exact: a batch whose sums would leave the range of
    BIGINT is split before it is handled.
    """

    run = models.ForeignKey(MigrationRun, verbose_name=_("run"), on_delete=models.PROTECT, related_name="batches")
    first_user = models.CharField(verbose_name=_("first user"), max_length=64)
    last_user = models.CharField(verbose_name=_("last user"), max_length=64)
    planned = models.IntegerField(verbose_name=_("planned"), help_text=_("Users in the slice when it was planned."))
    status = models.CharField(verbose_name=_("status"), max_length=9, choices=BatchStatus, default=BatchStatus.PLANNED)
    folded = models.BooleanField(
        verbose_name=_("folded"), default=False, help_text=_("Its figures are in the run's folded sums.")
    )
    attempts = models.PositiveSmallIntegerField(
        verbose_name=_("attempts"), default=0, help_text=_("Times it was tried and rolled back.")
    )
    selected = models.IntegerField(verbose_name=_("selected"), default=0, help_text=_("Users found and accounted for."))
    migrated = models.IntegerField(verbose_name=_("migrated"), default=0)
    rolled_back = models.IntegerField(verbose_name=_("rolled back"), default=0)
    skipped = models.IntegerField(verbose_name=_("skipped"), default=0)
    failed = models.IntegerField(verbose_name=_("failed"), default=0)
    green = models.BigIntegerField(
        verbose_name=_("green"), default=0, help_text=_("Green wishes converted or given back.")
    )
    blue = models.BigIntegerField(
        verbose_name=_("blue"), default=0, help_text=_("Blue wishes converted or given back.")
    )
    red = models.BigIntegerField(verbose_name=_("red"), default=0, help_text=_("Red wishes converted or given back."))
    mana = models.BigIntegerField(
        verbose_name=_("mana"), default=0, help_text=_("Mana credited (migration) or debited (rollback).")
    )
    shortfall = models.BigIntegerField(
        verbose_name=_("shortfall"), default=0, help_text=_("Mana written off, already spent when reversed.")
    )
    errors = models.JSONField(verbose_name=_("errors"), default=dict, help_text=_("Failed users by error class."))
    skips = models.JSONField(verbose_name=_("skips"), default=dict, help_text=_("Skipped users by reason."))
    started_at = MomentField(verbose_name=_("started at"), null=True, always_aware=True)
    finished_at = MomentField(verbose_name=_("finished at"), null=True, always_aware=True)
    worker = models.CharField(
        verbose_name=_("worker"), max_length=100, blank=True, help_text=_("Host and process that handled it.")
    )

    digest = models.CharField(
        verbose_name=_("digest"),
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text=_("SHA-256 of what was written in its records."),
    )
    number = models.IntegerField(
        verbose_name=_("number"), null=True, help_text=_("Its place in the run's chain, from 1.")
    )
    link = models.CharField(
        verbose_name=_("link"),
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text=_("SHA-256 of the link before, its number, digest and figures."),
    )

    objects: ClassVar[MigrationBatchQuerySet] = MigrationBatchQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        verbose_name = _("migration batch")
        verbose_name_plural = _("migration batches")
        ordering = ("id",)
        indexes = (
            # The work list and the figures of a running run: a few hundred rows, whatever its size.
            models.Index(fields=["run", "id"], condition=Q(folded=False), name="mana_migration_batch_unfolded"),
        )
        constraints = (
            models.UniqueConstraint(fields=["run", "number"], name="mana_migration_batch_one_place"),
            models.CheckConstraint(
                condition=Q(selected=F("migrated") + F("rolled_back") + F("skipped") + F("failed")),
                name="mana_migration_batch_no_gap",
            ),
            models.CheckConstraint(
                condition=Q(status__in=BatchStatus.values), name="mana_migration_batch_status_known"
            ),
            models.CheckConstraint(
                condition=Q(finished_at__gte=F("started_at")), name="mana_migration_batch_ends_after_start"
            ),
        )

    def __str__(self) -> str:
        return f"batch {self.pk} of run {self.run_id}"
