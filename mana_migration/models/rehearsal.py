"""What rehearsals found."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from wishes.moments import MomentField


class Rehearsal(models.Model):
    """One rehearsal: its result, which the next forecast uses; its conversions were all rolled back."""

    result = models.JSONField(
        verbose_name=_("result"), help_text=_("Users rehearsed and failed, errors with examples, seconds, growth.")
    )
    actor = models.CharField(
        verbose_name=_("actor"), max_length=150, help_text=_("Who made it: operating-system user or staff account.")
    )
    host = models.CharField(verbose_name=_("host"), max_length=255, help_text=_("The machine that it was made on."))
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        ordering = ("-id",)
        get_latest_by = "id"

    def __str__(self) -> str:
        return f"rehearsal {self.pk}"
