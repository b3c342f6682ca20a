"""What one run did to one user."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mana_migration.models.batch import MigrationBatch
from mana_migration.models.fix import IntegrityFix
from mana_migration.models.run import MigrationRun
from mana_migration.states import PROBLEM_STATUSES, UserStatus
from wishes.moments import MomentField


class UserMigrationQuerySet(models.QuerySet["UserMigration"]):
    """Records by what became of the user."""

    def live(self) -> UserMigrationQuerySet:
        """Keep those of users who are migrated by them now."""
        return self.filter(status=UserStatus.MIGRATED)

    def problems(self) -> UserMigrationQuerySet:
        """Keep those of users who failed or were skipped."""
        return self.filter(status__in=PROBLEM_STATUSES)

    def with_fix(self) -> UserMigrationQuerySet:
        """Add ``fix``: the id of the integrity fix that has corrected since what a user failed or was skipped for."""
        fixes = IntegrityFix.objects.filter(
            user=OuterRef("user"), check_id=OuterRef("error_class"), created_at__gte=OuterRef("created_at"),
            undoes=None, undone_by=None,
        )  # fmt: skip
        return self.annotate(fix=Subquery(fixes.order_by("-pk").values("pk")[:1]))


class UserMigration(models.Model):
    """The record of one user in one run: pre-image, mana, outcome, error and reversal.

    The foreign keys carry no constraint in the database: see Note [Foreign keys of the ledger] in
    ``wishes.models``; runs and batches are never deleted, which a guard refuses.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    run = models.ForeignKey(
        MigrationRun,
        verbose_name=_("run"),
        on_delete=models.PROTECT,
        related_name="records",
        db_constraint=False,
        db_index=False,
    )
    batch = models.ForeignKey(
        MigrationBatch,
        verbose_name=_("batch"),
        on_delete=models.PROTECT,
        related_name="records",
        db_constraint=False,
        db_index=False,
    )
    status = models.CharField(verbose_name=_("status"), max_length=11, choices=UserStatus)
    green = models.BigIntegerField(verbose_name=_("green"), default=0, help_text=_("Green wishes before."))
    blue = models.BigIntegerField(verbose_name=_("blue"), default=0, help_text=_("Blue wishes before."))
    red = models.BigIntegerField(verbose_name=_("red"), default=0, help_text=_("Red wishes before."))
    mana_before = models.BigIntegerField(verbose_name=_("mana before"), default=0, help_text=_("Mana before."))
    mana_credited = models.BigIntegerField(
        verbose_name=_("mana credited"), default=0, help_text=_("Mana that the conversion credited.")
    )
    error_class = models.CharField(
        verbose_name=_("error class"),
        max_length=40,
        blank=True,
        default="",
        db_default="",
        help_text=_("Why it failed or was skipped."),
    )
    error_message = models.TextField(verbose_name=_("error message"), blank=True, default="", db_default="")
    mark = models.CharField(verbose_name=_("mark"),
        max_length=16, default="", db_default="", editable=False,
        help_text=_("Short hash of what was written here; shows which record was changed."),
    )  # fmt: skip
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)
    reversal_run = models.ForeignKey(
        MigrationRun,
        verbose_name=_("reversal run"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="reversals",
        db_constraint=False,
        db_index=False,
        help_text=_("The rollback that reversed it."),
    )
    reversed_at = MomentField(verbose_name=_("reversed at"), null=True, blank=True, always_aware=True)
    reversal_batch = models.ForeignKey(
        MigrationBatch,
        verbose_name=_("reversal batch"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="reversals",
        db_constraint=False,
        db_index=False,
        help_text=_("The batch of that rollback."),
    )
    reversal_mark = models.CharField(verbose_name=_("reversal mark"),
        max_length=16, default="", db_default="", editable=False,
        help_text=_("Short hash of what was written of the reversal."),
    )  # fmt: skip
    mana_debited = models.BigIntegerField(
        verbose_name=_("mana debited"), null=True, blank=True, help_text=_("Mana that the reversal debited.")
    )
    shortfall = models.BigIntegerField(
        verbose_name=_("shortfall"),
        null=True,
        blank=True,
        help_text=_("Mana already spent when it was reversed: written off, or what a skipped reversal lacks."),
    )

    objects: ClassVar[UserMigrationQuerySet] = UserMigrationQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        verbose_name = _("user migration")
        verbose_name_plural = _("user migrations")
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["user", "run"], name="mana_migration_one_record_per_run"),
            models.UniqueConstraint(
                fields=["user"], condition=Q(status=UserStatus.MIGRATED), name="mana_migration_one_live_record"
            ),
            models.CheckConstraint(
                condition=Q(status__in=UserStatus.values), name="mana_migration_record_status_known"
            ),
            models.CheckConstraint(condition=Q(mana_credited__gte=0), name="mana_migration_record_credit_not_negative"),
        )
        indexes = (
            # Failed and skipped users are few and asked for by run.
            models.Index(
                fields=["run", "id"],
                condition=Q(status__in=PROBLEM_STATUSES),
                name="mana_migration_record_problem",
            ),
            # A run's page says what became of its users since.
            models.Index(
                fields=["run", "reversal_run"],
                condition=Q(status="rolled_back"),
                name="mana_migration_record_reversed",
            ),
        )

    def __str__(self) -> str:
        return f"record {self.pk} ({self.get_status_display().lower()})"
