"""The end of the migration, and its reopening."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from wishes.moments import MomentField


class Closing(models.Model):
    """The migration was closed for good, or reopened; the latest one counts."""

    closed = models.BooleanField(help_text="True: closed; false: reopened.")
    reason = models.TextField(blank=True)
    details = models.JSONField(default=dict, help_text="What the checks found when it was closed.")
    actor = models.CharField(max_length=150)
    host = models.CharField(max_length=255)
    created_at = MomentField(db_default=Now(), always_aware=True)

    class Meta:
        ordering = ("-id",)
        get_latest_by = "id"

    def __str__(self) -> str:
        return f"{'closed' if self.closed else 'reopened'} by {self.actor}"
