from __future__ import annotations

from django.apps import AppConfig


class ManaMigrationConfig(AppConfig):
    name = "mana_migration"
    verbose_name = "Mana migration"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # models may be imported only now
        from mana_migration import checks, guards  # noqa: F401, PLC0415 (checks registers the system checks)
        from mana_migration.engine import sessions  # noqa: PLC0415
        from mana_migration.selectors.rates import rates_of_migrated  # noqa: PLC0415
        from mana_migration.services.lazy import convert_on_first_use  # noqa: PLC0415
        from wishes.hooks import hooks  # noqa: PLC0415

        sessions.install()
        hooks.before_spend = convert_on_first_use
        hooks.rates_of_migrated = rates_of_migrated
        hooks.more_guards = guards.statements
