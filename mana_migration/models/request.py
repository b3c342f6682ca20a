"""Mass runs that one person asks for and a second person approves."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mana_migration.models.run import MigrationRun
from mana_migration.states import RequestStatus, RunKind
from wishes.moments import MomentField


class RunRequest(models.Model):
    """A mass run that waits for a second person; each step is an event, and an approved request has a run."""

    kind = models.CharField(verbose_name=_("kind"), max_length=10, choices=RunKind)
    status = models.CharField(
        verbose_name=_("status"), max_length=10, choices=RequestStatus, default=RequestStatus.WAITING
    )
    options = models.JSONField(verbose_name=_("options"), default=dict, help_text=_("What was asked for."))
    controls = models.JSONField(
        verbose_name=_("controls"), default=dict, help_text=_("Batch size, delay, error threshold and window.")
    )
    workers = models.PositiveSmallIntegerField(
        verbose_name=_("workers"), null=True, help_text=_("Celery tasks that are to share the run; empty: the setting.")
    )
    preview = models.JSONField(
        verbose_name=_("preview"), default=dict, help_text=_("What the run would have done when it was asked for.")
    )
    actor = models.CharField(verbose_name=_("actor"), max_length=150, help_text=_("Who asked for it."))
    host = models.CharField(verbose_name=_("host"), max_length=255)
    reason = models.TextField(verbose_name=_("reason"), blank=True)
    run = models.OneToOneField(
        MigrationRun,
        verbose_name=_("run"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="request",
        help_text=_("The run that the approval opened; empty: none."),
    )
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        verbose_name = _("run request")
        verbose_name_plural = _("run requests")
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"request {self.pk} ({self.get_kind_display().lower()}, {self.get_status_display().lower()})"
