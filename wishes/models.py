"""The economy's tables: one wallet a user, and the ledgers that explain every change of it.

Nothing here knows of a migration; ``migrated_at`` only says since when a wallet holds mana alone.

# Note [Foreign keys of the ledger]
The ledgers' ``user`` carries no foreign-key constraint in the database.  Such a constraint would
lock and rewrite the user's own row for every entry (``FOR KEY SHARE``), which at a hundred million
conversions rewrites the whole user table.  The same integrity is had for nothing from the other
side: a wallet's foreign key keeps its user, and a guard refuses to delete a wallet that has
entries, is migrated or holds mana (``wishes.guards``).
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from wishes.deletion import INSTEAD, protect_history
from wishes.moments import MomentField


class Wallet(models.Model):
    """One user's balances: wishes of three colours until they are converted, mana afterwards.

    The lock on this row serialises everything that happens to a user's balances.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=protect_history,
        primary_key=True,
        related_name="wish_wallet",
    )
    green = models.BigIntegerField(
        verbose_name=_("green"), default=0, db_default=0, help_text=_("Green wishes; legacy data may be negative.")
    )
    blue = models.BigIntegerField(
        verbose_name=_("blue"), default=0, db_default=0, help_text=_("Blue wishes; legacy data may be negative.")
    )
    red = models.BigIntegerField(
        verbose_name=_("red"), default=0, db_default=0, help_text=_("Red wishes; legacy data may be negative.")
    )
    mana = models.BigIntegerField(verbose_name=_("mana"), default=0, db_default=0, help_text=_("Mana; never negative."))
    migrated_at = MomentField(
        verbose_name=_("migrated at"),
        null=True,
        blank=True,
        help_text=_("When the wishes were converted; empty until then."),
    )
    updated_at = MomentField(verbose_name=_("updated at"), auto_now=True, db_default=Now())

    class Meta:
        verbose_name = _("wallet")
        verbose_name_plural = _("wallets")
        constraints = (
            models.CheckConstraint(condition=Q(mana__gte=0), name="wishes_wallet_mana_not_negative"),
            models.CheckConstraint(
                condition=Q(migrated_at__isnull=True) | Q(green=0, blue=0, red=0),
                name="wishes_wallet_migrated_has_no_wishes",
            ),
        )

    is_protected = False
    """Whether it was found to keep its user from being deleted."""

    def __str__(self) -> str:
        return f"wallet of user {self.pk}" + (f" (it has a history: {INSTEAD})" if self.is_protected else "")


class EntryKind(models.TextChoices):
    """Why an entry was booked."""

    CONVERSION = "conversion", _("Conversion")
    """Wishes became mana."""
    REVERSAL = "reversal", _("Reversal")
    """A conversion was rolled back."""
    EARN = "earn", _("Earned")
    """The site credited the user."""
    SPEND = "spend", _("Spent")
    """The user paid."""
    ADJUSTMENT = "adjustment", _("Adjustment")
    """A recorded correction."""
    OPENING = "opening", _("Opening balance")
    """Mana that the user brought from the old system."""


class Entry(models.Model):
    """An append-only change of a balance.  The database refuses to change or remove one."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.PROTECT,
        related_name="+",
        db_constraint=False,  # Note [Foreign keys of the ledger]
        db_index=False,  # the index on (user, id) covers it
    )
    amount = models.BigIntegerField(verbose_name=_("amount"), help_text=_("Signed change; never 0."))
    kind = models.CharField(verbose_name=_("kind"), max_length=12, choices=EntryKind)
    reference = models.CharField(
        verbose_name=_("reference"),
        max_length=200,
        unique=True,
        help_text=_("Idempotency key: the same operation always carries the same one."),
    )
    created_at = MomentField(verbose_name=_("created at"), db_default=Now())

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:+d}"


class ManaEntry(Entry):
    """One signed, immutable change of a user's mana, with the balance after it."""

    balance_after = models.BigIntegerField(
        verbose_name=_("balance after"), help_text=_("The wallet's mana after this entry; never negative.")
    )

    class Meta(Entry.Meta):
        abstract = False
        verbose_name = _("mana entry")
        verbose_name_plural = _("mana entries")
        indexes = (models.Index(fields=["user", "id"], name="wishes_manaentry_user_id"),)
        constraints = (
            models.CheckConstraint(condition=~Q(amount=0), name="wishes_manaentry_amount_not_zero"),
            models.CheckConstraint(condition=Q(balance_after__gte=0), name="wishes_manaentry_balance_not_negative"),
            models.CheckConstraint(condition=Q(kind__in=EntryKind.values), name="wishes_manaentry_kind_known"),
            models.CheckConstraint(
                condition=(~Q(kind__in=["conversion", "earn", "opening"]) | Q(amount__gt=0))
                & (~Q(kind__in=["reversal", "spend"]) | Q(amount__lt=0)),
                name="wishes_manaentry_sign_of_kind",
            ),
            models.CheckConstraint(
                condition=Q(amount__lt=0) | Q(balance_after__gte=F("amount")),
                name="wishes_manaentry_balance_covers_credit",
            ),
        )


class WishEntry(Entry):
    """One signed, immutable change of an unmigrated user's wishes made through the wallet service."""

    colour = models.CharField(
        verbose_name=_("colour"), max_length=5, choices=[("green", _("Green")), ("blue", _("Blue")), ("red", _("Red"))]
    )
    balance_after = models.BigIntegerField(
        verbose_name=_("balance after"), help_text=_("The wallet's wishes of this colour after this entry.")
    )

    class Meta(Entry.Meta):
        abstract = False
        verbose_name = _("wish entry")
        verbose_name_plural = _("wish entries")
        indexes = (models.Index(fields=["user", "id"], name="wishes_wishentry_user_id"),)
        constraints = (
            models.CheckConstraint(condition=~Q(amount=0), name="wishes_wishentry_amount_not_zero"),
            models.CheckConstraint(
                condition=Q(kind="earn", amount__gt=0) | Q(kind="spend", amount__lt=0) | Q(kind="adjustment"),
                name="wishes_wishentry_sign_of_kind",
            ),
            models.CheckConstraint(
                condition=Q(colour__in=["green", "blue", "red"]), name="wishes_wishentry_colour_known"
            ),
        )
