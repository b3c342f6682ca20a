"""Reports that pages ask for and a worker process makes."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from mana_migration.models.run import MigrationRun
from mana_migration.states import ReportStatus
from wishes.moments import MomentField


class ReportFile(models.Model):
    """A report of a run that a page asks for: the request, and its file in the report folder once it is made."""

    run = models.ForeignKey(MigrationRun, on_delete=models.PROTECT, related_name="report_files")
    kind = models.CharField(max_length=12, help_text="html, json, csv, xlsx, or summary.csv.")
    again = models.BooleanField(default=False, help_text="The run is checked again for it.")
    actor = models.CharField(max_length=150, help_text="The staff account that asked for it.")
    status = models.CharField(max_length=7, choices=ReportStatus, default=ReportStatus.WANTED)
    name = models.CharField(max_length=200, blank=True, help_text="Its file in the report folder.")
    written = models.BigIntegerField(default=0, help_text="Bytes written so far.")
    reason = models.TextField(blank=True, help_text="Why it could not be made.")
    created_at = MomentField(db_default=Now(), always_aware=True)
    touched_at = MomentField(
        null=True, always_aware=True, help_text="The latest sign of life of the process that makes it."
    )

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=["run", "kind"], name="mana_migration_report_of_run"),)

    def __str__(self) -> str:
        return f"{self.kind} report of run {self.run_id} ({self.get_status_display().lower()})"
