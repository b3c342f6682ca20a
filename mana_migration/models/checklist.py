"""What was checked and answered before a mass run."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mana_migration.models.run import MigrationRun
from wishes.moments import MomentField


class Checklist(models.Model):
    """One go or no-go before a migration: every question with its answer, who gave it and when."""

    go = models.BooleanField(verbose_name=_("go"), help_text=_("Whether every question was answered with yes."))
    items = models.JSONField(
        verbose_name=_("items"),
        help_text=_("The questions in their order: id, question, answer, detail, who answered."),
    )
    backup = models.CharField(
        verbose_name=_("backup"), max_length=200, blank=True, help_text=_("The backup that was named.")
    )
    actor = models.CharField(
        verbose_name=_("actor"),
        max_length=150,
        help_text=_("Who went through it: operating-system user or staff account."),
    )
    host = models.CharField(verbose_name=_("host"), max_length=255, help_text=_("The machine that it was made on."))
    run = models.ForeignKey(
        MigrationRun,
        verbose_name=_("run"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="checklists",
        help_text=_("The run that was started on it; empty: none yet."),
    )
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        ordering = ("-id",)
        get_latest_by = "id"

    def __str__(self) -> str:
        return f"checklist {self.pk}: {'go' if self.go else 'no go'}"
