"""What auto-fix changed."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from mana_migration.models.run import MigrationRun
from wishes.moments import MomentField


class IntegrityFix(models.Model):
    """One correction of one user's data: which check asked for it, before, after, when, by which run."""

    check_id = models.CharField(
        verbose_name=_("check id"), max_length=40, help_text=_("The integrity check whose finding was fixed.")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.PROTECT,
        related_name="+",
        db_constraint=False,
    )
    run = models.ForeignKey(
        MigrationRun,
        verbose_name=_("run"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="fixes",
        help_text=_("The run that it was made for; empty: by validate_migration."),
    )
    before = models.JSONField(verbose_name=_("before"))
    after = models.JSONField(verbose_name=_("after"))
    green_change = models.BigIntegerField(verbose_name=_("green change"), default=0)
    blue_change = models.BigIntegerField(verbose_name=_("blue change"), default=0)
    red_change = models.BigIntegerField(verbose_name=_("red change"), default=0)
    mana_change = models.BigIntegerField(verbose_name=_("mana change"), default=0)
    undoes = models.OneToOneField(
        "self",
        verbose_name=_("undoes"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="undone_by",
        db_constraint=False,
        help_text=_("The earlier fix that this one undoes, by the rollback of its run."),
    )
    link = models.CharField(verbose_name=_("link"),
        max_length=64, default="", db_default="", editable=False,
        help_text=_("SHA-256 of the link of the fix before and of what is written here."),
    )  # fmt: skip
    actor = models.CharField(verbose_name=_("actor"), max_length=150, blank=True)
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        verbose_name = _("integrity fix")
        verbose_name_plural = _("integrity fixes")
        ordering = ("id",)

    def __str__(self) -> str:
        return f"fix {self.pk} of {self.check_id}"

    def said(self) -> dict[str, Any]:
        """Return what its link is the hash of: all but the run, which may be opened after it, and the time."""
        return {
            "check": self.check_id,
            "user": str(self.user_id),
            "before": self.before,
            "after": self.after,
            "changes": [self.green_change, self.blue_change, self.red_change, self.mana_change],
            "undoes": self.undoes_id,
            "actor": self.actor,
        }
