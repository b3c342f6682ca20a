"""Writes of wallets that did not come through the wallet service, while they are observed."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from wishes.moments import MomentField


class DirectWrite(models.Model):
    """One update of a wallet without a ledger entry or record in its transaction; holds neither user nor amounts."""

    application_name = models.CharField(
        verbose_name=_("application name"),
        max_length=64,
        help_text=_("The application_name of the session that wrote."),
    )
    columns = models.CharField(
        verbose_name=_("columns"),
        max_length=60,
        help_text=_("The columns that changed; empty: a save that changed none."),
    )
    created_at = MomentField(verbose_name=_("created at"), db_default=Now(), always_aware=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"direct write {self.pk}"
