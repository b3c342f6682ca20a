"""The end of the migration, and its reopening."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from wishes.moments import MomentField


class Closing(models.Model):
    """The migration was closed for good, or reopened; the latest one counts."""

    closed = models.BooleanField(verbose_name=_("closed"), help_text=_("True: closed; false: reopened."))
    reason = models.TextField(verbose_name=_("reason"), blank=True)
    details = models.JSONField(
        verbose_name=_("details"), default=dict, help_text=_("What the checks found when it was closed.")
    )
    actor = models.CharField(verbose_name=_("actor"), max_length=150)
    host = models.CharField(verbose_name=_("host"), max_length=255)
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        ordering = ("-id",)
        get_latest_by = "id"

    def __str__(self) -> str:
        return f"{'closed' if self.closed else 'reopened'} by {self.actor}"
