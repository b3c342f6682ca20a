from __future__ import annotations

from django.apps import AppConfig


class ManaMigrationConfig(AppConfig):
    name = "mana_migration"
    verbose_name = "Mana migration"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mana_migration import checks  # noqa: F401, PLC0415 (registers the system checks)
