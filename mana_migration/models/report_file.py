"""Reports that pages ask for and a worker process makes."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mana_migration.models.run import MigrationRun
from mana_migration.states import ReportStatus
from wishes.moments import MomentField


class ReportFile(models.Model):
    """A report that a page asks for, of a run or the whole migration: the request, then its file in the folder."""

    run = models.ForeignKey(
        MigrationRun,
        verbose_name=_("run"),
        null=True,
        on_delete=models.PROTECT,
        related_name="report_files",
        help_text=_("Empty: the whole migration."),
    )
    kind = models.CharField(
        verbose_name=_("kind"), max_length=12, help_text=_("html, json, csv, xlsx, summary.csv, or statistics.")
    )
    again = models.BooleanField(verbose_name=_("again"), default=False, help_text=_("The run is checked again for it."))
    actor = models.CharField(
        verbose_name=_("actor"), max_length=150, help_text=_("The staff account that asked for it.")
    )
    status = models.CharField(verbose_name=_("status"), max_length=7, choices=ReportStatus, default=ReportStatus.WANTED)
    name = models.CharField(
        verbose_name=_("name"), max_length=200, blank=True, help_text=_("Its file in the report folder.")
    )
    written = models.BigIntegerField(verbose_name=_("written"), default=0, help_text=_("Bytes written so far."))
    reason = models.TextField(verbose_name=_("reason"), blank=True, help_text=_("Why it could not be made."))
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)
    touched_at = MomentField(
        verbose_name=_("touched at"),
        null=True,
        always_aware=True,
        help_text=_("The latest sign of life of the process that makes it."),
    )

    class Meta:
        verbose_name = _("report file")
        verbose_name_plural = _("report files")
        ordering = ("-id",)
        indexes = (models.Index(fields=["run", "kind"], name="mana_migration_report_of_run"),)

    def __str__(self) -> str:
        return f"{self.description} ({self.kind}, {self.get_status_display().lower()})"

    @property
    def description(self) -> str:
        """Return what it is a report of, as in a sentence."""
        return "report of the whole migration" if self.run_id is None else f"report of run {self.run_id}"
