from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy


class WishesConfig(AppConfig):
    name = "wishes"
    verbose_name = gettext_lazy("Wishes and mana")
    default_auto_field = "django.db.models.BigAutoField"
