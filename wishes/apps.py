from __future__ import annotations

from django.apps import AppConfig


class WishesConfig(AppConfig):
    name = "wishes"
    verbose_name = "Wishes and mana"
    default_auto_field = "django.db.models.BigAutoField"
